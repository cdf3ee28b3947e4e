"""Tasks are ended, whatever they do about it."""

import asyncio

import pytest

from interlock.governance import tasks


async def for_ever() -> None:
    await asyncio.Event().wait()


async def test_all_are_over_also_those_that_were_and_those_that_there_are_not() -> None:
    over = asyncio.create_task(asyncio.sleep(0))
    await over
    running = [asyncio.create_task(for_ever()) for _ in range(3)]
    await tasks.end(over, None, *running)
    assert all(task.cancelled() for task in running)
    await tasks.end()


async def test_one_that_swallows_its_cancellation_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "ASKED_AGAIN_S", 0.01)
    swallowed = asyncio.Event()

    async def deaf_once() -> None:
        try:
            await for_ever()
        except asyncio.CancelledError:
            swallowed.set()
        await for_ever()

    task = asyncio.create_task(deaf_once())
    await asyncio.sleep(0)
    await tasks.end(task)
    assert swallowed.is_set()
    assert task.cancelled()


async def test_one_that_fails_in_ending_is_over_all_the_same() -> None:
    async def failing() -> None:
        try:
            await for_ever()
        finally:
            raise ValueError("in ending")

    task = asyncio.create_task(failing())
    await asyncio.sleep(0)
    await tasks.end(task)
    assert isinstance(task.exception(), ValueError)
