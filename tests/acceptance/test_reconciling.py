"""Tools that must not be repeated are asked what became of a call that nobody knows of, until they say."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.outage import PRICE_USD
from tests.acceptance.scene import Scene
from tests.acceptance.test_sidecar_death import killed
from tests.acceptance.wire import Answer
from tests.interlock_dev import InterlockDev, until
from tests.tool import Script, Tool, answers, never_answers, resets
from tests.unit.test_documents import snippets

CHARGE = {"order": 17}
SECRET = "the-tools-own-secret"
WAIT = {"Prefer": "wait=20"}


def says(outcome: str, **more: Any) -> Script:
    return answers(body=json.dumps({"outcome": outcome, **more}).encode())


HAPPENED = says("happened", answer={"status": 201, "headers": {"X-Till": "7 €"}, "body": '{"receipt": "ch_1"}'})


@pytest.fixture
async def books() -> AsyncIterator[Tool]:
    """Where a tool's owner can be asked."""
    backend = Tool()
    await backend.start()
    yield backend
    await backend.stop()


async def held(scene: Scene, tool: Tool, books: Tool, **fields: Any) -> tuple[str, Answer]:
    """A tool whose only call so far had no answer: its name, and what the agent was told."""
    await scene.policy(pricing_rules=[{"tool": "*", "price_usd": PRICE_USD}])
    told = {"timeout_ms": 250, "on_ambiguous": "hold", "auth": {"type": "hmac_sha256", "secret": SECRET}}
    name = await scene.register(tool.url, reconcile_url=books.url + "/outcome", **told | fields)
    answer = await scene.call(name, CHARGE)
    assert (answer.status, answer.json["retryable"]) == (504, False)
    return name, answer


async def resolutions(scene: Scene, count: int = 1) -> list[dict[str, Any]]:
    """Waits for so many."""

    async def resolved() -> bool:
        return len(await scene.events("resolution")) >= count

    await until(resolved, within_s=30)
    return await scene.events("resolution")


async def test_a_call_that_happened_is_replayed_with_the_answer_that_the_tool_tells(
    scene: Scene, tool: Tool, books: Tool
) -> None:
    books.does(HAPPENED)
    name, lost = await held(scene, tool.does(never_answers()), books)
    assert (await scene.call(name, CHARGE)).json["reason"] == "outcome_unknown"
    [event] = await resolutions(scene)
    assert (event["verdict"], event["facts"]) == ("SUCCEEDED", {"by": "reconcile_url", "said": "happened"})
    again = await scene.call(name, CHARGE)
    till = "7 €".encode().decode("iso-8859-1")  # its bytes, as any field is read
    assert (again.status, again.body, again.header("X-Till")) == (201, b'{"receipt": "ch_1"}', till)
    assert (again.replayed, again.decision) == (True, "dedup")
    assert await scene.charged() == (1, PRICE_USD)
    assert len(tool.received) == 1

    # Two engines look after the calls, and one asked, once.
    [question] = books.received
    asked, sent = json.loads(question.body), tool.received[0]
    assert (question.method, question.target) == ("POST", "/tool/outcome")
    assert asked["call_id"] == lost.header("Interlock-Call-Id") == question.header("Interlock-Call-Id")
    assert asked["key"] == sent.header("Idempotency-Key") != question.header("Idempotency-Key")
    assert (asked["tool"], asked["agent_id"], asked["namespace"], asked["tries"]) == (name, scene.agent, "default", 1)
    assert str(asked["fence"]) == sent.header("Interlock-Fence")
    [decided] = [event for event in await scene.events("decision") if event["verdict"] == "EXECUTE"]
    assert asked["args_hash"] == decided["facts"]["args_hash"] == hashlib.sha256(b'{"order":17}').hexdigest()
    snippets("RFC 9421")["verify"](SECRET, "POST", books.url + "/outcome", dict(question.headers), question.body)


async def test_a_call_that_did_not_happen_is_free_again_and_costs_nothing(
    scene: Scene, tool: Tool, books: Tool
) -> None:
    """Asked in vain first: an error, a broken connection, no JSON, and a tool that does not know yet."""
    books.does(
        answers(500, b'{"outcome": "happened"}'), resets(), answers(body=b"{"), says("unknown"), says("not_happened")
    )
    name, _ = await held(scene, tool.does(never_answers(), answers()), books)
    [event] = await resolutions(scene)
    assert (event["verdict"], event["facts"]["said"], event["charged_usd"]) == ("NOT_SENT", "not_happened", -PRICE_USD)
    assert len(books.received) == 5
    assert await scene.charged() == (0, 0)
    assert (await scene.call(name, CHARGE)).decision == "executed"
    assert tool.received[0].header("Idempotency-Key") == tool.received[1].header("Idempotency-Key")
    assert await scene.charged() == (1, PRICE_USD)


async def test_a_call_whose_sidecar_died_is_asked_about_once_it_must_be_over(
    scene: Scene, tool: Tool, books: Tool, tmp_path: Path
) -> None:
    doomed = InterlockDev(tmp_path / "doomed", scene.first.redis_url, {})
    await doomed.start()
    books.does(says("happened"))
    await scene.policy(pricing_rules=[{"tool": "*", "price_usd": PRICE_USD}])
    name = await scene.register(
        tool.does(never_answers()).url, timeout_ms=1000, on_ambiguous="hold", reconcile_url=books.url
    )
    running = asyncio.create_task(scene.call(name, CHARGE, at=doomed))
    await tool.until_received(1)
    began = asyncio.get_running_loop().time()
    await killed(doomed, running)
    await books.until_received(1)
    # The lease (2 s), the longest try that may have begun under it (1 s), and a second.
    assert asyncio.get_running_loop().time() - began > 3.8
    await resolutions(scene)
    again = await scene.call(name, CHARGE, headers=WAIT)
    assert (again.status, again.json["reason"], again.replayed) == (409, "answer_not_kept", True)
    assert len(tool.received) == 1
    assert await scene.charged() == (1, PRICE_USD)


async def test_an_operator_may_be_faster_and_what_is_unknown_is_counted(scene: Scene, tool: Tool, books: Tool) -> None:
    books.does(says("unknown"))
    name, lost = await held(scene, tool.does(never_answers()), books)
    await books.until_received(1)

    async def series(name: str) -> float:
        found = 0.0
        for sidecar in scene.both:
            async with httpx.AsyncClient() as client:
                lines = (await client.get(f"{sidecar.admin_url}/metrics")).text.splitlines()
            found = max([found, *(float(line.split()[-1]) for line in lines if line.startswith(name))])
        return found

    async def is_counted() -> bool:
        return await series("interlock_calls_unknown ") >= 1

    await until(is_counted)
    assert await series('interlock_reconciliations_total{result="unknown"}') >= 1
    call_id = lost.header("Interlock-Call-Id")
    await scene.ask("POST", f"/v1/calls/{call_id}/resolve", {"outcome": "succeeded", "agent_id": scene.agent})
    [event] = await resolutions(scene)
    assert "by" not in event["facts"]
    assert (await scene.call(name, CHARGE)).json["reason"] == "answer_not_kept"
