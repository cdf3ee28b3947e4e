"""How much of a list is asked for, and from where."""

from interlock.governance.errors import InvalidRequestError


def limit_of(asked: int, *, default: int, most: int) -> int:
    """As many as are asked for; 0 is the default. Errors: InvalidRequestError."""
    if not 0 <= asked <= most:
        raise InvalidRequestError("invalid_request", f"limit is 1 to {most}", field="limit")
    return asked or default


def after_of(seq: int) -> int:
    """The seq behind which events are asked for. Errors: InvalidRequestError."""
    if seq < 0:
        raise InvalidRequestError("invalid_request", "after_seq is 0 or more", field="after_seq")
    return seq


def offset_of(asked: int, *, most: int) -> int:
    """How many are passed over. Errors: InvalidRequestError."""
    if not 0 <= asked <= most:
        raise InvalidRequestError("invalid_request", f"offset is 0 to {most}", field="offset")
    return asked
