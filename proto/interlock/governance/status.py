"""Errors on the wire: InterlockError to gRPC status with google.rpc.ErrorInfo, and back.

Source: google.rpc.Status and ErrorInfo of the googleapis error model (AIP-193), carried in the trailing metadata
`grpc-status-details-bin` as gRPC's richer error model has it.
"""

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc import aio

from interlock.governance.errors import BY_KIND, InterlockError, InternalError, Kind, UnavailableError
from interlock.governance.v1 import governance_pb2 as pb

DOMAIN = "interlock.dev"
DETAILS_KEY = "grpc-status-details-bin"

CODES = {
    Kind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Kind.DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Kind.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Kind.CONFLICT: grpc.StatusCode.FAILED_PRECONDITION,
    Kind.EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Kind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Kind.INTERNAL: grpc.StatusCode.INTERNAL,
}
KINDS = {code: kind for kind, code in CODES.items()}
# What gRPC itself says when the engine is gone or slow.
KINDS[grpc.StatusCode.DEADLINE_EXCEEDED] = Kind.UNAVAILABLE
KINDS[grpc.StatusCode.CANCELLED] = Kind.UNAVAILABLE
_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


def details_of(error: InterlockError) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata that carries an error's reason: what `context.abort` takes beside code and message."""
    status = status_pb2.Status(
        code=getattr(code_pb2, CODES[error.kind].name),
        message=error.message,
    )
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    status.details.add().Pack(info)
    return ((DETAILS_KEY, status.SerializeToString()),)


def error_of(failed: aio.AioRpcError) -> InterlockError:
    """The error that an RPC failed with. A status without our ErrorInfo is gRPC's own: the engine was not reached."""
    kind = KINDS.get(failed.code(), Kind.INTERNAL)
    for key, value in failed.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return _from_details(kind, failed.details() or "", value)
    if kind is Kind.UNAVAILABLE:
        return UnavailableError("governance_unavailable", "the governance engine cannot be reached")
    return BY_KIND.get(kind, InternalError)("internal", failed.details() or "the governance engine failed")


def _from_details(kind: Kind, message: str, details: bytes) -> InterlockError:
    info = error_details_pb2.ErrorInfo()
    for detail in status_pb2.Status.FromString(details).details:
        if detail.Unpack(info):
            return BY_KIND[kind](info.reason, message, **dict(info.metadata))
    return BY_KIND[kind]("internal", message)


def failure_of(error: InterlockError) -> pb.Failure:
    """An error inside a batch."""
    return pb.Failure(
        code=CODES[error.kind].value[0], message=error.message, reason=error.reason, metadata=error.metadata
    )


def error_in(failure: pb.Failure) -> InterlockError:
    """The error that `failure_of` packed."""
    kind = KINDS.get(_BY_NUMBER[failure.code], Kind.INTERNAL)
    return BY_KIND[kind](failure.reason, failure.message, **dict(failure.metadata))
