"""Tools as they are registered: what is refused, what a replacement keeps, and their secrets."""

import ipaddress
import re
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from interlock.governance.errors import InternalError, InvalidRequestError
from interlock.policy import credentials
from interlock.policy.model import AGENT_ID, TOOL_NAME, Tool, ToolSecret
from interlock.policy.secrets import Keyring

RISKS = ("low", "medium", "high")
GLOBAL_SCOPE = "global"
MIN_SECRET = 8
MAX_SECRET = 1024
LONG_SECRET = 24
MAX_TEXT = 512
MAX_URL = 2048
MAX_FIELDS = 64
DEFAULT_GRACE_S = 86_400
MAX_GRACE_S = 604_800
DAY_S = 86_400

_METHOD = re.compile(r"[A-Z]{1,16}", re.ASCII)
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}", re.ASCII)
_HEADER_VALUE = re.compile(r"[\x20-\x7e\x80-\xff\t]{0,8192}")
_NUMERIC_HOST = re.compile(r"(0x[0-9a-f]*|\d+)(\.(0x[0-9a-f]*|\d+))*", re.ASCII | re.IGNORECASE)
RANGES = {
    "timeout_ms": (250, 120_000),
    "max_retries": (0, 10),
    "dedup_ttl_s": (1, 30 * DAY_S),
    "replay_max_bytes": (0, 1_048_576),
    "open_max_calls_per_minute": (1, 1_000),
    "reconcile_deadline_s": (60, 30 * DAY_S),
    "reconcile_timeout_ms": (250, 30_000),
}
# Header fields that say where a message goes and where it ends (RFC 9110 7, RFC 9112 6).
FRAMING = frozenset(
    ("host", "content-length", "transfer-encoding", "te", "trailer", "connection", "upgrade", "expect", "keep-alive")
)
_OURS = re.compile(
    r"idempotency-key|content-digest|signature|signature-input|(interlock|x-onceonly|webhook)-.*", re.IGNORECASE
)
# Addresses of cloud metadata services that are not link-local.
METADATA = frozenset({ipaddress.ip_address("100.100.100.200"), ipaddress.ip_address("fd00:ec2::254")})


@dataclass(frozen=True, slots=True)
class Secrets:
    """Secrets that come with a tool; None leaves what is stored. An upstream header of "" removes the credential."""

    signing: str | None = None
    grace_s: int = DEFAULT_GRACE_S
    upstream_header: str | None = None
    upstream_value: str = ""


def check(tool: Tool, secrets: Secrets, *, allow_loopback: bool) -> None:
    """Errors: InvalidRequestError `invalid_tool` that names the field."""
    if not TOOL_NAME.fullmatch(tool.name) or tool.name in (".", ".."):
        raise _invalid("name", "a tool's name is 1-128 of a-z A-Z 0-9 _ . : - and neither . nor ..")
    if tool.scope_id != GLOBAL_SCOPE and not _is_agent_scope(tool.scope_id):
        raise _invalid("scope_id", "scope_id is global or agent:<id>")
    check_url(tool.url, allow_loopback=allow_loopback)
    for name, (least, most) in RANGES.items():
        if not least <= getattr(tool, name) <= most:
            raise _invalid(name, f"{name} is {least} to {most}")
    if not tool.methods or not all(_METHOD.fullmatch(method) for method in tool.methods):
        raise _invalid("methods", "methods are upper-case names such as POST")
    if "CONNECT" in tool.methods:
        raise _invalid("methods", "CONNECT cannot be governed")
    if tool.risk not in RISKS:
        raise _invalid("risk", "risk is low, medium or high")
    if len(tool.description) > MAX_TEXT:
        raise _invalid("description", f"a description has at most {MAX_TEXT} characters")
    if len(tool.dedup_ignore) > MAX_FIELDS or not all(0 < len(name) <= MAX_TEXT for name in tool.dedup_ignore):
        raise _invalid("dedup.ignore", f"at most {MAX_FIELDS} field names")
    _check_failing(tool, allow_loopback=allow_loopback)
    _check_secrets(secrets)


def _check_failing(tool: Tool, *, allow_loopback: bool) -> None:
    if tool.fails_open and tool.hold:
        raise _invalid("on_governance_failure", "a tool that must not be repeated (on_ambiguous: hold) cannot be open")
    if tool.reconcile_url and not tool.hold:
        raise _invalid("reconcile_url", "a reconcile_url is for tools with on_ambiguous: hold")
    if tool.reconcile_url:
        check_url(tool.reconcile_url, allow_loopback=allow_loopback, field="reconcile_url")


def check_url(url: str, *, allow_loopback: bool, field: str = "url") -> None:
    """Refuses what is not plain http(s), and addresses that must not be reached whoever asks.

    A host name is judged again by the sidecar when it connects: what it resolves to may change.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise _invalid(field, "this is not a URL") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _invalid(field, "a tool's URL is http:// or https:// with a host")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise _invalid(field, "a tool's URL has no user info and no fragment")
    if len(url) > MAX_URL or not url.isascii() or any(char <= " " or char == "\\" for char in url):
        raise _invalid(field, f"a tool's URL is printable ASCII of at most {MAX_URL} characters")
    _check_host(parts.hostname.rstrip("."), field, allow_loopback=allow_loopback)


def _check_host(host: str, field: str, *, allow_loopback: bool) -> None:
    if host == "localhost" or host.endswith(".localhost"):
        if not allow_loopback:
            raise _invalid(field, "loopback tools are not allowed here")
        return
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        if _NUMERIC_HOST.fullmatch(host):
            raise _invalid(field, "an IPv4 address is written with four decimal parts") from error
        return
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    if address.is_link_local or address in METADATA or address.is_multicast or address.is_unspecified:
        raise _invalid(field, "link-local, metadata and multicast addresses are no tools")
    if address.is_loopback and not allow_loopback:
        raise _invalid(field, "loopback tools are not allowed here")


def _check_secrets(secrets: Secrets) -> None:
    if secrets.signing is not None and not MIN_SECRET <= len(secrets.signing) <= MAX_SECRET:
        raise _invalid("auth.secret", f"a secret has {MIN_SECRET} to {MAX_SECRET} characters")
    if not 0 <= secrets.grace_s <= MAX_GRACE_S:
        raise _invalid("auth.grace_s", f"grace_s is 0 to {MAX_GRACE_S}")
    if secrets.upstream_header:
        if not _HEADER.fullmatch(secrets.upstream_header):
            raise _invalid("upstream_credential.header", "this is no header name")
        if secrets.upstream_header.lower() in FRAMING:
            raise _invalid("upstream_credential.header", "this header frames the message, it is no credential")
        if _OURS.fullmatch(secrets.upstream_header):
            raise _invalid("upstream_credential.header", "this header is Interlock's own word to the tool")
        if not _HEADER_VALUE.fullmatch(secrets.upstream_value):
            raise _invalid("upstream_credential.value", "a header's value is one line")


def with_secrets(
    tool: Tool, secrets: Secrets, stored: Tool | None, *, namespace: str, keyring: Keyring, now_ms: int
) -> Tool:
    """The tool with its secrets sealed: new ones, those it keeps from `stored`, and a replaced one for its grace."""
    owner = owner_of(namespace, tool)
    # Every put moves what it keeps under the current master key, so an old key can be retired.
    before = stored.secrets if stored else ()
    kept = tuple(replace(secret, sealed=keyring.renewed(secret.sealed, owner)) for secret in before)
    if secrets.signing is not None:
        current = _readable(kept[0], owner, keyring) if kept else None
        if secrets.signing != current:
            graced = current is not None and secrets.grace_s > 0
            replaced = [replace(kept[0], until_ms=now_ms + secrets.grace_s * 1000)] if graced else []
            kept = (_secret(secrets.signing, owner, keyring), *replaced)
    header, value = (stored.upstream_header, stored.upstream_value) if stored else ("", None)
    if value is not None:
        value = keyring.renewed(value, owner)
    if secrets.upstream_header is not None:
        header = secrets.upstream_header
        value = keyring.seal(secrets.upstream_value, owner) if header else None
    return replace(tool, secrets=kept, upstream_header=header, upstream_value=value, updated_at_ms=now_ms)


def toggled(tool: Tool, *, enabled: bool, now_ms: int) -> Tool:
    return replace(tool, enabled=enabled, updated_at_ms=now_ms)


def signing_secrets(tool: Tool, owner: str, keyring: Keyring, now_ms: int) -> list[str]:
    """The secrets that sign now: the current one first, then one in its grace."""
    return [
        keyring.open(secret.sealed, owner) for secret in tool.secrets if not secret.until_ms or secret.until_ms > now_ms
    ]


def owner_of(namespace: str, tool: Tool) -> str:
    """What a tool's secrets are bound to."""
    return f"{namespace}/{tool.scope_id}/{tool.name}"


def _secret(value: str, owner: str, keyring: Keyring) -> ToolSecret:
    # Random: an id computed from the secret would let whoever sees it try guesses without us.
    return ToolSecret(credentials.new_id("sec"), _mask(value), keyring.seal(value, owner))


def _mask(value: str) -> str:
    """The last four characters, of secrets so long that these tell nothing."""
    return "•••• " + value[-4:] if len(value) >= LONG_SECRET else "••••"


def _readable(secret: ToolSecret, owner: str, keyring: Keyring) -> str | None:
    """A stored secret, or None if its master key is gone: it can still be replaced then."""
    try:
        return keyring.open(secret.sealed, owner)
    except InternalError:
        return None


def _is_agent_scope(scope_id: str) -> bool:
    kind, _, agent = scope_id.partition(":")
    return kind == "agent" and AGENT_ID.fullmatch(agent) is not None


def _invalid(field: str, message: str) -> InvalidRequestError:
    return InvalidRequestError("invalid_tool", message, field=field)
