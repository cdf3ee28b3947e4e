"""The seam between calls and their traces. What is behind it, `telemetry.py`, is imported only where traces are on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from interlock.proxy.call import Call, Draft, Forwarded


class SentTrace(Protocol):
    """One try of a call at its tool."""

    def on(self, draft: Draft) -> Draft:
        """The draft with this try as the parent of what the tool traces (W3C Trace Context)."""

    def ended(self, tried: Forwarded) -> None:
        """What became of the try."""


class CallTrace(Protocol):
    """One call on its way."""

    @property
    def trace_id(self) -> str:
        """32 hex digits; empty where the SDK is disabled."""

    async def through(self, stage: Callable[[Call], Awaitable[Call]], call: Call) -> Call:
        """Takes the call through a stage, which has a span of its own if it is worth one."""

    def sending(self, call: Call, tries: int) -> AbstractContextManager[SentTrace]:
        """A try, while the context is open."""

    def ended(self, call: Call, reason: str, *, failed: bool) -> None:
        """The call is over; `failed` says that a stage raised an error, whose reason this is."""


class Traces(Protocol):
    """The traces of a sidecar."""

    def begin(self, call: Call) -> CallTrace:
        """A call that has just come in."""

    async def close(self) -> None:
        """Sends what is left, for a moment."""
