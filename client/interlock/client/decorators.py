"""`@idempotent` and `@idempotent_ai`: functions that run once for the same arguments, in whichever process."""

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Literal, ParamSpec, TypeVar, overload

from interlock.client.async_interlock import AsyncInterlock
from interlock.client.canonical import bound, derived_key
from interlock.client.interlock import Interlock
from interlock.client.leases import WorkResult
from interlock.client.working import takes_lease

P = ParamSpec("P")
T = TypeVar("T")

KeyOf = Callable[..., str]


class _Keys:
    """The key of each call of a function."""

    def __init__(self, function: Callable[..., object], key: str | KeyOf | None, prefix: str) -> None:
        self._function = function
        self._key = key
        self._prefix = prefix

    def of(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str:
        """Errors: UnusableArgumentError, before anything has happened."""
        if self._key is None:
            arguments = bound(self._function, args, kwargs)
            arguments.pop("lease", None)
            return derived_key(self._function, arguments, self._prefix)
        own = self._key if isinstance(self._key, str) else self._key(*args, **kwargs)
        return f"{self._prefix}:{own}" if self._prefix else own


def _check_match(client: Interlock | AsyncInterlock, function: Callable[..., object]) -> None:
    is_async = inspect.iscoroutinefunction(function)
    if is_async != isinstance(client, AsyncInterlock):
        wanted = "AsyncInterlock" if is_async else "Interlock"
        raise TypeError(f"{function.__qualname__} needs an {wanted}")


@overload
def idempotent(
    client: Interlock,
    *,
    ttl: int | None = None,
    key: str | KeyOf | None = None,
    prefix: str = "",
    on_duplicate: Callable[..., Any] | None = None,
) -> Callable[[Callable[P, T]], Callable[P, T | None]]: ...
@overload
def idempotent(
    client: AsyncInterlock,
    *,
    ttl: int | None = None,
    key: str | KeyOf | None = None,
    prefix: str = "",
    on_duplicate: Callable[..., Any] | None = None,
) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Coroutine[Any, Any, T | None]]]: ...
def idempotent(
    client: Interlock | AsyncInterlock,
    *,
    ttl: int | None = None,
    key: str | KeyOf | None = None,
    prefix: str = "",
    on_duplicate: Callable[..., Any] | None = None,
) -> Any:
    """Runs the function for the first of equal calls within `ttl` seconds; others come to `on_duplicate(…)`, or None.

    Equal are calls of equal arguments, or of an equal `key`, given or made of the arguments. The lock stays, even if
    the function raises. Errors: those of `check_lock`; UnusableArgumentError.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        _check_match(client, function)
        keys = _Keys(function, key, prefix)
        if isinstance(client, AsyncInterlock):
            return _locked_async(client, function, keys, ttl, on_duplicate)
        return _locked(client, function, keys, ttl, on_duplicate)

    return decorate


def _locked(
    client: Interlock, function: Callable[P, T], keys: _Keys, ttl: int | None, otherwise: Callable[..., Any] | None
) -> Callable[P, Any]:
    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        if client.check_lock(keys.of(args, kwargs), ttl):
            return function(*args, **kwargs)
        return otherwise(*args, **kwargs) if otherwise else None

    return call


def _locked_async(
    client: AsyncInterlock,
    function: Callable[P, Coroutine[Any, Any, T]],
    keys: _Keys,
    ttl: int | None,
    otherwise: Callable[..., Any] | None,
) -> Callable[P, Coroutine[Any, Any, Any]]:
    @functools.wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        if await client.check_lock(keys.of(args, kwargs), ttl):
            return await function(*args, **kwargs)
        told = otherwise(*args, **kwargs) if otherwise else None
        return await told if inspect.isawaitable(told) else told

    return call


@overload
def idempotent_ai(
    client: Interlock,
    *,
    key: str | KeyOf | None = None,
    prefix: str = "",
    ttl: int = 300,
    metadata: Mapping[str, object] | None = None,
    wait: bool = True,
    timeout_s: float = 60.0,
    error_code: str = "fn_error",
    on_error: Literal["fail", "free"] = "fail",
) -> Callable[[Callable[P, object]], Callable[P, WorkResult]]: ...
@overload
def idempotent_ai(
    client: AsyncInterlock,
    *,
    key: str | KeyOf | None = None,
    prefix: str = "",
    ttl: int = 300,
    metadata: Mapping[str, object] | None = None,
    wait: bool = True,
    timeout_s: float = 60.0,
    error_code: str = "fn_error",
    on_error: Literal["fail", "free"] = "fail",
) -> Callable[[Callable[P, Coroutine[Any, Any, object]]], Callable[P, Coroutine[Any, Any, WorkResult]]]: ...
def idempotent_ai(
    client: Interlock | AsyncInterlock, *, key: str | KeyOf | None = None, prefix: str = "", **how: Any
) -> Any:
    """Runs the function once for equal calls, and gives all of them its recorded result: `run_fn` as a decorator.

    A parameter `lease` is given the lease, by which the function is told if it loses it; it is no part of the key.
    Errors: those of `run_fn`; UnusableArgumentError.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        _check_match(client, function)
        keys = _Keys(function, key, prefix)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return client.run_fn(keys.of(args, kwargs), _prepared(function, args, kwargs), **how)

        @functools.wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            assert isinstance(client, AsyncInterlock)  # noqa: S101 - for the type checker: see _check_match
            return await client.run_fn(keys.of(args, kwargs), _prepared(function, args, kwargs), **how)

        return call_async if isinstance(client, AsyncInterlock) else call

    return decorate


def _prepared(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[..., object]:
    """The call as `run_fn` takes it: with a parameter `lease` if the function has one."""
    if takes_lease(function):
        return lambda lease: function(*args, **{**kwargs, "lease": lease})
    return lambda: function(*args, **kwargs)
