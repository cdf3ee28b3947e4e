"""What every RPC method has in common: who calls, and errors as statuses."""

import functools
import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from interlock.governance.errors import DeniedError, InterlockError, InternalError
from interlock.governance.status import CODES, details_of
from interlock.governance.values import dataclass
from interlock.policy.credentials import Credential

log = structlog.get_logger(__name__)

TOKEN_KEY = "interlock-sidecar-token"  # noqa: S105 - the name of a metadata key
NAMESPACE_KEY = "interlock-namespace"
BEARER = "Bearer "


@dataclass(frozen=True, slots=True)
class Caller:
    """What an RPC's metadata says of who calls; nothing of it is believed yet."""

    credential: Credential


def caller_of(context: Any) -> Caller:
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    authorization = metadata.get("authorization", "")
    key = authorization[len(BEARER) :] if authorization.startswith(BEARER) else ""
    return Caller(Credential(key, metadata.get(NAMESPACE_KEY, "")))


def require_sidecar(context: Any, token: str) -> None:
    """Errors: DeniedError unless the caller shows the sidecars' token."""
    if not token or not hmac.compare_digest(_shown_by(context).encode(), token.encode()):
        raise DeniedError("sidecar_only", "this service answers sidecars only")


def rpc(method: Callable[[Any, Any, Caller], Awaitable[Any]]) -> Callable[[Any, Any, Any], Awaitable[Any]]:
    """Turns `async method(self, request, caller)` into a servicer's method: InterlockErrors become statuses."""

    @functools.wraps(method)
    async def handler(self: Any, request: Any, context: Any) -> Any:
        try:
            return await method(self, request, caller_of(context))
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told that it failed
            await _fail(context, method.__qualname__, error)

    return handler


def sidecars_rpc(method: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any, Any], Awaitable[Any]]:
    """The same for `method(self, request)`, which answers who shows the token of `self.token`, and nobody else."""

    @functools.wraps(method)
    async def handler(self: Any, request: Any, context: Any) -> Any:
        try:
            require_sidecar(context, self.token)
            return await method(self, request)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told that it failed
            await _fail(context, method.__qualname__, error)

    return handler


def _shown_by(context: Any) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == TOKEN_KEY and isinstance(value, str):
            return value
    return ""


async def abort(context: Any, error: InterlockError) -> None:
    await context.abort(CODES[error.kind], error.message, details_of(error))


async def _fail(context: Any, method: str, error: Exception) -> None:
    if not isinstance(error, InterlockError):
        log.error("rpc.failed", method=method, exc_info=error)
        error = InternalError("internal", "the governance engine failed")
    await abort(context, error)


Write = Callable[[Any], Awaitable[None]]
"""Sends one message of a stream; returns when there is room for the next."""


def rpc_stream(
    method: Callable[[Any, Any, Caller, Write], Awaitable[None]],
) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """The same for `async method(self, request, caller, write)` of a server-streaming RPC."""

    @functools.wraps(method)
    async def handler(self: Any, request: Any, context: Any) -> None:
        try:
            await method(self, request, caller_of(context), context.write)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told that it failed
            await _fail(context, method.__qualname__, error)

    return handler
