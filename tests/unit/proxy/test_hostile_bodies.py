"""Bodies that are made to be hard to read hold up nobody but who sent them."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from interlock.proxy import run_route
from interlock.proxy.api import visit
from interlock.proxy.app import Sidecar
from interlock.proxy.large_bodies import MAX_INLINE_BYTES, OF_ALL_STRANGERS, OF_ONE_KNOWN, OF_ONE_STRANGER
from interlock.proxy.stages import authorize
from tests.tool import Tool
from tests.unit.proxy.agents import client
from tests.unit.proxy.scripted_engine import ScriptedEngine, embedded_sidecar, route

LARGE = b'"' + b"x" * MAX_INLINE_BYTES + b'"'
RUN = b'{"agent_id":"a","tool":"charge","args":{"x":%b}}' % LARGE
JSON = {"Content-Type": "application/json"}
HOSTILE = {
    "entries": b'{"blocked_tools":[' + b",".join([b'"!"'] * 60_000) + b"]}",
    "limits": b'{"max_calls_per_tool":{' + b",".join(b'"%x":"x"' % index for index in range(20_000)) + b"}}",
    "unknown fields": b"{" + b",".join(b'"%x":1' % index for index in range(20_000)) + b"}",
    "bad rules": b'{"pricing_rules":[' + b",".join([b'{"a":1}'] * 20_000) + b"]}",
}


class SlowReading:
    """Stands where a body is read: a large one is not done before it may end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, place: object, name: str) -> None:
        self.may_end = threading.Event()
        real = getattr(place, name)

        def slow(*args: Any, **fields: Any) -> Any:
            body = fields["body"] if "body" in fields else args[-1]
            assert len(body) <= MAX_INLINE_BYTES or self.may_end.wait(20)
            return real(*args, **fields)

        monkeypatch.setattr(place, name, slow)


@pytest.fixture
async def others(sidecar: Sidecar) -> AsyncIterator[httpx.AsyncClient]:
    async with client(sidecar) as speaking:
        speaking.headers["Authorization"] = "Bearer another"
        yield speaking


async def first_of(asking: list[asyncio.Task[httpx.Response]]) -> httpx.Response:
    """What is answered while the others wait."""
    async with asyncio.timeout(10):
        done, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
    return done.pop().result()


async def test_an_agents_large_bodies_hold_up_neither_calls_nor_names(
    engine: ScriptedEngine, tool: Tool, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.tool.CopyFrom(route(tool.url.replace("127.0.0.1", "localhost")))
    slow = SlowReading(monkeypatch, authorize, "fingerprint")
    async with AsyncExitStack() as stack:
        sidecar = await stack.enter_async_context(embedded_sidecar(engine, spool_dir))
        greedy, other = [await stack.enter_async_context(client(sidecar)) for _ in range(2)]
        other.headers["Authorization"] = "Bearer another"
        asking = [
            asyncio.create_task(greedy.post("/tools/charge", content=LARGE, headers=JSON))
            for _ in range(OF_ONE_KNOWN + 1)
        ]
        refused = await first_of(asking)
        assert (refused.status_code, refused.json()["reason"]) == (503, "busy")
        assert (refused.headers["Retry-After"], refused.json()["retryable"]) == ("1", True)
        async with asyncio.timeout(10):
            assert (await other.post("/tools/charge", json={})).status_code == 200
        large = asyncio.create_task(other.post("/tools/charge", content=LARGE, headers=JSON))
        slow.may_end.set()
        assert (await large).status_code == 200
        assert sorted(answer.status_code for answer in await asyncio.gather(*asking)) == [200] * OF_ONE_KNOWN + [503]


@pytest.mark.parametrize(
    ("place", "name", "path", "body"),
    [(visit, "judged", "/v1/policies/a", LARGE), (run_route, "_run_of", "/v1/ai/run", RUN)],
    ids=["api", "run"],
)
async def test_bodies_that_nobody_vouches_for_are_read_beside_the_loop_and_only_so_many(
    agent: httpx.AsyncClient,
    others: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    place: object,
    name: str,
    path: str,
    body: bytes,
) -> None:
    slow = SlowReading(monkeypatch, place, name)
    mine = [asyncio.create_task(agent.post(path, content=body)) for _ in range(OF_ONE_STRANGER + 1)]
    refused = await first_of(mine)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert refused.json()["detail"]["error"] == "busy"
    theirs = [
        asyncio.create_task(others.post(path, content=body, headers={"Authorization": f"Bearer {index}"}))
        for index in range(OF_ALL_STRANGERS - OF_ONE_STRANGER + 1)
    ]
    assert (await first_of(theirs)).json()["detail"]["error"] == "busy"
    async with asyncio.timeout(10):
        assert (await others.post("/tools/charge", json={})).status_code == 200
    slow.may_end.set()
    answers = await asyncio.gather(*mine, *theirs)
    assert sum(answer.status_code == 503 for answer in answers) == 2


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
async def test_a_body_of_mistakes_gets_a_short_answer(agent: httpx.AsyncClient, body: bytes) -> None:
    assert MAX_INLINE_BYTES < len(body) <= 256 * 1024
    answer = await agent.post("/v1/policies/a", content=body)
    assert answer.status_code == 422
    assert len(answer.content) < 4096


async def test_operators_bodies_end_at_256_kib_and_runs_at_what_is_configured(agent: httpx.AsyncClient) -> None:
    fits, over = (b'{"reason":"%b"}' % (b"x" * (256 * 1024 - 13 + more)) for more in (0, 1))
    assert (await agent.post("/v1/agents/a/disable", content=fits)).status_code == 422
    assert (await agent.post("/v1/agents/a/disable", content=over)).status_code == 413
    run = b'{"agent_id":"a","tool":"charge","args":{"x":"%b"}}' % (b"x" * 512 * 1024)
    assert (await agent.post("/v1/ai/run", content=run)).status_code == 200
