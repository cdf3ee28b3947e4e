"""The one error type of the house. Each edge has one table that turns its kind into a gRPC code or an HTTP status."""

from enum import Enum


class Kind(Enum):
    """What sort of failure it is: all an edge needs to know to pick its own code."""

    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    DENIED = "denied"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    EXHAUSTED = "exhausted"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


class InterlockError(Exception):
    """A failure with a stable `reason` that callers may branch on and a message that they may read.

    `metadata` holds further facts as strings (`field` names the offending field of a bad request). Nothing in it or
    in the message may be a secret: both are shown to the caller.
    """

    kind = Kind.INTERNAL

    def __init__(self, reason: str, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = metadata

    @property
    def retry_in_s(self) -> int | None:
        """When the same request may succeed, if that is known."""
        return int(self.metadata["retry_after_s"]) if "retry_after_s" in self.metadata else None


class InvalidRequestError(InterlockError):
    """The request is malformed or asks for something impossible."""

    kind = Kind.INVALID


class UnauthenticatedError(InterlockError):
    """No credential, or one that is not (or no longer) good."""

    kind = Kind.UNAUTHENTICATED


class DeniedError(InterlockError):
    """The credential is good, but does not reach this far."""

    kind = Kind.DENIED


class NotFoundError(InterlockError):
    """The thing named does not exist, or not for this caller."""

    kind = Kind.NOT_FOUND


class ConflictError(InterlockError):
    """The thing is not in a state that allows this."""

    kind = Kind.CONFLICT


class ExhaustedError(InterlockError):
    """A limit of the service itself is reached."""

    kind = Kind.EXHAUSTED


class UnavailableError(InterlockError):
    """Redis or the engine cannot be reached just now.

    Whether the request took effect is not known, unless the metadata `effect` says `none`.
    """

    kind = Kind.UNAVAILABLE

    @property
    def had_no_effect(self) -> bool:
        return self.metadata.get("effect") == "none"


class InternalError(InterlockError):
    """A bug of ours; the cause is in the log."""


BY_KIND: dict[Kind, type[InterlockError]] = {
    error.kind: error
    for error in (
        InvalidRequestError,
        UnauthenticatedError,
        DeniedError,
        NotFoundError,
        ConflictError,
        ExhaustedError,
        UnavailableError,
        InternalError,
    )
}
