"""Which header fields pass between agent and tool. What speaks for Interlock is written by Interlock alone."""

import re
from collections.abc import Iterable

from interlock.governance.errors import InvalidRequestError

Fields = list[tuple[str, str]]

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token, RFC 9110 5.6.2
_UNSAFE_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")  # RFC 9110 5.5; surrogates are bytes not in UTF-8

# Of one connection, not of the message: RFC 9110 7.6.1.
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"},
)
_OURS = ("interlock-", "x-onceonly-", "webhook-", "proxy-")
_SIGNATURES = frozenset({"signature", "signature-input"})

_NOT_FORWARDED = (
    _HOP_BY_HOP
    | _SIGNATURES
    | {
        "content-digest",
        "idempotency-key",
        # Written anew for the tool's connection.
        "host",
        "content-length",
        "expect",
        # The agent's credentials. To its cookie jar all tools are one host, so a cookie could be another tool's.
        "authorization",
        "cookie",
        # Claims about who is calling, which a tool may trust from a proxy.
        "forwarded",
        "x-real-ip",
        # What a tool may take for another method or path than those that were judged.
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
        "x-original-url",
        "x-rewrite-url",
    }
)
_NOT_RETURNED = (
    _HOP_BY_HOP
    | _SIGNATURES
    | {
        "idempotent-replayed",
        # Invites the agent's client to reach the tool's host past this sidecar.
        "alt-svc",
    }
)


def forwardable(headers: Iterable[tuple[str, str]]) -> Fields:
    """The fields of an agent's request that its tool may see, in order.

    Errors: `invalid_header` for a name or value that could break out of its line.
    """
    fields = list(headers)
    for name, value in fields:
        if not _is_safe(name, value):
            raise InvalidRequestError("invalid_header", f"the header {name[:64]!a} is malformed", field="headers")
    kept = _without(fields, _NOT_FORWARDED, (*_OURS, "x-forwarded-"))
    return [field for field in map(_without_wait, kept) if field[1] or field[0].lower() != "prefer"]


def returnable(headers: Iterable[tuple[str, str]]) -> Fields:
    """The fields of a tool's answer that its agent may see, in order; a malformed one is left out."""
    fields = [field for field in headers if _is_safe(*field)]
    return _without(fields, _NOT_RETURNED, (*_OURS, "ratelimit"))


def _is_safe(name: str, value: str) -> bool:
    return _NAME.fullmatch(name) is not None and _UNSAFE_VALUE.search(value) is None


def _without(fields: Fields, names: frozenset[str], prefixes: tuple[str, ...]) -> Fields:
    connection = ",".join(value for name, value in fields if name.lower() == "connection")
    dropped = names | {as_read(option.strip()) for option in connection.split(",")}
    return [field for field in fields if (name := as_read(field[0])) not in dropped and not name.startswith(prefixes)]


def as_read(name: str) -> str:
    """A name as a tool may read it: CGI and WSGI cannot tell `_` from `-`."""
    return name.lower().replace("_", "-")


def _without_wait(field: tuple[str, str]) -> tuple[str, str]:
    """`Prefer` less the `wait` that is meant for us (RFC 7240 4.3); other fields as they are."""
    name, value = field
    if name.lower() != "prefer":
        return field
    preferences = (preference.strip() for preference in value.split(","))
    return name, ", ".join(p for p in preferences if p.partition("=")[0].strip().lower() != "wait")
