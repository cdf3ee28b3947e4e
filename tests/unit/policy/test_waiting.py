"""Waiting for another's call."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from interlock.governance.errors import UnavailableError
from interlock.policy import waiting
from interlock.policy.model import Scope
from interlock.policy.waiting import Waits

AGENT = Scope("acme", "bot-1")
CALL = "call_" + "a" * 22


class OneCall:
    """A ledger that knows of one call, which a test ends."""

    def __init__(self) -> None:
        self.left_ms = 60_000
        self.looks = 0
        self.words: asyncio.Queue[str] = asyncio.Queue()
        self.away = False

    async def running(self, scope: Scope, call_id: str) -> int:
        self.looks += 1
        if self.away:
            raise UnavailableError("governance_unavailable", "away")
        return self.left_ms

    @contextlib.asynccontextmanager
    async def settled(self) -> AsyncIterator[AsyncIterator[str]]:
        async def words() -> AsyncIterator[str]:
            while True:
                yield await self.words.get()

        yield words()


@pytest.fixture
async def ledger() -> OneCall:
    return OneCall()


@pytest.fixture
async def waits(ledger: OneCall) -> AsyncIterator[Waits]:
    waits = Waits(ledger)  # type: ignore[arg-type]
    yield waits
    await waits.close()


async def test_the_word_of_a_settlement_ends_the_wait_of_all(
    waits: Waits, ledger: OneCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the look that is only there in case the word is lost."""
    monkeypatch.setattr(waiting, "LOOK_S", 60)
    all_waiting = asyncio.gather(*(waits.until_over(AGENT, CALL, 30_000) for _ in range(100)))
    ledger.words.put_nowait("call_" + "b" * 22)
    ledger.words.put_nowait(CALL)
    async with asyncio.timeout(5):
        assert all(await all_waiting)
    assert ledger.looks <= 1


async def test_a_lost_word_is_made_good_by_looking(
    waits: Waits, ledger: OneCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LOOK_S", 0.01)
    waiting_for_it = asyncio.ensure_future(waits.until_over(AGENT, CALL, 30_000))
    await asyncio.sleep(0)
    ledger.left_ms = 0
    async with asyncio.timeout(5):
        assert await waiting_for_it


async def test_a_call_is_not_over_because_redis_is_away(
    waits: Waits, ledger: OneCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LOOK_S", 0.01)
    ledger.away = True
    assert not await waits.until_over(AGENT, CALL, 100)
    assert ledger.looks > 1


async def test_nothing_is_kept_of_a_call_that_is_over(waits: Waits, ledger: OneCall) -> None:
    ledger.left_ms = 0
    assert await waits.until_over(AGENT, CALL, 30_000)
    assert not waits._watched


async def test_what_nobody_waits_for_is_not_looked_at(waits: Waits, ledger: OneCall) -> None:
    """A lease may be held for weeks."""
    assert not await waits.until_over(AGENT, CALL, 10)
    assert not waits._watched
    assert not [task for task in asyncio.all_tasks() if "_watch" in repr(task.get_coro()) and not task.cancelling()]
