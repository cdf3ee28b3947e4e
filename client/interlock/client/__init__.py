"""The client library of Interlock: see docs/client.md. It needs httpx, and nothing else of Interlock."""

from interlock.client.async_interlock import AsyncInterlock
from interlock.client.decorators import idempotent, idempotent_ai
from interlock.client.errors import (
    ApiError,
    CallRefusedError,
    ConfigurationError,
    ConflictError,
    FeatureNotAvailableError,
    InterlockError,
    InvalidAnswerError,
    InvalidKeyError,
    InvalidRequestError,
    LeaseLostError,
    NotFoundError,
    NotRecordedError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitedError,
    SignatureError,
    UnavailableError,
    UnreachableError,
    UnusableArgumentError,
    WaitTimeoutError,
)
from interlock.client.holding import AsyncLease, Lease
from interlock.client.interlock import Interlock
from interlock.client.leases import LeaseAnswer, LeaseChange, LeaseStatus, WorkResult
from interlock.client.locks import Lock
from interlock.client.retrying import NO_RETRIES, RetryPolicy
from interlock.client.runs import Action, ToolResult
from interlock.client.signatures import Family, SignatureMiddleware, VerifiedCall, verify_signature

__all__ = [
    "NO_RETRIES",
    "Action",
    "ApiError",
    "AsyncInterlock",
    "AsyncLease",
    "CallRefusedError",
    "ConfigurationError",
    "ConflictError",
    "Family",
    "FeatureNotAvailableError",
    "Interlock",
    "InterlockError",
    "InvalidAnswerError",
    "InvalidKeyError",
    "InvalidRequestError",
    "Lease",
    "LeaseAnswer",
    "LeaseChange",
    "LeaseLostError",
    "LeaseStatus",
    "Lock",
    "NotFoundError",
    "NotRecordedError",
    "PermissionDeniedError",
    "QuotaExceededError",
    "RateLimitedError",
    "RetryPolicy",
    "SignatureError",
    "SignatureMiddleware",
    "ToolResult",
    "UnavailableError",
    "UnreachableError",
    "UnusableArgumentError",
    "VerifiedCall",
    "WaitTimeoutError",
    "WorkResult",
    "idempotent",
    "idempotent_ai",
    "verify_signature",
]
