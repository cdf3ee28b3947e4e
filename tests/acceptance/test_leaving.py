"""An agent that hangs up in mid-call, and a sidecar that is told to end: what is under way is brought to its end."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.acceptance.outage import PRICE_USD
from tests.acceptance.scene import JSON, Scene
from tests.acceptance.wire import sending
from tests.interlock_dev import InterlockDev
from tests.tool import Tool, answers, never_answers, streams, waits_for

CHARGE = {"order": 17}
PRICED = [{"tool": "*", "price_usd": PRICE_USD}]
WAIT = {"Prefer": "wait=20"}
RECEIPT = b'{"receipt": "ch_1"}'
EVENTS = (b"data: one\n\n", b"data: two\n\n", b"data: three\n\n")


async def pieces(may_go_on: asyncio.Event) -> AsyncIterator[bytes]:
    """The first event at once, the others when they may."""
    yield EVENTS[0]
    await may_go_on.wait()
    for event in EVENTS[1:]:
        yield event


async def test_a_call_is_settled_also_if_its_agent_has_hung_up(scene: Scene, tool: Tool) -> None:
    await scene.policy(pricing_rules=PRICED)
    may_answer = asyncio.Event()
    name = await scene.register(tool.does(waits_for(may_answer, answers(201, RECEIPT))).url)
    async with scene.calling(name, CHARGE):
        await tool.until_received(1)
    may_answer.set()
    replayed = await scene.call(name, CHARGE, headers=WAIT)
    assert (replayed.status, replayed.body, replayed.replayed) == (201, RECEIPT, True)
    assert [event["verdict"] for event in await scene.events("settlement")] == ["SUCCEEDED"]
    assert len(tool.received) == 1
    assert await scene.charged() == (1, PRICE_USD)


async def test_a_run_is_settled_also_if_its_agent_has_hung_up(scene: Scene, tool: Tool) -> None:
    await scene.policy(pricing_rules=PRICED)
    may_answer = asyncio.Event()
    name = await scene.register(tool.does(waits_for(may_answer, answers(body=RECEIPT))).url)
    whose = [("Authorization", f"Bearer {scene.first.key}"), *JSON.items()]
    body = json.dumps({"agent_id": scene.agent, "tool": name, "args": CHARGE}).encode()
    async with sending(scene.first.port, "POST", "/v1/ai/run", whose, body):
        await tool.until_received(1)
    may_answer.set()
    replayed = await scene.run(name, CHARGE)
    assert (replayed.json["decision"], replayed.json["result"]) == ("dedup", json.loads(RECEIPT))
    assert len(tool.received) == 1
    assert await scene.charged() == (1, PRICE_USD)


async def test_a_stream_is_read_to_its_end_and_kept_also_if_its_agent_has_hung_up(scene: Scene, tool: Tool) -> None:
    may_go_on = asyncio.Event()
    name = await scene.register(tool.does(streams(pieces(may_go_on), {"Content-Type": "text/event-stream"})).url)
    async with scene.calling(name, CHARGE) as arriving:
        await arriving.head()
        assert await arriving.piece() == EVENTS[0]
    may_go_on.set()
    replayed = await scene.call(name, CHARGE, headers=WAIT)
    assert (replayed.status, replayed.body, replayed.replayed) == (200, b"".join(EVENTS), True)
    assert len(tool.received) == 1


async def test_a_sidecar_told_to_end_is_not_ready_at_once_and_ends_when_its_last_answer_has_left_whole(
    scene: Scene, tool: Tool, tmp_path: Path
) -> None:
    leaving = InterlockDev(tmp_path / "leaving", scene.first.redis_url, {})
    await leaving.start()
    assert leaving.process is not None
    may_go_on = asyncio.Event()
    short, stream = waits_for(may_go_on, answers(body=RECEIPT)), streams(pieces(may_go_on))
    name = await scene.register(tool.does(short, short, stream).url)
    call = asyncio.create_task(scene.call(name, {"order": 1}, at=leaving))
    await tool.until_received(1)
    run = asyncio.create_task(scene.run(name, {"order": 2}, at=leaving))
    await tool.until_received(2)
    async with asyncio.timeout(30), scene.calling(name, {"order": 3}, at=leaving) as streaming:
        await streaming.head()
        assert await streaming.piece() == EVENTS[0]
        leaving.process.send_signal(signal.SIGTERM)
        async with httpx.AsyncClient(base_url=leaving.admin_url) as admin:
            ready = await admin.get("/readyz")
            assert (ready.status_code, ready.json()["reason"]) == (503, "draining")
            assert (await admin.get("/healthz")).status_code == 200
        refused = await scene.call(name, {"order": 4}, at=leaving)
        assert (refused.status, refused.json["reason"], refused.header("Retry-After")) == (503, "draining", "1")
        assert (await scene.run(name, {"order": 5}, at=leaving)).json["detail"]["error"] == "draining"
        assert leaving.process.returncode is None

        may_go_on.set()
        streamed = await streaming.rest()
        assert (streamed.body, streamed.whole) == (b"".join(EVENTS[1:]), True)
        assert ((await call).body, (await call).whole) == (RECEIPT, True)
        assert (await run).json["result"] == json.loads(RECEIPT)
        assert await leaving.process.wait() == 0
    assert len(tool.received) == 3
    assert [event["verdict"] for event in await scene.events("settlement")] == ["SUCCEEDED"] * 3


async def test_a_call_that_outlasts_the_grace_of_its_sidecar_does_not_keep_it(
    scene: Scene, tool: Tool, tmp_path: Path
) -> None:
    leaving = InterlockDev(tmp_path / "leaving", scene.first.redis_url, {"INTERLOCK_SIDECAR__DRAIN_GRACE_MS": "100"})
    await leaving.start()
    name = await scene.register(tool.does(never_answers()).url)
    call = asyncio.create_task(scene.call(name, CHARGE, at=leaving))
    await tool.until_received(1)
    async with asyncio.timeout(10):
        assert await leaving.stop() == 0
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await call
    assert await scene.events("settlement") == []
    assert (await scene.call(name, CHARGE)).json["reason"] == "in_flight"
