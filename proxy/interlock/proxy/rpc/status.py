"""gRPC's status codes: what a tool's means for its call, and which one tells an agent what became of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from interlock.governance.status import DOMAIN
from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.call import Headers, Outcome
from interlock.proxy.problems import Problem, budget_left
from interlock.proxy.rpc.metadata import DETAILS, fields_of, metadata_of

Code = grpc.StatusCode

STATUS = "grpc-status"
MESSAGE = "grpc-message"

# The tool says that it did not act. Every other status may follow an effect: a time-out and a lost connection by their
# nature, INTERNAL, UNKNOWN and DATA_LOSS because they say that something broke in the midst, CANCELLED and ABORTED
# because nobody can tell how far a call had come when it was stopped.
REJECTED = frozenset(
    {
        Code.INVALID_ARGUMENT,
        Code.NOT_FOUND,
        Code.ALREADY_EXISTS,
        Code.PERMISSION_DENIED,
        Code.FAILED_PRECONDITION,
        Code.OUT_OF_RANGE,
        Code.UNIMPLEMENTED,
        Code.UNAUTHENTICATED,
        Code.RESOURCE_EXHAUSTED,
    }
)
HTTP_STATUS = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.UNAUTHENTICATED: 401,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
}
"""The HTTP equivalents that google/rpc/code.proto names: what the record calls a call's status."""

# By reason where the HTTP status would say too little. UNAVAILABLE is only said where nothing was sent: clients are
# known to repeat it by themselves. NOT_FOUND and the like are left to the tool, whose words an agent may act upon.
CODE_OF_REASON = {
    "tool_not_found": Code.UNIMPLEMENTED,
    "tool_is_http": Code.UNIMPLEMENTED,
    "tool_is_service": Code.UNIMPLEMENTED,
    "subpath_not_allowed": Code.UNIMPLEMENTED,
    "client_streaming": Code.UNIMPLEMENTED,
    "missing_key": Code.UNAUTHENTICATED,
    "invalid_key": Code.UNAUTHENTICATED,
    "body_too_large": Code.RESOURCE_EXHAUSTED,
    "request_timeout": Code.DEADLINE_EXCEEDED,
    "max_spend_usd_per_day_exceeded": Code.RESOURCE_EXHAUSTED,
    "in_flight": Code.ABORTED,
    "outcome_unknown": Code.FAILED_PRECONDITION,
    "answer_not_kept": Code.ALREADY_EXISTS,
    "idempotency_key_reused": Code.INVALID_ARGUMENT,
    "upstream_timeout": Code.DEADLINE_EXCEEDED,
    "deadline_exceeded": Code.DEADLINE_EXCEEDED,
    "upstream_unreachable": Code.UNAVAILABLE,
    "upstream_reset": Code.UNKNOWN,
    "upstream_error": Code.UNKNOWN,
    "upstream_invalid": Code.UNKNOWN,
    "destination_refused": Code.FAILED_PRECONDITION,
    "credential_refused": Code.FAILED_PRECONDITION,
    "agent_gone": Code.CANCELLED,
}
CODE_OF_HTTP_STATUS = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    402: Code.RESOURCE_EXHAUSTED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    405: Code.UNIMPLEMENTED,
    408: Code.DEADLINE_EXCEEDED,
    409: Code.ABORTED,
    422: Code.INVALID_ARGUMENT,
    429: Code.RESOURCE_EXHAUSTED,
    500: Code.INTERNAL,
    501: Code.UNIMPLEMENTED,
    502: Code.UNKNOWN,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}

_BY_NUMBER = {str(code.value[0]): code for code in Code}


@dataclass(frozen=True, slots=True)
class Ending:
    """How an RPC ends: its status, and its trailing metadata."""

    code: grpc.StatusCode
    message: str = ""
    trailers: Headers = ()

    def recorded(self) -> Headers:
        """As it stands on the wire, and in a record."""
        message = ((MESSAGE, quote(self.message, safe=_PLAIN)),) if self.message else ()
        return ((STATUS, str(self.code.value[0])), *message, *self.trailers)


_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
"""What of a grpc-message is not percent-encoded (gRPC over HTTP/2, "Responses")."""


def ending_in(recorded: Headers) -> Ending | None:
    """The ending that `recorded` tells of; None if it tells of none."""
    own = dict(field for field in reversed(recorded) if field[0] in (STATUS, MESSAGE))
    if STATUS not in own:
        return None
    rest = tuple(field for field in recorded if field[0] not in (STATUS, MESSAGE))
    return Ending(_BY_NUMBER.get(own[STATUS], Code.UNKNOWN), unquote(own.get(MESSAGE, "")), rest)


def outcome_of(code: grpc.StatusCode) -> Outcome:
    """What a tool's status says of its call."""
    if code is Code.OK:
        return pb.OUTCOME_SUCCEEDED
    return pb.OUTCOME_REJECTED if code in REJECTED else pb.OUTCOME_AMBIGUOUS


def retry_after_s(trailers: Headers) -> float | None:
    """When a tool says to come back: google.rpc.RetryInfo among its error details. None without a good one."""
    for _, value in metadata_of(field for field in trailers if field[0] == DETAILS):
        assert isinstance(value, bytes), "its name ends in -bin"  # noqa: S101 - for the type checker
        info = error_details_pb2.RetryInfo()
        try:
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    return max(0.0, float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9))
        except DecodeError:
            return None
    return None


def code_of(problem: Problem) -> grpc.StatusCode:
    return CODE_OF_REASON.get(problem.reason) or CODE_OF_HTTP_STATUS.get(problem.status, Code.UNKNOWN)


def ending_of(problem: Problem, call_id: str = "", *, may_have_acted: bool = False) -> Ending:
    """A refusal or failure of ours: its code, and google.rpc.ErrorInfo and RetryInfo in the details (AIP-193)."""
    code = code_of(problem)
    if may_have_acted and code is Code.UNAVAILABLE:
        code = Code.UNKNOWN
    status = status_pb2.Status(code=code.value[0], message=problem.detail)
    info = error_details_pb2.ErrorInfo(reason=problem.reason, domain=DOMAIN, metadata=_facts(problem, call_id))
    status.details.add().Pack(info)
    if problem.retry_after_s is not None and problem.retryable:
        delay = Duration(seconds=problem.retry_after_s)
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return Ending(code, problem.detail, fields_of([(DETAILS, status.SerializeToString())]))


def _facts(problem: Problem, call_id: str) -> dict[str, str]:
    """What a problem document says in its members, flat."""
    facts: dict[str, object] = {
        "retryable": str(problem.retryable).lower(),
        "retry_after": problem.retry_after_s,
        "matched_rule": problem.matched_rule or None,
        "call_id": call_id or None,
        **_flat("", problem.facts),
        **_flat("budget.", (budget_left(problem.budget) if problem.budget is not None else None) or {}),
    }
    return {name: str(fact) for name, fact in facts.items() if fact is not None}


def _flat(prefix: str, facts: Mapping[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, fact in facts.items():
        flat |= _flat(f"{prefix}{name}.", fact) if isinstance(fact, dict) else {prefix + name: fact}
    return flat
