"""The rounds: every way to the tool has its turn in each, so what else the machine does hits all of them alike."""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import httpx

from bench import interlocks, peers
from bench.failure import BenchError
from bench.figures import NONE, Figures, figures
from bench.interlocks import Aof, Interlock
from bench.load import HEADERS, Calls, Load, Sample
from bench.processes import resident_mib

NGINX, EMBEDDED, REMOTE = "nginx", "embedded", "remote"
DIRECT = "direct"
WARM_UP_CONNECTIONS = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: `rounds` times `seconds` for each way, kind of calls and number of connections."""

    rounds: int
    seconds: int
    connections: Sequence[int]
    warm_up: bool
    aof: Aof


@dataclass(frozen=True, slots=True)
class Way:
    """A way to the tool: where calls are sent, and the Interlock that takes them, if one does."""

    name: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    interlock: Interlock | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """What one line of the table is about."""

    calls: Calls
    connections: int
    way: str


@dataclass(slots=True)
class Measured:
    """All that was measured. `resident_mib` is after each round, by way and process."""

    samples: dict[Cell, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    figures: dict[Cell, Figures] = field(default_factory=lambda: defaultdict(lambda: NONE))
    resident_mib: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)


@asynccontextmanager
async def ways(folder: Path, aof: Aof, nginx: str | None) -> AsyncIterator[list[Way]]:
    """Starts all there is to measure; without nginx the way through it is missing."""
    async with AsyncExitStack() as stack:
        tool_port = await stack.enter_async_context(peers.tool(folder, nginx))
        found = [Way(DIRECT, f"http://127.0.0.1:{tool_port}/charge")]
        if nginx:
            port = await stack.enter_async_context(peers.reverse_proxy(folder, nginx, tool_port))
            found.append(Way(NGINX, f"http://127.0.0.1:{port}/charge"))
        for name, shape in ((EMBEDDED, interlocks.embedded), (REMOTE, interlocks.remote)):
            interlock = await stack.enter_async_context(shape(folder / name[0], tool_port, aof))
            found.append(Way(name, interlock.url, interlock.headers, interlock))
        yield found


async def measure(plan: Plan, to_tool: Sequence[Way], tell: Callable[[str], None]) -> Measured:
    """Plays the rounds. Raises BenchError if something does not work at all."""
    load, measured = Load(), Measured()
    for way in to_tool:
        await _prime(load, way)
        if plan.warm_up:
            await load.run(way.url, way.headers, Calls.DIFFER, connections=WARM_UP_CONNECTIONS, seconds=1)
    for number in range(plan.rounds):
        tell(f"round {number + 1} of {plan.rounds}")
        for calls, connections in product(Calls, plan.connections):
            for way in _turned(to_tool, number):
                await _turn(measured, load, way, Cell(calls, connections, way.name), plan.seconds)
        _weigh(measured, to_tool)
    return measured


async def _prime(load: Load, way: Way) -> None:
    """The first of the calls that repeat, and a look at the answer: of many at once, all but one would be told 409."""
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        first = await client.post(way.url, content=load.repeated_body, headers={**way.headers, **HEADERS})
    if first.status_code != 200 or "receipt" not in first.json():
        raise BenchError(f"{way.name}: {first.status_code} {first.text}")


async def _turn(measured: Measured, load: Load, way: Way, cell: Cell, seconds: int) -> None:
    before = await figures(way.interlock) if way.interlock else NONE
    sample = await load.run(way.url, way.headers, cell.calls, connections=cell.connections, seconds=seconds)
    if way.interlock:
        grown = await figures(way.interlock) - before
        measured.figures[cell] += grown
        sample = replace(sample, errors=sample.errors + _wrongly_decided(sample, grown, cell.calls))
    measured.samples[cell].append(sample)


def _wrongly_decided(sample: Sample, grown: Figures, calls: Calls) -> int:
    """Answers of 200 that Interlock does not say it gave: a new call must be executed, a repeated one replayed."""
    decided = grown.executed if calls is Calls.DIFFER else grown.replayed
    return max(0, sample.calls - decided)


def _turned(to_tool: Sequence[Way], number: int) -> Iterator[Way]:
    """Another way begins each round: none always runs in the wake of the same one."""
    first = number % len(to_tool)
    yield from to_tool[first:]
    yield from to_tool[:first]


def _weigh(measured: Measured, to_tool: Sequence[Way]) -> None:
    for way in to_tool:
        if way.interlock:
            seen = measured.resident_mib.setdefault(way.name, {})
            for role, pid in way.interlock.processes.items():
                seen.setdefault(role, []).append(resident_mib(pid))
