"""What errors of the REST API look like, status by status, for the OpenAPI document. They are made in `errors.py`."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ConfigDict

from interlock.proxy.api.answer import ABSENT, Answer


class ErrorDetail(Answer):
    """Why a request was refused. Further fields say more of it, such as how long a body may be."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    error: str
    """The reason, which is stable: programs act on it."""
    message: str
    """The same for people."""


class QuotaDetail(ErrorDetail):
    """What a plan has no more of."""

    error: Literal["payment_required"]
    """The reason."""
    plan: str = ABSENT
    """The namespace's plan."""
    limit: int = ABSENT
    """What it allows."""
    usage: int = ABSENT
    """What is used of it."""


class InvalidValue(Answer):
    """A value of a request that is missing or impossible."""

    type: str
    """What is wrong, in pydantic's words or as a reason of ours."""
    loc: list[str | int]
    """Where: `body`, `query`, `path` or `header`, and the way from there."""
    msg: str
    """The same for people."""
    input: Any
    """The value, unless it is secret, unknown, or a whole object or list."""


class MissingKey(Answer):
    """There is no key."""

    detail: Literal["Missing Authorization Bearer token"]
    """Always this."""


class Denied(Answer):
    """The key is nobody's, or it does not reach this."""

    detail: Literal["Invalid API key"] | ErrorDetail
    """Which of the two; `feature_not_available` is a plan without that feature."""


class NotFound(Answer):
    """There is no such thing, or no such route."""

    detail: Literal["Not Found"] | ErrorDetail
    """What is not there."""


class QuotaExhausted(Answer):
    """The namespace's plan has no more."""

    detail: QuotaDetail
    """Of what."""


class Refused(Answer):
    """A request that was refused."""

    detail: ErrorDetail
    """Why."""


class Invalid(Answer):
    """Values that are missing or impossible."""

    detail: list[InvalidValue]
    """Each of them, up to twenty."""


RETRY_AFTER = {"Retry-After": "Seconds after which the same request may succeed."}


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer with a status: its name in the document, what it looks like, and what it means."""

    name: str
    answer: type[Answer]
    description: str
    headers: dict[str, str] = field(default_factory=dict)


REFUSALS = {
    400: Refusal("InvalidPath", Refused, "The path holds what a path must not: dot segments, `%2f`, `%5c`, NUL."),
    401: Refusal("MissingKey", MissingKey, "There is no `Authorization: Bearer KEY`."),
    402: Refusal("QuotaExhausted", QuotaExhausted, "The namespace's plan has no more of it."),
    403: Refusal("Denied", Denied, "The key is unknown or revoked, or does not reach this; or the plan lacks it."),
    404: Refusal("NotFound", NotFound, "There is no such thing in the namespace."),
    408: Refusal("BodyTimeout", Refused, "The body stopped coming."),
    409: Refusal("Conflict", Refused, "It cannot be done as things stand; nothing was changed."),
    413: Refusal("BodyTooLarge", Refused, "The body is larger than what is read."),
    417: Refusal("ExpectationFailed", Refused, "`Expect` asks for more than `100-continue`."),
    421: Refusal("Misdirected", Refused, "`Host` is not one that this sidecar answers to."),
    422: Refusal("Invalid", Invalid, "Values are missing or impossible; nothing was changed."),
    429: Refusal("TooManyRequests", Refused, "More requests than the plan, or this sidecar, allows now.", RETRY_AFTER),
    503: Refusal("Unavailable", Refused, "Nobody can judge the request now; nothing was let through.", RETRY_AFTER),
}
"""By status."""
OF_EVERY_OPERATION = (400, 401, 403, 404, 417, 421, 422, 429, 503)
OF_A_BODY = (408, 413)
