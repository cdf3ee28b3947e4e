"""A request as a value, and `operation`, which makes methods of both clients of what builds one: written once."""

import secrets
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload
from urllib.parse import quote

import httpx

from interlock.client.retrying import Repeat

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Params = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True, slots=True)
class Answer:
    """A good answer: its decoded JSON beside the response that it came in."""

    json: Any
    response: httpx.Response


@dataclass(frozen=True, slots=True)
class Request(Generic[T_co]):
    """What to send, and what the answer means. Parameters and fields that are None are left out."""

    method: str
    path: tuple[str, ...]
    read: Callable[[Answer], T_co]
    params: Params = field(default_factory=dict)
    body: Mapping[str, object] | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    repeat: Repeat = Repeat.HARMLESS
    timeout_s: float | None = None
    """How long the server may take with the answer, instead of the client's own time-out."""
    fail_open: Callable[[str], T_co] | None = None
    """What stands for the answer, given the reason, if there is none and the client is told to fail open."""
    good: frozenset[int] = frozenset()
    """Statuses that are answers, beside 2xx."""

    @property
    def url(self) -> str:
        """Relative to the API's root; no segment can climb out of its place."""
        return "/".join(quote(segment, safe="").replace(".", "%2E") for segment in self.path)

    def sent_body(self) -> dict[str, object] | None:
        return None if self.body is None else present(self.body)


def new_attempt_id() -> str:
    """By this the server knows a repeated request again whose first answer was lost."""
    return secrets.token_hex(16)


def present(fields: Mapping[str, T | None]) -> dict[str, T]:
    """Those that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


class Carrier(Protocol):
    """Carries requests out and waits for what they come to."""

    def carry(self, request: Request[T]) -> T:
        """The answer, read. Errors: InterlockError."""


class AsyncCarrier(Protocol):
    """The same for asyncio."""

    async def carry(self, request: Request[T]) -> T:
        """The answer, read. Errors: InterlockError."""


class Group:
    """A group of operations that wait for their answers."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier

    def bind(self, build: Callable[P, Request[T]]) -> Callable[P, T]:
        @wraps(build)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return self._carrier.carry(build(*args, **kwargs))

        return call


class AsyncGroup:
    """A group of operations that are awaited."""

    def __init__(self, carrier: AsyncCarrier) -> None:
        self._carrier = carrier

    def bind(self, build: Callable[P, Request[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        @wraps(build)
        async def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return await self._carrier.carry(build(*args, **kwargs))

        return call


class operation(Generic[P, T]):  # noqa: N801 - used as a decorator
    """A method of a group: what it decorates builds the request, and the group carries it out in its own way."""

    def __init__(self, build: Callable[Concatenate[Any, P], Request[T]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, group: None, owner: type) -> Callable[Concatenate[Any, P], Request[T]]: ...
    @overload
    def __get__(self, group: Group, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, group: AsyncGroup, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, group: Group | AsyncGroup | None, owner: type) -> Any:
        if group is None:
            return self._build
        return group.bind(self._build.__get__(group, owner))
