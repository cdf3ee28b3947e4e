"""The scene of a call: two sidecars on one Redis, an agent nobody has seen before, and the tools it calls."""

import asyncio
import json
import secrets
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.acceptance.wire import Answer, Arriving, send, sending
from tests.interlock_dev import InterlockDev, until

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Sidecars:
    """Two `interlock dev` processes on one Redis."""

    first: InterlockDev
    second: InterlockDev


class Scene:
    """One agent on the sidecars that all tests share; its names are its own, so no test sees another's."""

    def __init__(self, sidecars: Sidecars, operator: httpx.AsyncClient) -> None:
        self.first = sidecars.first
        self.second = sidecars.second
        self.both = (sidecars.first, sidecars.second)
        self.operator = operator
        self.agent = f"agent-{secrets.token_hex(6)}"

    # What an operator does

    async def register(self, url: str, **fields: Any) -> str:
        """Registers a tool, or, given its `name`, replaces it. Returns its name."""
        tool = {"name": f"tool-{secrets.token_hex(6)}", "url": url, **fields}
        return str((await self.ask("POST", "/v1/tools", tool))["name"])

    async def policy(self, **policy: Any) -> None:
        await self.ask("POST", f"/v1/policies/{self.agent}", policy)

    async def key(self, agent: str) -> str:
        """A key of an agent's own."""
        return str((await self.ask("POST", "/v1/keys", {"role": "agent", "agent_id": agent}))["key"])

    async def ask(self, method: str, path: str, body: object = None, *, at: InterlockDev | None = None) -> Any:
        """Something of the REST API that has to succeed."""
        asked = await self.operator.request(method, (at or self.first).url + path, json=body)
        assert asked.status_code == 200, asked.text
        return asked.json()

    async def until_idle(self) -> None:
        """None of the agent's calls is under way any more."""

        async def idle() -> bool:
            return not await self.ask("GET", f"/v1/calls?agent_id={self.agent}&state=in_flight")

        await until(idle)

    # What an agent does

    def calling(
        self,
        tool: str,
        body: object = b"",
        *,
        at: InterlockDev | None = None,
        method: str = "POST",
        below: str = "",
        headers: Mapping[str, str] = {},
    ) -> AbstractAsyncContextManager[Arriving]:
        """A call of `/tools/{tool}`. A body that is not bytes is sent as JSON."""
        sidecar = at or self.first
        whose = {"Authorization": f"Bearer {sidecar.key}", "Interlock-Agent": self.agent}
        fields = {**whose, **({} if isinstance(body, bytes) else JSON), **headers}
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return sending(sidecar.port, method, f"/tools/{tool}{below}", _set(fields), raw)

    async def call(self, tool: str, body: object = b"", **how: Any) -> Answer:
        """A call of `/tools/{tool}` and its whole answer."""
        async with self.calling(tool, body, **how) as arriving:
            await arriving.head()
            return await arriving.rest()

    async def run(
        self,
        tool: str,
        args: object = None,
        *,
        at: InterlockDev | None = None,
        headers: Mapping[str, str] = {},
        **fields: Any,
    ) -> Answer:
        """The same through `POST /v1/ai/run`. Bytes are the args as they are to be written."""
        sidecar = at or self.first
        written = args if isinstance(args, bytes) else json.dumps(args or {}).encode()
        rest = json.dumps({"agent_id": self.agent, "tool": tool, **fields}).encode()
        whose = {"Authorization": f"Bearer {sidecar.key}"}
        body = rest[:-1] + b',"args":' + written + b"}"
        return await send(sidecar.port, "POST", "/v1/ai/run", _set({**whose, **JSON, **headers}), body)

    # What is seen of it afterwards

    async def figures(self) -> tuple[int, int, float]:
        """Actions, refusals and USD spent."""
        told = await self.ask("GET", f"/v1/agents/{self.agent}/metrics?period=day")
        return told["total_actions"], told["blocked_actions"], told["total_spend_usd"]

    async def logs(self) -> list[dict[str, Any]]:
        """The agent's decisions, newest first."""
        return list(await self.ask("GET", f"/v1/agents/{self.agent}/logs?limit=500"))

    async def events(self, kind: str = "") -> list[dict[str, Any]]:
        """The whole trail of the agent, or what is of one kind in it. Fails if there is a gap in it."""
        found: list[dict[str, Any]] = []
        while page := await self.ask("GET", f"/v1/audit?agent_id={self.agent}&after_seq={len(found)}&limit=500"):
            found += page
        assert [event["seq"] for event in found] == list(range(1, len(found) + 1))
        return [event for event in found if kind in ("", event["type"])]

    async def asked(self) -> int:
        """How often the two sidecars have asked the engine for a decision, and been answered."""
        return await self.counted('interlock_engine_call_seconds_count{method="authorize"}')

    async def counted(self, series: str) -> int:
        """What the two sidecars have counted of a series of their metrics."""
        return sum([await _count(at, series) for at in self.both])

    async def until_asked(self, count: int, *calls: asyncio.Task[Answer]) -> None:
        """Waits until `asked` is so many. Fails if one of the calls is over before."""
        async with asyncio.timeout(30):
            while await self.asked() < count:
                assert not (over := [call.result() for call in calls if call.done()]), over[:3]
                await asyncio.sleep(0.2)

    async def charged(self) -> tuple[int, float]:
        """Actions and USD that stand on the account, as the trail and the figures agree."""
        actions, _, spent = await self.figures()
        assert round(sum(event["charged_usd"] for event in await self.events()), 6) == spent
        return actions, spent


def _set(fields: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Fields to send; one set to nothing is not sent."""
    return [(name, value) for name, value in fields.items() if value]


async def _count(sidecar: InterlockDev, series: str) -> int:
    async with httpx.AsyncClient() as client:
        lines = (await client.get(f"{sidecar.admin_url}/metrics")).text.splitlines()
    return next((int(float(line.rpartition(" ")[2])) for line in lines if line.startswith(series)), 0)
