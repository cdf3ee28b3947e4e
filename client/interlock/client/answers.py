"""What an answer means: its JSON, or the error that it is. Errors under `/v1` are `{"detail": …}`."""

from collections.abc import Mapping
from typing import Any

import httpx

from interlock.client.errors import (
    ApiError,
    ConflictError,
    FeatureNotAvailableError,
    InvalidAnswerError,
    InvalidKeyError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitedError,
    UnavailableError,
)
from interlock.client.retrying import retry_after_s

ERROR_OF_STATUS: Mapping[int, type[ApiError]] = {
    400: InvalidRequestError,
    401: InvalidKeyError,
    402: QuotaExceededError,
    404: NotFoundError,
    409: ConflictError,
    413: InvalidRequestError,
    422: InvalidRequestError,
    429: RateLimitedError,
}
FORBIDDEN: Mapping[str, type[ApiError]] = {
    "feature_not_available": FeatureNotAvailableError,
    "invalid_key": InvalidKeyError,
}
REASON_OF_STATUS = {401: "missing_key", 403: "invalid_key", 422: "invalid_request"}


def decoded(response: httpx.Response) -> Any:
    """The JSON of an answer. Errors: InvalidAnswerError."""
    try:
        return response.json()
    except ValueError:
        raise InvalidAnswerError("invalid_answer", f"HTTP {response.status_code} without JSON") from None


def error_of(response: httpx.Response) -> ApiError:
    """The error that an answer of 3xx, 4xx or 5xx is, whether Interlock or something before it has written it."""
    status = response.status_code
    detail = _detail(response)
    reason = _reason(status, detail)
    return _kind(status, reason)(
        reason,
        f"{_message(status, detail)} (HTTP {status})",
        status=status,
        detail=detail,
        request_id=response.headers.get("X-Request-Id"),
        retry_after_s=retry_after_s(response.headers),
    )


def _kind(status: int, reason: str) -> type[ApiError]:
    if status == 403:
        return FORBIDDEN.get(reason, PermissionDeniedError)
    return ERROR_OF_STATUS.get(status) or (UnavailableError if status >= 500 else ApiError)


def _detail(response: httpx.Response) -> Any:
    try:
        told = response.json()
    except ValueError:
        return None
    return told.get("detail", told) if isinstance(told, dict) else told


def _reason(status: int, detail: Any) -> str:
    if isinstance(detail, dict) and isinstance(detail.get("error"), str):
        found: str = detail["error"]
        return found
    return REASON_OF_STATUS.get(status, f"http_{status}")


def _message(status: int, detail: Any) -> str:
    if isinstance(detail, list):
        return "; ".join(_finding(found) for found in detail)
    if isinstance(detail, dict):
        return str(detail.get("message") or detail.get("error") or "no reason was given")
    return str(detail) if detail else httpx.codes.get_reason_phrase(status) or "no reason was given"


def _finding(found: Any) -> str:
    if not isinstance(found, dict):
        return str(found)
    where = ".".join(map(str, found.get("loc", ())))
    return f"{where}: {found.get('msg')}"
