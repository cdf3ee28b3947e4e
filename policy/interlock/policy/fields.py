"""Fields of a request that are not what they must be, said in one way."""

from collections.abc import Mapping

from interlock.governance.errors import InvalidRequestError


def check_fields(wrong: Mapping[str, bool], within: str = "") -> None:
    """Errors: InvalidRequestError for the first field that is wrong; `within` stands before its name."""
    for name, is_wrong in wrong.items():
        if is_wrong:
            require(f"{within}{name}", holds=False)


def require(field: str, holds: bool) -> None:
    """Errors: InvalidRequestError with the field's name, unless it holds."""
    if not holds:
        raise InvalidRequestError("invalid_request", f"{field} is not valid", field=field)
