"""When a Redis hangs, and when it is this process that is slow."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from interlock.store.pipe import Pipe, PipeTimeoutError, open_pipe
from interlock.store.settings import RedisSettings

ANSWER_WITHIN_MS = 200


@pytest.fixture
async def pipe(redis_url: str) -> AsyncIterator[Pipe]:
    pipe = await open_pipe(RedisSettings(url=SecretStr(redis_url), timeout_ms=ANSWER_WITHIN_MS))
    yield pipe
    pipe.close()


def keep_the_loop_busy() -> None:
    """As a burst of calls does, for longer than an answer may take."""
    time.sleep(2 * ANSWER_WITHIN_MS / 1000)


@pytest.mark.parametrize("written", [False, True], ids=["before the write", "after the write"])
async def test_a_process_that_is_busy_does_not_take_redis_for_hanging(pipe: Pipe, written: bool) -> None:
    answer = pipe.ask([("PING",)])
    if written:
        await asyncio.sleep(0)
    keep_the_loop_busy()
    assert await answer == [b"PONG"]


@pytest.mark.parametrize("answered_before", [False, True])
async def test_a_redis_that_hangs_fails_every_question(pipe: Pipe, redis_url: str, answered_before: bool) -> None:
    if answered_before:
        await pipe.ask([("PING",)])
    async with Redis.from_url(redis_url) as other:
        await other.execute_command("CLIENT", "PAUSE", "60000", "WRITE")
        try:
            answers = [pipe.ask([("SET", "key", "value")]) for _ in range(3)]
            for answer in answers:
                with pytest.raises(PipeTimeoutError):
                    await answer
        finally:
            await other.execute_command("CLIENT", "UNPAUSE")
    assert not pipe.open


async def test_new_questions_do_not_hide_that_redis_hangs(pipe: Pipe, redis_url: str) -> None:
    async with Redis.from_url(redis_url) as other:
        await other.execute_command("CLIENT", "PAUSE", "60000", "WRITE")
        try:
            first = pipe.ask([("SET", "key", "value")])
            async with asyncio.timeout(20):
                while not first.done():
                    pipe.ask([("SET", "key", "value")]).add_done_callback(lambda answer: answer.exception())
                    await asyncio.sleep(ANSWER_WITHIN_MS / 10_000)
        finally:
            await other.execute_command("CLIENT", "UNPAUSE")
    assert isinstance(first.exception(), PipeTimeoutError)
