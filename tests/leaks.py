"""Many calls through one `interlock dev`, and what that process holds meanwhile, and its Redis afterwards."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from redis.asyncio import Redis

from tests.interlock_dev import InterlockDev

AGENTS = 16
ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"paid":true}'


@dataclass(frozen=True, slots=True)
class Held:
    """What the process holds after so many calls."""

    calls: int
    resident_bytes: int
    files: int


def grown(samples: Sequence[Held], what: str) -> float:
    """How much of it came in the second half, by the least-squares line through that half's samples."""
    half = samples[len(samples) // 2 :]
    xs, ys = [sample.calls for sample in half], [getattr(sample, what) for sample in half]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    rising = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return rising / sum((x - mean_x) ** 2 for x in xs) * (xs[-1] - xs[0])


async def held_while_calling(dev: InterlockDev, calls: int, samples: int) -> list[Held]:
    """Makes that many calls that all differ, by 16 agents at once, and looks so many times in between."""
    tool = await asyncio.start_server(_answers, "127.0.0.1", 0)
    port = tool.sockets[0].getsockname()[1]
    await dev.register(f"http://127.0.0.1:{port}/charge", dedup={"ttl_s": 1})
    agents = [await asyncio.open_connection("127.0.0.1", dev.port) for _ in range(AGENTS)]
    batch, found = calls // samples // AGENTS, []
    try:
        for turn in range(samples):
            async with asyncio.TaskGroup() as tasks:
                for number, agent in enumerate(agents):
                    tasks.create_task(_calls(dev, agent, number, range(turn * batch, (turn + 1) * batch)))
            found.append(_held(dev, (turn + 1) * batch * AGENTS))
    finally:
        for _, writer in agents:
            writer.close()
        tool.close()
    return found


async def _calls(
    dev: InterlockDev, agent: tuple[asyncio.StreamReader, asyncio.StreamWriter], number: int, orders: range
) -> None:
    reader, writer = agent
    for order in orders:
        body = b'{"order": "%d-%d", "amount": 12.5}' % (number, order)
        writer.write(
            b"POST /tools/charge HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\nInterlock-Agent: a%d\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (dev.key.encode(), number, len(body), body)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        answer = await reader.readexactly(int(length))
        assert head.startswith(b"HTTP/1.1 200 "), head + answer
        assert b"Interlock-Decision: executed" in head


def _held(dev: InterlockDev, calls: int) -> Held:
    assert dev.process is not None
    of_process = Path("/proc") / str(dev.process.pid)
    status = (of_process / "status").read_text()
    resident = int(status.partition("VmRSS:")[2].split()[0]) * 1024
    return Held(calls, resident, len(list((of_process / "fd").iterdir())))


async def keys_beside_the_record(dev: InterlockDev, calls: int) -> int:
    """How many keys Redis has beside the one by which each call is found for a week.

    Looks at each, which deletes what has expired: by itself Redis leaves up to a tenth of its keys expired in memory,
    which of a million are more than what is looked for (its `active-expire-effort`).
    """
    socket = quote(str(dev.data_dir / "redis" / "redis.sock"))
    async with Redis.from_url(f"unix://{socket}") as redis:
        async for _ in redis.scan_iter(count=10_000):
            pass
        return int(await redis.dbsize()) - calls


async def _answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A tool that answers all alike."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            writer.write(ANSWER)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
