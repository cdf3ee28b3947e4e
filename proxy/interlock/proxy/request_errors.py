"""What can be wrong with any request, whichever door it came to."""

from interlock.governance.errors import InvalidRequestError, UnauthenticatedError


class MissingKeyError(UnauthenticatedError):
    """The request carries no bearer key."""

    def __init__(self) -> None:
        super().__init__("missing_key", "Missing Authorization Bearer token")


class BodyTooLargeError(InvalidRequestError):
    """The body is larger than the sidecar reads."""

    def __init__(self, max_body_bytes: int) -> None:
        super().__init__("body_too_large", f"the body is larger than {max_body_bytes} bytes")


class SlowRequestError(InvalidRequestError):
    """The body stopped coming before its end."""

    def __init__(self) -> None:
        super().__init__("request_timeout", "the body stopped coming before its end")


class ToolIsGrpcError(InvalidRequestError):
    """The tool's URL is grpc:// or grpcs://, and the call came by HTTP."""

    def __init__(self) -> None:
        super().__init__("tool_is_grpc", "this tool speaks gRPC: call it on the sidecar's gRPC port")
