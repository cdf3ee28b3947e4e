"""Engines and sidecars restarted one by one under load, as a rolling upgrade does it: no call is lost or made twice."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx
import pytest

from tests.acceptance.outage import Engine, Sidecar
from tests.interlock_dev import InterlockDev, until
from tests.redis_server import RedisServer
from tests.tool import Tool

AGENTS = 8
CALLS_BETWEEN = 40
MIN_READY_S = 3.0
"""Less than the chart's minReadySeconds: an engine that was away is dialled again about a second later."""
BEFORE_ANYTHING = {"draining"}
"""What a sidecar that shuts down says: the call may be made anew."""


@dataclass
class Roles:
    """Two engines, and two sidecars that know both."""

    engines: list[Engine]
    sidecars: list[Sidecar]


@pytest.fixture
async def roles(tmp_path: Path, own_redis: RedisServer) -> AsyncIterator[Roles]:
    """None of them runs yet."""
    age = {"INTERLOCK_ENGINE__CONNECTION_AGE_MS": "1000"}
    engines = [Engine(tmp_path / f"engine{number}", own_redis.url, age) for number in range(2)]
    target = {"INTERLOCK_SIDECAR__ENGINE__TARGET": f"grpc://{','.join(engine.address for engine in engines)}"}
    sidecars = [Sidecar(tmp_path / f"sidecar{number}", None, target) for number in range(2)]
    yield Roles(engines, sidecars)
    await asyncio.gather(*(role.kill() for role in (*engines, *sidecars) if role.runs))


@dataclass
class Load:
    """Agents that call without a pause, each at its sidecar; a call is made again where a sidecar was not there."""

    sidecars: list[Sidecar]
    answered: int = 0
    gone: int = 0
    wrong: list[str] = field(default_factory=list)
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        self._agents = [asyncio.create_task(self._work(number)) for number in range(AGENTS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        await asyncio.gather(*self._agents)

    async def goes_on(self, calls: int = CALLS_BETWEEN) -> None:
        wanted = self.answered + calls

        async def enough() -> bool:
            return self.answered >= wanted

        await until(enough)

    async def _work(self, number: int) -> None:
        sidecar = self.sidecars[number % len(self.sidecars)]
        async with sidecar.client() as client:
            order = 0
            while not self._over.is_set():
                await self._call(client, f"agent-{number}", order)
                order += 1

    async def _call(self, client: httpx.AsyncClient, agent: str, order: int) -> None:
        while True:
            try:
                answer = await client.post(
                    "/tools/charge", json={"agent": agent, "order": order}, headers={"Interlock-Agent": agent}
                )
            except httpx.TransportError:  # whatever became of the call, to make it anew is safe
                self.gone += 1
                await asyncio.sleep(0.05)
                continue
            if answer.status_code == 503 and answer.json()["reason"] in BEFORE_ANYTHING:
                self.gone += 1
                await asyncio.sleep(0.05)
                continue
            if answer.status_code != 200:
                self.wrong.append(f"{answer.status_code} {answer.text}")
            self.answered += 1
            return


async def restarted(role: InterlockDev) -> None:
    """As Kubernetes does it, but on the old one's port: ended by SIGTERM, and ready again."""
    assert await role.stop() == 0
    await role.start()


async def decides(engine: Engine) -> bool:
    """Whether an engine has decided a call."""
    async with httpx.AsyncClient(verify=False) as client:
        figures = (await client.get(f"{engine.admin_url}/metrics")).text
    return 'interlock_redis_call_seconds_count{operation="authorize"}' in figures


async def test_no_call_is_lost_or_made_twice_while_an_engine_joins_and_all_are_restarted_one_by_one(
    roles: Roles, tool: Tool
) -> None:
    first, joining = roles.engines
    await asyncio.gather(*(role.start() for role in (first, *roles.sidecars)))
    await roles.sidecars[0].register(tool.url)
    async with Load(roles.sidecars) as load:
        await load.goes_on()
        await joining.start()
        await until(lambda: decides(joining))
        for engine in roles.engines:
            await restarted(engine)
            await until(lambda engine=engine: decides(engine))  # type: ignore[misc] # mypy cannot infer it
            await asyncio.sleep(MIN_READY_S)
            await load.goes_on()
        # The engines are behind the sidecars: what was asked of one that drained was answered by another.
        assert (load.wrong, load.gone) == ([], 0)
        for sidecar in roles.sidecars:
            await restarted(sidecar)
            await load.goes_on()
    assert load.wrong == []
    assert len(tool.received) == load.answered
    assert len({received.body for received in tool.received}) == load.answered
