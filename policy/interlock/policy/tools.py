"""Tools as they are registered: what is refused, what a replacement keeps, and their secrets."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from interlock.governance.errors import InternalError, InvalidRequestError
from interlock.governance.ids import new_id
from interlock.governance.tool_urls import HTTP_SCHEMES, SCHEMES, Address, is_grpc, problem_of_address, problem_of_url
from interlock.policy import upstream
from interlock.policy.model import AGENT_ID, TOOL_NAME, Sealed, Switch, Tool, ToolSecret
from interlock.policy.secrets import Keyring, mask_of

PULL = ("disabled_by_file", "disabled_reason", "disabled_at_ms", "disabled_by")
"""What is kept of a pulled switch."""
RISKS = ("low", "medium", "high")
GLOBAL_SCOPE = "global"
MIN_SECRET = 8
MAX_SECRET = 1024
MAX_TEXT = 512
MAX_URL = 2048
MAX_FIELDS = 64
DEFAULT_GRACE_S = 86_400
MAX_GRACE_S = 604_800
DAY_S = 86_400
TOKEN_URL = f"{upstream.FIELD}.token_url"

_METHOD = re.compile(r"[A-Z]{1,16}", re.ASCII)
RANGES = {
    "timeout_ms": (250, 120_000),
    "max_retries": (0, 10),
    "dedup_ttl_s": (1, 30 * DAY_S),
    "replay_max_bytes": (0, 1_048_576),
    "open_max_calls_per_minute": (1, 1_000),
    "reconcile_deadline_s": (60, 30 * DAY_S),
    "reconcile_timeout_ms": (250, 30_000),
}


@dataclass(frozen=True, slots=True)
class Secrets:
    """Secrets that come with a tool; None leaves what is stored."""

    signing: str | None = None
    grace_s: int = DEFAULT_GRACE_S
    credential: upstream.Given | None = None


Check = Callable[[Tool, Secrets], None]
"""Refuses what is no tool here, as `check` does with the settings of an engine."""


def check(tool: Tool, secrets: Secrets, *, allow_loopback: bool, allow_plaintext_tokens: bool = False) -> None:
    """Errors: InvalidRequestError `invalid_tool` that names the field."""
    if not TOOL_NAME.fullmatch(tool.name) or tool.name in (".", ".."):
        raise _invalid("name", "a tool's name is 1-128 of a-z A-Z 0-9 _ . : - and neither . nor ..")
    if tool.scope_id != GLOBAL_SCOPE and not _is_agent_scope(tool.scope_id):
        raise _invalid("scope_id", "scope_id is global or agent:<id>")
    check_url(tool.url, allow_loopback=allow_loopback)
    _check_grpc(tool, secrets)
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
    _check_credential(secrets.credential, allow_loopback=allow_loopback, allow_plaintext=allow_plaintext_tokens)


def _check_failing(tool: Tool, *, allow_loopback: bool) -> None:
    if tool.fails_open and tool.hold:
        raise _invalid("on_governance_failure", "a tool that must not be repeated (on_ambiguous: hold) cannot be open")
    if tool.reconcile_url and not tool.hold:
        raise _invalid("reconcile_url", "a reconcile_url is for tools with on_ambiguous: hold")
    if tool.reconcile_url:
        check_url(tool.reconcile_url, allow_loopback=allow_loopback, field="reconcile_url", schemes=HTTP_SCHEMES)


def check_url(url: str, *, allow_loopback: bool, field: str = "url", schemes: frozenset[str] = SCHEMES) -> None:
    """Refuses what is no absolute URL of these schemes, and addresses that must not be reached whoever asks.

    A host name is judged again by the sidecar when it connects: what it resolves to may change.
    """

    def problem_of(address: Address, _port: int) -> str | None:
        return problem_of_address(address, allow_loopback=allow_loopback)

    if len(url) > MAX_URL:
        raise _invalid(field, f"a URL has at most {MAX_URL} characters")
    if problem := problem_of_url(url, problem_of, schemes):
        raise _invalid(field, f"this URL is refused: {problem}")


def _check_grpc(tool: Tool, secrets: Secrets) -> None:
    """What means nothing to a gRPC call must not look as if it did."""
    if not is_grpc(tool.url):
        return
    if tool.methods != ("POST",):
        raise _invalid("methods", "a gRPC tool takes POST alone, as gRPC does")
    if tool.dedup_ignore:
        raise _invalid("dedup.ignore", "a gRPC tool's messages are known as bytes; no field of them can be ignored")
    header = upstream.header_of(secrets.credential).lower()
    if header.endswith("-bin") or header.startswith("grpc-"):
        raise _invalid("upstream_credential.header", "a gRPC tool's credential is text metadata, not -bin or grpc-")


def _check_secrets(secrets: Secrets) -> None:
    if secrets.signing is not None and not MIN_SECRET <= len(secrets.signing) <= MAX_SECRET:
        raise _invalid("auth.secret", f"a secret has {MIN_SECRET} to {MAX_SECRET} characters")
    if not 0 <= secrets.grace_s <= MAX_GRACE_S:
        raise _invalid("auth.grace_s", f"grace_s is 0 to {MAX_GRACE_S}")


def _check_credential(given: upstream.Given | None, *, allow_loopback: bool, allow_plaintext: bool) -> None:
    if given is None:
        return
    if given.oauth2 is not None:
        check_url(given.oauth2.token_url, allow_loopback=allow_loopback, field=TOKEN_URL, schemes=HTTP_SCHEMES)
    upstream.check(given, allow_plaintext=allow_plaintext)


def with_secrets(
    tool: Tool, secrets: Secrets, stored: Tool | None, *, namespace: str, keyring: Keyring, now_ms: int
) -> Tool:
    """The tool with its secrets sealed: new ones, those it keeps from `stored`, and a replaced one for its grace."""
    owner = owner_of(namespace, tool)
    # Every put moves what it keeps under the current master key, so an old key can be retired.
    before = stored.secrets if stored else ()
    kept = tuple(replace(secret, sealed=keyring.renewed(secret.sealed, owner)) for secret in before)
    if secrets.signing is not None:
        current = _opened(kept[0].sealed, owner, keyring) if kept else None
        if secrets.signing != current:
            graced = current is not None and secrets.grace_s > 0
            replaced = [replace(kept[0], until_ms=now_ms + secrets.grace_s * 1000)] if graced else []
            kept = (_secret(secrets.signing, owner, keyring), *replaced)
    sealed = replace(tool, secrets=kept, updated_at_ms=now_ms)
    return upstream.with_credential(sealed, secrets.credential, stored, owner, keyring)


def switched(tool: Tool, stored: Tool | None, *, enabled: bool | None, by: Switch, now_ms: int) -> Tool:
    """The tool with its kill switch as a hand has it, or (None) as it stands: on, unless it was pulled.

    Whatever a file says, what a hand pulled stays off until a hand lifts it. Pulled again, it keeps the time of the
    first pull.
    """
    if enabled or (enabled is None and (stored is None or stored.enabled)):
        return replace(tool, enabled=True, disabled_by_file=False, disabled_reason="", disabled_at_ms=0, disabled_by="")
    off = stored if stored is not None and not stored.enabled else None
    if enabled is None and off is not None:
        return pulled_as(tool, off)
    return replace(
        tool,
        enabled=False,
        disabled_by_file=False,
        disabled_reason=by.reason,
        disabled_at_ms=off.disabled_at_ms if off and off.disabled_at_ms else now_ms,
        disabled_by=by.changed_by,
        updated_at_ms=now_ms,
    )


def pulled_as(tool: Tool, other: Tool) -> Tool:
    """The tool, off as another is: by whom, why and since when."""
    return replace(tool, enabled=False, **{name: getattr(other, name) for name in PULL})


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
    return ToolSecret(new_id("sec"), mask_of(value), keyring.seal(value, owner))


def _opened(sealed: Sealed, owner: str, keyring: Keyring) -> str | None:
    """A stored secret, or None if its master key is gone: it can still be replaced then."""
    try:
        return keyring.open(sealed, owner)
    except InternalError:
        return None


def _is_agent_scope(scope_id: str) -> bool:
    kind, _, agent = scope_id.partition(":")
    return kind == "agent" and AGENT_ID.fullmatch(agent) is not None


def _invalid(field: str, message: str) -> InvalidRequestError:
    return InvalidRequestError("invalid_tool", message, field=field)
