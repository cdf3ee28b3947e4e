"""Errors as the OnceOnly contract has them: `{"detail": …}`, a string, an object or, for 422, pydantic's list.

The stock client takes every 401, and every 403 but `feature_not_available`, for an invalid key; so a 403 here is about
the key and what it reaches, and says so in `detail`. A call refused by policy is no error and never comes here.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog
from aiohttp import web
from grpc import aio

from interlock.governance.errors import InterlockError, InvalidRequestError, Kind
from interlock.governance.status import error_of

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

STATUS = {
    Kind.INVALID: 422,
    Kind.UNAUTHENTICATED: 403,
    Kind.DENIED: 403,
    Kind.NOT_FOUND: 404,
    Kind.CONFLICT: 409,
    Kind.EXHAUSTED: 429,
    Kind.UNAVAILABLE: 503,
    Kind.INTERNAL: 500,
}
STATUS_OF_REASON = {
    "missing_key": 401,
    "payment_required": 402,
    "request_timeout": 408,
    "body_too_large": 413,
    # The stock client takes every other 403 for an invalid key. 409 would tell it that a key is locked.
    "kill_switch": 423,
    "agent_disabled": 423,
    # Nothing about a value: the request is not for this server, or not for any.
    "expectation_failed": 417,
    "host_not_allowed": 421,
    "invalid_path": 400,
}
RETRY_AFTER_S = {Kind.EXHAUSTED: 1, Kind.UNAVAILABLE: 1}
"""When to come back to what does not say itself."""
MAX_FINDINGS = 20
"""So many invalid values are told: an answer must not outgrow the request that it refuses."""
PARTS = frozenset({"body", "query", "path", "header"})
"""Where the offending value of a request may stand: the first element of an invalid field's `loc`."""


@dataclass(frozen=True, slots=True)
class InvalidField:
    """One invalid value, as pydantic and so the contract tell it. `input` must not hold a secret."""

    type: str
    loc: Sequence[str | int]
    msg: str
    input: object = None

    def as_json(self) -> dict[str, object]:
        return {"type": self.type, "loc": list(self.loc), "msg": self.msg, "input": self.input}


class InvalidFieldsError(InvalidRequestError):
    """Values of the request are missing or impossible; `fields` names the first `MAX_FINDINGS`, and counts the rest."""

    def __init__(self, fields: Sequence[InvalidField]) -> None:
        if (more := len(fields) - MAX_FINDINGS) > 0:
            fields = [*fields[:MAX_FINDINGS], InvalidField("more", fields[0].loc[:1], f"and {more} more")]
        super().__init__("invalid_request", "; ".join(field.msg for field in fields))
        self.fields = fields


@web.middleware
async def v1_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns whatever a handler under `/v1` raises into the contract's answer. Other paths have their own shapes."""
    if not request.path.startswith("/v1/"):
        return await handler(request)
    try:
        return await handler(request)
    except InterlockError as error:
        return answer_of(error)
    except aio.AioRpcError as failed:
        return answer_of(error_of(failed))
    except web.HTTPException as raised:
        return _answer(raised.status, raised.reason, _routing_headers(raised))
    except Exception:
        log.exception("request.failed", method=request.method, path=request.path)
        return _answer(500, {"error": "internal", "message": "internal error"})


def answer_of(error: InterlockError) -> web.Response:
    """The answer for an error of the house."""
    status = _status(error)
    again = error.kind in RETRY_AFTER_S and status != 402
    headers = {"Retry-After": str(error.retry_in_s or RETRY_AFTER_S[error.kind])} if again else {}
    return _answer(status, _detail(error), headers)


def _status(error: InterlockError) -> int:
    return STATUS_OF_REASON.get(error.reason, STATUS[error.kind])


def _detail(error: InterlockError) -> object:
    if error.kind is Kind.UNAUTHENTICATED:
        return "Missing Authorization Bearer token" if error.reason == "missing_key" else "Invalid API key"
    if isinstance(error, InvalidFieldsError):
        return [field.as_json() for field in error.fields]
    if _status(error) == 422:
        return [InvalidField(error.reason, _location(error.metadata.get("field", "")), error.message).as_json()]
    return {"error": error.reason, "message": error.message, **_quota(error)}


def _quota(error: InterlockError) -> dict[str, object]:
    """What the contract tells of a plan: its name, and with a limit the numbers."""
    told: dict[str, object] = {"plan": error.metadata["plan"]} if "plan" in error.metadata else {}
    return told | {name: int(error.metadata[name]) for name in ("limit", "usage") if name in error.metadata}


def _location(field: str) -> list[str]:
    """`pricing_rules.tool`, as the engine names a field, is to be found in the body."""
    path = field.split(".") if field else []
    return path if path and path[0] in PARTS else ["body", *path]


def _routing_headers(raised: web.HTTPException) -> dict[str, str]:
    """What aiohttp's own 405 must carry (RFC 9110, 15.5.6)."""
    return {"Allow": raised.headers["Allow"]} if "Allow" in raised.headers else {}


def _answer(status: int, detail: object, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"detail": detail}, status=status, headers=headers)
