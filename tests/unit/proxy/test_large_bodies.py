"""Large bodies: off the loop, in turns, and only so many."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from interlock.governance.errors import UnavailableError
from interlock.proxy.large_bodies import MAX_INLINE_BYTES, OF_ALL_STRANGERS, OF_ONE_KNOWN, BodyReader

SHORT, LARGE = b"x" * MAX_INLINE_BYTES, b"x" * (MAX_INLINE_BYTES + 1)


@pytest.fixture
async def reader() -> AsyncIterator[BodyReader]:
    reader = BodyReader()
    yield reader
    await reader.close()


class Gate:
    """Work that goes on until it may end."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.may_end = threading.Event()
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> None:
        self._loop.call_soon_threadsafe(self.begun.set)
        assert self.may_end.wait(10)


async def test_a_short_body_is_read_where_it_is_and_a_large_one_in_the_one_thread(reader: BodyReader) -> None:
    here = threading.get_ident()
    assert await reader.of_known.read(SHORT, "k", threading.get_ident) == here
    threads = [await of.read(LARGE, "k", threading.get_ident) for of in (reader.of_known, reader.of_strangers)]
    assert threads[0] == threads[1] != here


async def test_what_is_wrong_with_a_large_body_is_told_to_who_sent_it(reader: BodyReader) -> None:
    with pytest.raises(ZeroDivisionError):
        await reader.of_known.read(LARGE, "k", lambda: 1 // 0)


async def test_one_callers_bodies_let_anothers_in_between(reader: BodyReader) -> None:
    gate, order = Gate(), list[str]()
    first = asyncio.create_task(reader.of_known.read(LARGE, "greedy", gate))
    await gate.begun.wait()
    rest = [
        asyncio.create_task(reader.of_known.read(LARGE, who, lambda who=who: order.append(who)))  # type: ignore[misc]
        for who in ("greedy", "greedy", "greedy", "other")
    ]
    await asyncio.sleep(0)  # all of them stand in line
    gate.may_end.set()
    await asyncio.gather(first, *rest)
    assert order == ["other", "greedy", "greedy", "greedy"]


async def test_who_brings_too_many_is_refused_and_others_are_not(reader: BodyReader) -> None:
    gate = Gate()
    waiting = [asyncio.create_task(reader.of_known.read(LARGE, "greedy", gate)) for _ in range(OF_ONE_KNOWN)]
    await gate.begun.wait()
    with pytest.raises(UnavailableError) as refused:
        await reader.of_known.read(LARGE, "greedy", gate)
    assert refused.value.reason == "busy"
    other = asyncio.create_task(reader.of_known.read(LARGE, "other", lambda: "read"))
    gate.may_end.set()
    assert await other == "read"
    await asyncio.gather(*waiting)
    assert await reader.of_known.read(LARGE, "greedy", lambda: "read") == "read", "there is room again"


async def test_strangers_with_many_credentials_keep_out_nobody_who_is_known(reader: BodyReader) -> None:
    gate = Gate()
    waiting = [
        asyncio.create_task(reader.of_strangers.read(LARGE, f"invented {index}", gate))
        for index in range(OF_ALL_STRANGERS)
    ]
    await gate.begun.wait()
    with pytest.raises(UnavailableError):
        await reader.of_strangers.read(LARGE, "one more", gate)
    known = asyncio.create_task(reader.of_known.read(LARGE, "known", lambda: "read"))
    gate.may_end.set()
    assert await known == "read"
    await asyncio.gather(*waiting)
