"""Standard output as a pipe, whose reader may be slow, gone, or never there."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from interlock.audit.ports import SinkUnavailableError
from interlock.audit.sinks.stdout import StdoutSink
from tests.unit.audit.trails import lines

STUCK = """
import asyncio, contextlib
from interlock.audit.sinks.stdout import StdoutSink

async def main():
    sink = StdoutSink()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await sink.deliver([b"x" * 1_000_000])
    await sink.close()

asyncio.run(main())
"""


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


async def test_each_event_is_a_line(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    batch = lines(3)
    await StdoutSink(writing).deliver(batch)
    assert os.read(reading, 1 << 20).splitlines() == batch


async def test_a_slow_reader_is_waited_for_and_blocks_nobody_else(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    delivering = asyncio.create_task(StdoutSink(writing).deliver([b"x" * 300_000]))
    got = 0
    while got <= 300_000:
        await asyncio.sleep(0)  # the loop runs on
        assert got == 0 or not delivering.cancelled()
        got += len(await asyncio.to_thread(os.read, reading, 65_536))
    await delivering
    assert got == 300_001


async def test_a_reader_that_is_gone_is_told_of() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(SinkUnavailableError, match="Broken pipe"):
        await StdoutSink(writing).deliver(lines(1))
    os.close(writing)


def test_a_reader_that_never_reads_does_not_keep_the_process_from_its_end() -> None:
    began = time.monotonic()
    stuck = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE)
    assert stuck.wait(30) == 0
    assert time.monotonic() - began < 30
    assert stuck.stdout is not None
    stuck.stdout.close()
