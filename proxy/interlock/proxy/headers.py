"""Which header fields pass between agent and tool. What speaks for Interlock is written by Interlock alone."""

import re
from collections.abc import Iterable
from functools import lru_cache

from interlock.governance.errors import InvalidRequestError

Fields = list[tuple[str, str]]

SHORT = 64

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
_NOT_FORWARDED_BEGINNINGS = (*_OURS, "x-forwarded-")
_NOT_RETURNED = (
    _HOP_BY_HOP
    | _SIGNATURES
    | {
        "idempotent-replayed",
        # Invites the agent's client to reach the tool's host past this sidecar.
        "alt-svc",
    }
)
_NOT_RETURNED_BEGINNINGS = (*_OURS, "ratelimit")


def forwardable(headers: Iterable[tuple[str, str]]) -> Fields:
    """The fields of an agent's request that its tool may see, in order.

    Errors: `invalid_header` for a name or value that could break out of its line.
    """
    fields = _read(headers)
    for read, name, _ in fields:
        if not read:
            raise InvalidRequestError("invalid_header", f"the header {name[:64]!a} is malformed", field="headers")
    kept = _without(fields, _NOT_FORWARDED, _NOT_FORWARDED_BEGINNINGS)
    if not [read for read, _, _ in fields if read == "prefer"]:
        return kept
    return [field for field in map(_without_wait, kept) if field[1] or field[0].lower() != "prefer"]


def returnable(headers: Iterable[tuple[str, str]]) -> Fields:
    """The fields of a tool's answer that its agent may see, in order; a malformed one is left out."""
    fields = [field for field in _read(headers) if field[0]]
    return _without(fields, _NOT_RETURNED, _NOT_RETURNED_BEGINNINGS)


def _read(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Each field behind its name as a tool may read it: empty, if the field could break out of its line."""
    return [
        ("" if _UNSAFE_VALUE.search(value) else _known(name) if len(name) <= SHORT else _as_safe(name), name, value)
        for name, value in headers
    ]


def _as_safe(name: str) -> str:
    return as_read(name) if _NAME.fullmatch(name) else ""


_known = lru_cache(1024)(_as_safe)
"""The same few names come with every call. Only short ones are remembered, as anybody may think some up."""


def _without(fields: list[tuple[str, str, str]], names: frozenset[str], prefixes: tuple[str, ...]) -> Fields:
    for read, _, value in fields:
        if read == "connection":
            names |= {as_read(option.strip()) for option in value.split(",")}
    return [(name, value) for read, name, value in fields if read not in names and not read.startswith(prefixes)]


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
