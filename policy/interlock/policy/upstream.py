"""A tool's own credential, which its agents never see: what is refused, what a replacement keeps, what sidecars get."""

import ipaddress
import re
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from interlock.governance.errors import InvalidRequestError
from interlock.governance.injectable import why_not_injectable
from interlock.policy.model import OAuth2, Sealed, Tool
from interlock.policy.secrets import Keyring, mask_of

FIELD = "upstream_credential"
MAX_SECRET = 4096
MAX_PARAMS = 16
MAX_TEXT = 1024

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}", re.ASCII)
_HEADER_VALUE = re.compile(r"[\x20-\x7e\x80-\xff\t]{0,8192}")
_SCHEME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{0,64}", re.ASCII)
_VISIBLE = re.compile(r"[\x20-\x7e]*", re.ASCII)  # VSCHAR, RFC 6749 appendix A
# What the grant itself says (RFC 6749 4.4.2, 2.3.1), and what has a field of its own.
_OWN_PARAMS = frozenset(
    ("grant_type", "scope", "audience", "client_id", "client_secret", "client_assertion", "client_assertion_type")
)


@dataclass(frozen=True, slots=True)
class Given:
    """A credential as it was put: a header and its value, or how a token is had and the client's secret.

    A client secret of None keeps the stored one. With neither a header nor `oauth2` the credential is removed.
    """

    header: str = ""
    value: str = field(default="", repr=False)
    oauth2: OAuth2 | None = None
    client_secret: str | None = field(default=None, repr=False)


def header_of(given: Given | None) -> str:
    """The header that a credential would stand in, or empty."""
    if given is None:
        return ""
    return given.oauth2.header if given.oauth2 is not None else given.header


def check(given: Given, *, allow_plaintext: bool) -> None:
    """Errors: InvalidRequestError `invalid_tool` that names the field. Not judged here: where a token URL leads."""
    if given.oauth2 is not None:
        _check_oauth2(given.oauth2, given.client_secret, allow_plaintext=allow_plaintext)
    elif given.header:
        _check_header(given.header)
        if not _HEADER_VALUE.fullmatch(given.value):
            raise _invalid("value", "a header's value is one line")


def _check_header(header: str) -> None:
    if not _HEADER.fullmatch(header):
        raise _invalid("header", "this is no header name")
    if why_not := why_not_injectable(header):
        raise _invalid("header", why_not)


def _check_oauth2(oauth2: OAuth2, client_secret: str | None, *, allow_plaintext: bool) -> None:
    _check_header(oauth2.header)
    if not _SCHEME.fullmatch(oauth2.scheme):
        raise _invalid("scheme", "a scheme is one word such as Bearer, or empty")
    if not allow_plaintext and _is_plaintext(oauth2.token_url):
        raise _invalid("token_url", "a token URL is https://: the client's secret goes there (RFC 6749 3.2)")
    if not 1 <= len(oauth2.client_id) <= MAX_TEXT or not _VISIBLE.fullmatch(oauth2.client_id):
        raise _invalid("client_id", f"a client id is 1 to {MAX_TEXT} printable ASCII characters")
    if client_secret is not None and not (1 <= len(client_secret) <= MAX_SECRET and _VISIBLE.fullmatch(client_secret)):
        raise _invalid("client_secret", f"a client secret is 1 to {MAX_SECRET} printable ASCII characters")
    for name in ("scope", "audience"):
        text = getattr(oauth2, name)
        if len(text) > MAX_TEXT or not _VISIBLE.fullmatch(text):
            raise _invalid(name, f"at most {MAX_TEXT} printable ASCII characters")
    _check_params(oauth2.params)


def _check_params(params: tuple[tuple[str, str], ...]) -> None:
    if len(params) > MAX_PARAMS:
        raise _invalid("params", f"at most {MAX_PARAMS} further parameters")
    for name, value in params:
        if not 1 <= len(name) <= MAX_TEXT or len(value) > MAX_TEXT or not _VISIBLE.fullmatch(name + value):
            raise _invalid("params", f"a parameter is up to {MAX_TEXT} printable ASCII characters")
        if name in _OWN_PARAMS:
            raise _invalid("params", f"{name} is set by the grant or by a field of its own")


def _is_plaintext(url: str) -> bool:
    """Whether the secret would cross a network in the clear."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme == "https" or host == "localhost" or host.endswith(".localhost"):
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def with_credential(tool: Tool, given: Given | None, stored: Tool | None, owner: str, keyring: Keyring) -> Tool:
    """The tool with its credential sealed. None keeps what is stored, under the current master key.

    Errors: InvalidRequestError if a client secret is to be kept that was not stored for that client and endpoint.
    """
    if given is None:
        return tool if stored is None else _kept(tool, stored, owner, keyring)
    if given.oauth2 is not None:
        return _with_token(tool, given.oauth2, given.client_secret, stored, owner, keyring)
    if not given.header:
        return replace(tool, upstream_header="", upstream_value=None, upstream_oauth2=None, upstream_mask="")
    return replace(
        tool,
        upstream_header=given.header,
        upstream_value=keyring.sealed(given.value, owner, stored.upstream_value if stored else None),
        upstream_oauth2=None,
        upstream_mask=mask_of(given.value),
    )


def opened(tool: Tool, owner: str, keyring: Keyring) -> str:
    """The credential's secret: a header's value or a client's secret; empty without one. Errors: as `Keyring.open`."""
    if tool.upstream_oauth2 is not None and tool.upstream_oauth2.secret is not None:
        return keyring.open(tool.upstream_oauth2.secret, _place(owner, tool.upstream_oauth2))
    return keyring.open(tool.upstream_value, owner) if tool.upstream_value else ""


def _with_token(
    tool: Tool, oauth2: OAuth2, secret: str | None, stored: Tool | None, owner: str, keyring: Keyring
) -> Tool:
    place = _place(owner, oauth2)
    if secret is not None:
        before = stored.upstream_oauth2 if stored else None
        sealed, mask = keyring.sealed(secret, place, before.secret if before else None), mask_of(secret)
    else:
        sealed, mask = _stored_secret(oauth2, stored, place, keyring)
    return replace(
        tool,
        upstream_header="",  # a version that knows no tokens then injects nothing
        upstream_value=None,
        upstream_oauth2=replace(oauth2, secret=sealed),
        upstream_mask=mask,
    )


def _stored_secret(oauth2: OAuth2, stored: Tool | None, place: str, keyring: Keyring) -> tuple[Sealed, str]:
    before = stored.upstream_oauth2 if stored else None
    same = before is not None and (before.token_url, before.client_id) == (oauth2.token_url, oauth2.client_id)
    if stored is None or before is None or before.secret is None or not same:
        raise _invalid("client_secret", "a client secret is needed: none is stored for this client and token URL")
    return keyring.renewed(before.secret, place), stored.upstream_mask


def _kept(tool: Tool, stored: Tool, owner: str, keyring: Keyring) -> Tool:
    value, oauth2 = stored.upstream_value, stored.upstream_oauth2
    if oauth2 is not None and oauth2.secret is not None:
        oauth2 = replace(oauth2, secret=keyring.renewed(oauth2.secret, _place(owner, oauth2)))
    return replace(
        tool,
        upstream_header=stored.upstream_header,
        upstream_value=keyring.renewed(value, owner) if value is not None else None,
        upstream_oauth2=oauth2,
        upstream_mask=stored.upstream_mask,
    )


def _place(owner: str, oauth2: OAuth2) -> str:
    """What a client's secret is bound to: who can write to Redis cannot have it sent elsewhere."""
    return f"{owner} {oauth2.token_url}"


def _invalid(name: str, message: str) -> InvalidRequestError:
    return InvalidRequestError("invalid_tool", message, field=f"{FIELD}.{name}")
