"""Intercept: reads what an agent's request asks for, strictly, before anybody else hears of it."""

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Self

from interlock.governance.errors import InvalidRequestError, UnauthenticatedError
from interlock.governance.values import dataclass, replace
from interlock.proxy.call import WHOLE_DEADLINE, Call, Incoming
from interlock.proxy.money import micros_of
from interlock.proxy.request_errors import MissingKeyError
from interlock.proxy.settings import SidecarSettings

NAMESPACE_HEADER = "Interlock-Namespace"
MAX_KEY_BYTES = 256
MAX_SPEND_USD = 1_000_000
MAX_RUN_ID_LENGTH = 256

# Visible ASCII (RFC 9112 3.2), but no fragment, which has no place here, nor a backslash, some parsers' slash.
_TARGET = re.compile(r"/[!-\"$-\[\]-~]*")
# What a tool's server may decode to a separator, a NUL or another control character.
_HIDDEN = re.compile(r"%(2f|5c|[01][0-9a-f]|7f)", re.IGNORECASE)
_CONTROL = re.compile(r"%([01][0-9a-f]|7f)", re.IGNORECASE)
_RUNS = "/v1/runs/"
"""Behind it stands a name that callers choose, which goes to no tool: it may hold an encoded slash."""
_DOT_SEGMENT = re.compile(r"(\.|%2e){1,2}(;.*)?", re.IGNORECASE)
_NAMESPACE = re.compile(r"[a-z0-9-]{1,63}")
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_.:-]{1,128}")
_AGENT_ID = re.compile(r"[A-Za-z0-9_.@:-]{1,128}")
_RUN_ID = re.compile(rf"[\x21-\x7e]{{1,{MAX_RUN_ID_LENGTH}}}")
_SPEND = re.compile(r"[0-9]{1,32}(\.[0-9]{1,32})?([eE][+-]?[0-9]{1,3})?")
_BEARER = re.compile(r"bearer +(.+)", re.IGNORECASE)
_KEY = re.compile(r"[\x21-\x7e]{1,512}")
_SF_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')  # RFC 8941 3.3.3
_WAIT = re.compile(r'wait(\s*=\s*"?([0-9]{1,9})"?)?', re.IGNORECASE)  # RFC 7240 4.3


async def intercept(call: Call) -> Call:
    """Errors: InvalidRequestError, UnauthenticatedError, `busy`."""
    return replace(call, ask=await call.entrance.read(call.incoming))


def check_target(target: str) -> None:
    """Refuses a raw request target in which two parsers could see two paths. Errors: `invalid_path`."""
    path = target.partition("?")[0]
    if not _TARGET.fullmatch(target):
        raise InvalidRequestError("invalid_path", "the request target is not a path of visible ASCII characters")
    if "%" in path and (_CONTROL if path.startswith(_RUNS) else _HIDDEN).search(path):
        raise InvalidRequestError("invalid_path", "the path holds an encoded slash, backslash or control character")
    dots = "/." in path or "/%" in path
    if dots and any(_DOT_SEGMENT.fullmatch(segment) for segment in path.split("/")):
        raise InvalidRequestError("invalid_path", "the path holds a dot segment")


def tool_name(name: str) -> str:
    """Errors: `invalid_path` for what is no name of a tool."""
    if not _TOOL_NAME.fullmatch(name) or name in (".", ".."):
        raise InvalidRequestError("invalid_path", "the path holds no name of a tool: 1-128 of a-z A-Z 0-9 _ . : -")
    return name


def bearer_key(values: Sequence[str]) -> str:
    """The bearer key (RFC 6750 2.1) in a request's Authorization fields.

    Errors: `missing_key` (there is none), `invalid_key` (it cannot be one, or there are two).
    """
    if len(values) > 1:
        raise UnauthenticatedError("invalid_key", "Authorization stands more than once")
    found = _BEARER.fullmatch(values[0].strip()) if values else None
    if found is None:
        raise MissingKeyError
    if not _KEY.fullmatch(found[1]):
        raise UnauthenticatedError("invalid_key", "Authorization holds no key of Interlock")
    return found[1]


def named_namespace(values: Sequence[str]) -> str:
    """The namespace in a request's Interlock-Namespace fields, empty without one. Errors: `invalid_header`."""
    if not values:
        return ""
    name = values[0].strip()
    if len(values) > 1 or not _NAMESPACE.fullmatch(name):
        message = f"{NAMESPACE_HEADER} must stand once and match {_NAMESPACE.pattern}"
        raise InvalidRequestError("invalid_header", message, field=f"header.{NAMESPACE_HEADER}")
    return name


@dataclass(frozen=True, slots=True)
class OwnIdentity:
    """Whom a sidecar makes calls as that do not say so themselves; nothing of it where it is empty."""

    key: str = ""
    agent_id: str = ""

    @classmethod
    def of(cls, settings: SidecarSettings) -> Self:
        return cls(settings.agent_key.get_secret_value() if settings.agent_key else "", settings.agent_id)


class RequestFields:
    """The header fields of a request that speak to Interlock."""

    def __init__(self, incoming: Incoming) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in incoming.headers:
            self._values.setdefault(name.lower(), []).append(value.strip())

    def all(self, name: str) -> Sequence[str]:
        return self._values.get(name.lower(), ())

    def one(self, name: str, reason: str = "invalid_header") -> str:
        """The field's value, empty if it is absent. Errors: `reason` if it stands more than once or is empty."""
        values = self._values.get(name.lower())
        if values is None:
            return ""
        if len(values) > 1:
            raise InvalidRequestError(reason, f"{name} stands more than once", field=f"header.{name}")
        if values == [""]:
            raise InvalidRequestError(reason, f"{name} is empty", field=f"header.{name}")
        return values[0]

    def credential(self, own: str) -> str:
        """The bearer key, or, without any Authorization, the sidecar's `own`: a bad one is not downgraded.

        Errors: `missing_key`, `invalid_key`; `invalid_header` if a namespace is named.
        """
        if self.all(NAMESPACE_HEADER):
            message = f"{NAMESPACE_HEADER} is for operators' routes: a call is made in the namespace of its key"
            raise InvalidRequestError("invalid_header", message, field=f"header.{NAMESPACE_HEADER}")
        values = self.all("Authorization")
        return bearer_key(values) if values or not own else own

    def agent_id(self, own: str = "") -> str:
        """Whom the caller names, or, without a name, the sidecar's `own`. Errors: `invalid_header`."""
        return self._matching("Interlock-Agent", _AGENT_ID) or own

    def run_id(self) -> str:
        """Errors: `invalid_header`."""
        return self._matching("Interlock-Run-Id", _RUN_ID)

    def idempotency_key(self) -> str:
        """The caller's key, quoted as draft-ietf-httpapi-idempotency-key-header has it, or bare.

        Errors: `invalid_idempotency_key`.
        """
        value = self.one("Idempotency-Key", "invalid_idempotency_key")
        if value.startswith('"'):
            quoted = _SF_STRING.fullmatch(value)
            value = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else ""
        elif not value:
            return ""
        if not 1 <= len(_utf8(value)) <= MAX_KEY_BYTES:
            raise InvalidRequestError(
                "invalid_idempotency_key",
                f"Idempotency-Key must be 1-{MAX_KEY_BYTES} bytes of UTF-8, bare or a quoted string",
                field="header.Idempotency-Key",
            )
        return value

    def spend_micros(self) -> int:
        """What the caller says it will spend, micro-USD, rounded up. Errors: `invalid_spend`."""
        value = self.one("Interlock-Spend-Usd", "invalid_spend")
        if not value:
            return 0
        usd = _decimal(value) if _SPEND.fullmatch(value) else None
        if usd is None or usd > MAX_SPEND_USD:
            raise InvalidRequestError(
                "invalid_spend",
                f"Interlock-Spend-Usd must be a decimal number from 0 to {MAX_SPEND_USD}",
                field="header.Interlock-Spend-Usd",
            )
        return micros_of(usd)

    def wait_s(self) -> float:
        """The `wait` of Prefer (RFC 7240 4.3): bare, as long as the tool may take; malformed, as if absent."""
        if not (values := self.all("Prefer")):
            return 0.0
        for preference in ",".join(values).split(","):
            if found := _WAIT.fullmatch(preference.partition(";")[0].strip()):
                return float(found[2]) if found[2] else WHOLE_DEADLINE
        return 0.0

    def _matching(self, name: str, pattern: re.Pattern[str]) -> str:
        value = self.one(name)
        if value and not pattern.fullmatch(value):
            raise InvalidRequestError("invalid_header", f"{name} must match {pattern.pattern}", field=f"header.{name}")
        return value


def _utf8(value: str) -> bytes:
    """The bytes of a header value, or none if they were not UTF-8 on the wire."""
    try:
        return value.encode()
    except UnicodeEncodeError:
        return b""


def _decimal(value: str) -> Decimal | None:
    try:
        return Decimal(value)
    except InvalidOperation:
        return None
