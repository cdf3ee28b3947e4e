"""Timers that are nearly always stopped before they go off, for next to nothing each.

The event loop keeps its timers in a heap, in which one costs a call some fifteen steps. Of these, all that are due
within the same 20 ms share one of the loop's.
"""

import asyncio
import time
from collections.abc import Callable

TICK_S = 0.02


class Timer:
    """One that was begun."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """It does not go off any more."""
        self.callback = None

    def go_off(self) -> None:
        """In a turn of the loop of its own: one that fails takes no other along."""
        if self.callback is not None:
            self.callback()


class Timers:
    """The timers of one event loop."""

    __slots__ = ("_ticks",)

    def __init__(self) -> None:
        self._ticks: dict[int, list[Timer]] = {}

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Never early, and up to a tick late."""
        timer, now = Timer(callback), time.monotonic()
        tick = int((now + delay_s) / TICK_S) + 1
        due = self._ticks.get(tick)
        if due is None:
            due = self._ticks[tick] = []
            asyncio.get_running_loop().call_later(tick * TICK_S - now, self._go_off, tick)
        due.append(timer)
        return timer

    def _go_off(self, tick: int) -> None:
        loop = asyncio.get_running_loop()
        for timer in self._ticks.pop(tick):
            if timer.callback is not None:
                loop.call_soon(timer.go_off)
