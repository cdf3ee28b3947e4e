"""Redis stops under tools that are open when governance fails: what goes through, and what is known of it later."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.outage import PRICE_USD, Line, apart, is_back, scene_at
from tests.acceptance.scene import Scene
from tests.acceptance.wire import Answer
from tests.conftest import StartDev
from tests.interlock_dev import InterlockDev, until
from tests.redis_server import RedisServer
from tests.tool import Received, Tool, answers, never_answers, waits_for

OPEN = {"on_governance_failure": "open"}
SECRET = {"type": "hmac_sha256", "secret": "the-tools-own-secret"}
LOOK = {"city": "Oslo"}
RECEIPT = b'{"sky": "grey"}'


@pytest.fixture
async def scene(interlock_dev: StartDev, own_redis: RedisServer) -> AsyncIterator[Scene]:
    """A sidecar with its engine on a Redis that the test may stop."""
    async with scene_at(await interlock_dev(own_redis.url)) as scene:
        yield scene


@pytest.fixture
async def pair(interlock_dev: StartDev, own_redis: RedisServer) -> AsyncIterator[Scene]:
    """Two of them."""
    first, second = await asyncio.gather(interlock_dev(own_redis.url), interlock_dev(own_redis.url))
    async with scene_at(first, second) as scene:
        yield scene


async def judged(scene: Scene, name: str, *, at: InterlockDev | None = None) -> None:
    """Has the engine say yes to a call of this tool: before that it is closed."""
    assert (await scene.call(name, {"city": "first"}, at=at)).decision == "executed"


async def back(scene: Scene, redis: RedisServer, degraded: int) -> list[dict[str, Any]]:
    """Starts Redis again. The calls that went through without it, once all of them are on record."""
    if not redis.runs:
        redis.start()

    async def all_are_told() -> bool:
        # What /readyz says may be a second old, and from before the outage.
        trail = await scene.operator.get(f"{scene.first.url}/v1/audit", params={"agent_id": scene.agent})
        return trail.is_success and len(await scene.events("degraded")) >= degraded

    await until(all_are_told)
    found = await scene.events("degraded")
    assert len(found) == degraded, found
    return found


def was_unjudged(answer: Answer) -> bool:
    told = answer.header("Interlock-Degraded")
    assert told in (None, "governance_unavailable")
    return told is not None and (answer.decision, answer.header("Interlock-Settled")) == ("executed", "pending")


def keys_of(received: list[Received]) -> list[str | None]:
    return [call.header("Idempotency-Key") for call in received]


async def metric(sidecar: InterlockDev, series: str) -> float:
    async with sidecar.client() as client:
        lines = (await client.get(f"{sidecar.admin_url}/metrics")).text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(series)), 0.0)


async def test_an_open_tool_is_called_without_redis_within_its_quota_and_the_engine_is_told_of_it_once(
    scene: Scene, own_redis: RedisServer, tool: Tool
) -> None:
    name = await scene.register(tool.url, auth=SECRET, open_max_calls_per_minute=3, **OPEN)
    closed = await scene.register(tool.url)
    body = {"name": "t", "url": tool.url, "on_ambiguous": "hold", **OPEN}
    refused = await scene.operator.post(f"{scene.first.url}/v1/tools", json=body)
    assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (422, ["body", "on_governance_failure"])
    await judged(scene, name)
    await judged(scene, closed)
    await scene.call(name, LOOK, headers={"Idempotency-Key": "mine"})
    sent_before = len(tool.received)
    own_redis.stop()

    own = {"Idempotency-Key": "the-agents-own-key"}
    answered = [await scene.call(name, {"city": "an-argument"}, headers=own)]
    nothing_is_in_the_clear(scene)
    answered += [await scene.call(name, {"city": f"city {n}"}) for n in range(1, 5)]
    assert [was_unjudged(answer) for answer in answered] == [True] * 3 + [False] * 2
    assert [answer.status for answer in answered] == [200] * 3 + [503] * 2
    over = answered[3]
    assert (over.json["reason"], over.header("Retry-After"), over.decision) == ("governance_unavailable", "1", "error")
    assert (await scene.call(closed, LOOK)).status == 503
    sent = tool.received[sent_before:]
    assert len(sent) == 3
    assert all(call.header("X-OnceOnly-Signature") and call.header("Signature") for call in sent)
    assert int(sent[0].header("Interlock-Fence") or 0) > int(tool.received[0].header("Interlock-Fence") or 0)
    assert await metric(scene.first, f'interlock_degraded_calls_total{{tool="{name}"}}') == 3
    assert "call.degraded" in scene.first.log.read_text()

    told = await back(scene, own_redis, 3)
    for event, answer, call in zip(told, answered, sent, strict=False):
        assert event["call_id"] == answer.header("Interlock-Call-Id") == call.header("Interlock-Call-Id")
        assert (event["verdict"], event["reason"]) == ("EXECUTE", "governance_unavailable")
        assert event["charged_usd"] == PRICE_USD
        assert event["facts"]["key"] == call.header("Idempotency-Key")
        assert (event["facts"]["outcome"], event["facts"]["status"]) == ("SUCCEEDED", 200)
        assert len(event["facts"]["args_hash"]) == 64
    assert await scene.charged() == (6, 6 * PRICE_USD)
    # Whoever retries one of them now is answered from the record.
    for n in range(1, 3):
        again = await scene.call(name, {"city": f"city {n}"})
        assert (again.replayed, again.body) == (True, answered[n].body)
    assert len(tool.received) == sent_before + 3


def nothing_is_in_the_clear(scene: Scene) -> None:
    """On the disk of the one call that went through."""
    [kept] = (scene.first.data_dir / "spool").glob("*.degraded")
    assert kept.stat().st_mode & 0o777 == 0o600
    content, log = kept.read_bytes(), scene.first.log.read_text()
    for secret in (scene.first.key, SECRET["secret"], "an-argument", "the-agents-own-key"):
        assert secret.encode() not in content
    assert "an-argument" not in log
    assert scene.first.key not in log.partition("admin key")[2].partition("\n")[2]


async def test_the_key_is_the_one_that_the_engine_derives(pair: Scene, own_redis: RedisServer, tool: Tool) -> None:
    """Over the first sidecar in the outage, over the second before it: to the tool these are the same calls."""
    tool.does(answers(500))
    name = await pair.register(tool.url, max_retries=0, **OPEN)
    calls: list[dict[str, Any]] = [{}, {"headers": {"Idempotency-Key": '"quoted"'}}, {"headers": {"Prefer": "wait=5"}}]
    for how in calls:
        await pair.call(name, LOOK, **how)
        await pair.run(name, LOOK, at=pair.second)
    before = keys_of(tool.received)
    own_redis.stop()
    for how in calls:
        assert was_unjudged(await pair.call(name, LOOK, **how))
    assert was_unjudged(await pair.run(name, LOOK, at=pair.second))
    assert keys_of(tool.received)[len(before) :] == [before[0], before[2], before[4], before[1]]
    await back(pair, own_redis, 4)


async def test_whoever_was_last_refused_or_was_never_judged_stays_out(
    scene: Scene, own_redis: RedisServer, tool: Tool, interlock_dev: StartDev
) -> None:
    name = await scene.register(tool.url, **OPEN)
    switched_off = await scene.register(tool.url, **OPEN)
    agents = ["blocked", "disabled", "revoked", "good"]
    keys = {agent: await scene.key(agent) for agent in agents}

    async def call(agent: str, called: str = name, **body: str) -> Answer:
        whose = {"Authorization": f"Bearer {keys[agent]}", "Interlock-Agent": ""}
        return await scene.call(called, body, headers=whose)

    for agent in agents:
        assert (await call(agent, turn="first")).decision == "executed"
    await call("good", switched_off, turn="first")
    await scene.ask("POST", "/v1/policies/blocked", {"blocked_tools": [name]})
    await scene.ask("POST", "/v1/agents/disabled/disable", {"reason": "no"})
    await scene.ask("POST", f"/v1/tools/{switched_off}/toggle", {"enabled": False})
    listed = await scene.ask("GET", "/v1/keys")
    revoked = next(key["key_id"] for key in listed if key["agent_id"] == "revoked")
    await scene.ask("DELETE", f"/v1/keys/{revoked}")
    told = [(await call(agent, turn="second")).json["reason"] for agent in ("blocked", "disabled", "revoked")]
    assert told == ["tool_explicitly_blocked", "agent_disabled", "invalid_key"]
    assert (await call("good", switched_off, turn="second")).json["reason"] == "tool_disabled"
    keys["stranger"] = await scene.key("stranger")
    sent = len(tool.received)

    own_redis.stop()
    for agent in ("blocked", "disabled", "revoked", "stranger"):
        assert (await call(agent, turn="third")).json["reason"] == "governance_unavailable", agent
    assert (await call("good", switched_off, turn="third")).status == 503
    assert len(tool.received) == sent
    assert was_unjudged(await call("good", turn="third"))

    own_redis.start()
    await until(lambda: is_back(scene))
    await scene.ask("POST", "/v1/switches/namespace", {"pulled": True})
    assert (await call("good", turn="fourth")).json["reason"] == "kill_switch"
    own_redis.stop()
    assert (await call("good", turn="fifth")).json["reason"] == "governance_unavailable"
    assert len(tool.received) == sent + 1


async def test_a_call_that_was_made_or_runs_in_the_outage_is_not_repeated(
    scene: Scene, own_redis: RedisServer, tool: Tool
) -> None:
    may_answer = asyncio.Event()
    name = await scene.register(tool.url, **OPEN)
    await judged(scene, name)
    tool.does(answers(body=RECEIPT), waits_for(may_answer, answers(body=RECEIPT)))
    own_redis.stop()
    first = await scene.call(name, LOOK)
    again = await scene.call(name, LOOK)
    assert (first.body, again.body, again.replayed, again.decision) == (RECEIPT, RECEIPT, True, "dedup")
    assert again.header("Interlock-Call-Id") == first.header("Interlock-Call-Id")
    assert again.header("Interlock-Degraded") == "governance_unavailable"

    own = {"Idempotency-Key": "mine"}
    running = asyncio.create_task(scene.call(name, LOOK, headers=own))
    await tool.until_received(3)
    beside = await scene.call(name, LOOK, headers=own)
    assert (beside.status, beside.json["reason"], beside.header("Retry-After")) == (409, "in_flight", "1")
    # Also once Redis is back: of a call that is not over, nothing can have been told.
    await back(scene, own_redis, 1)
    assert (await scene.call(name, LOOK, headers=own)).json["reason"] == "in_flight"
    may_answer.set()
    assert was_unjudged(await running)
    assert (await scene.call(name, LOOK, headers=own)).replayed
    assert (await scene.call(name, {"city": "Rome"}, headers=own)).json["reason"] == "idempotency_key_reused"
    await back(scene, own_redis, 2)
    assert len(tool.received) == 3
    assert await scene.charged() == (3, 3 * PRICE_USD)


async def test_two_sidecars_may_both_make_a_call_under_one_key_and_its_money_is_charged_once(
    pair: Scene, own_redis: RedisServer, tool: Tool
) -> None:
    name = await pair.register(tool.url, **OPEN)
    await judged(pair, name)
    assert (await pair.call(name, {"city": "second"}, at=pair.second)).decision == "executed"
    own_redis.stop()
    for sidecar in pair.both:
        assert was_unjudged(await pair.call(name, LOOK, at=sidecar))
    sent = tool.received[-2:]
    assert keys_of(sent)[0] == keys_of(sent)[1]
    told = await back(pair, own_redis, 2)
    assert sorted(event["charged_usd"] for event in told) == [0, PRICE_USD]
    replayed = await pair.call(name, LOOK)
    assert replayed.replayed
    assert await pair.charged() == (4, 3 * PRICE_USD)


async def test_a_redis_that_hangs_and_reserved_unheard_charges_once(
    scene: Scene, own_redis: RedisServer, tool: Tool
) -> None:
    name = await scene.register(tool.url, **OPEN)
    await judged(scene, name)
    own_redis.freeze()
    assert was_unjudged(await scene.call(name, LOOK))
    assert was_unjudged(await scene.call(name, {"city": "Rome"}))
    own_redis.thaw()
    await back(scene, own_redis, 2)

    async def nothing_is_reserved() -> bool:
        return not await scene.ask("GET", f"/v1/calls?agent_id={scene.agent}")

    await until(nothing_is_reserved)
    assert (await scene.call(name, LOOK)).replayed
    assert len(tool.received) == 3
    assert await scene.charged() == (3, 3 * PRICE_USD)


async def test_a_dead_engine_is_an_outage_as_well(own_redis: RedisServer, tool: Tool, tmp_path: Path) -> None:
    async with apart(tmp_path, own_redis.url) as roles, scene_at(roles.near, roles.far) as scene:
        name = await scene.register(tool.url, **OPEN)
        await judged(scene, name)
        await roles.engine.kill()
        assert was_unjudged(await scene.call(name, LOOK))
        assert (await scene.call(name, LOOK, at=roles.far)).json["reason"] == "governance_unavailable"
        await roles.engine.start()
        await back(scene, own_redis, 1)
        assert (await scene.call(name, LOOK, at=roles.far)).replayed
        assert await scene.charged() == (2, 2 * PRICE_USD)


async def test_a_killed_sidecar_tells_of_its_calls_when_it_is_back_also_of_the_one_it_was_killed_in(
    scene: Scene, own_redis: RedisServer, tool: Tool
) -> None:
    name = await scene.register(tool.url, **OPEN)
    await judged(scene, name)
    tool.does(answers(body=RECEIPT), never_answers(), answers(body=b'{"sky": "blue"}'))
    own_redis.stop()
    done = await scene.call(name, LOOK)
    running = asyncio.create_task(scene.call(name, {"city": "Rome"}))
    await tool.until_received(3)
    await scene.first.kill()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await running

    own_redis.start()
    await scene.first.start()
    told = await back(scene, own_redis, 2)
    outcomes = {event["call_id"]: event["facts"]["outcome"] for event in told}
    assert sorted(outcomes.values()) == ["AMBIGUOUS", "SUCCEEDED"]
    assert outcomes[done.header("Interlock-Call-Id")] == "SUCCEEDED"
    assert (await scene.call(name, LOOK)).body == RECEIPT
    # The other may have happened, and its tool declares that it may be tried again, under its key.
    again = await scene.call(name, {"city": "Rome"})
    assert (again.decision, again.body) == ("executed", b'{"sky": "blue"}')
    assert keys_of(tool.received)[2] == keys_of(tool.received)[3]
    assert await scene.charged() == (4, 3 * PRICE_USD)


async def test_a_record_whose_acknowledgement_is_lost_is_made_once(
    interlock_dev: StartDev, own_redis: RedisServer, tool: Tool
) -> None:
    socket = own_redis.url.removeprefix("unix://")
    async with Line(socket) as line, scene_at(await interlock_dev(f"redis://{line.address}")) as scene:
        name = await scene.register(tool.url, **OPEN)
        await judged(scene, name)
        await line.cut()
        assert was_unjudged(await scene.call(name, LOOK))
        # The script answers {1, charged}, which nobody hears; the process may die before it asks again, or after.
        lost = line.loses_reply(b"*2\r\n:1\r\n")
        line.mend()
        async with asyncio.timeout(20):
            await lost.wait()
        await scene.first.kill()
        await scene.first.start()
        await back(scene, own_redis, 1)
        assert not list((scene.first.data_dir / "spool").glob("*.degraded"))
        assert await scene.charged() == (2, 2 * PRICE_USD)
