"""Timelines of runs, as the stock client, agents and operators see them at running sidecars."""

import asyncio
import hashlib
import secrets
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from onceonly import OnceOnly
from onceonly.exceptions import ApiError

from tests.acceptance.scene import Scene
from tests.tool import Tool

ALONE = ["run_started", "tool_call", "tool_result", "run_finished"]
UNKNOWN = "never-registered"


@pytest.fixture
def run_id() -> str:
    return f"run-{secrets.token_hex(6)}"


@pytest.fixture
def client(scene: Scene) -> Iterator[OnceOnly]:
    with OnceOnly(scene.first.key, base_url=f"{scene.first.url}/v1", timeout=30) as stock:
        yield stock


async def told(scene: Scene, run_id: str) -> list[dict[str, Any]]:
    """The whole timeline, from the other sidecar."""
    found = await scene.ask("GET", f"/v1/runs/{quote(run_id, safe='')}?limit=2000", at=scene.second)
    assert (found["run_id"], found["total"]) == (run_id, len(found["events"]))
    return list(found["events"])


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


async def test_the_stock_client_posts_events_and_finds_them_again(client: OnceOnly, scene: Scene) -> None:
    run_id = f"run x/y {secrets.token_hex(4)} ü%2F?"
    posted = await asyncio.to_thread(
        client.post_event,
        run_id=run_id,
        type="tool_result",
        ts=1_700_000_000,
        status="ok",
        duration_ms=120,
        step="second",
        tool="mail",
        req_id="req-1",
        lease_id="a-capability",
        message="done",
        data={"n": 12345678901234567890, "price": 0.1, "deep": [{"a": None}]},
        extra_field={"x": [1.5, "ü"]},
        event_id_of_mine=7,
    )
    assert posted == {"ok": True, "event_id": posted["event_id"], "run_id": run_id}
    found = await asyncio.to_thread(client.get_run_timeline, run_id)
    assert (found["run_id"], found["total"]) == (run_id, 1)
    (event,) = found["events"]
    assert event | {"posted_by": None} == {
        "event_id": posted["event_id"], "run_id": run_id, "ts": 1_700_000_000, "type": "tool_result", "status": "ok",
        "duration_ms": 120, "step": "second", "tool": "mail", "req_id": "req-1", "agent_id": None, "message": "done",
        "data": {"n": 12345678901234567890, "price": 0.1, "deep": [{"a": None}]},
        "extra_field": {"x": [1.5, "ü"]}, "event_id_of_mine": 7, "posted_by": None,
        "lease_digest": hashlib.sha256(b"a-capability").hexdigest()[:16],
    }  # fmt: skip
    async with OnceOnly(scene.first.key, base_url=f"{scene.first.url}/v1") as asynchronous:
        await asynchronous.post_event_async(run_id=run_id, type="note", event_id="forged", posted_by="nobody")
        events = (await asynchronous.get_run_timeline_async(run_id, limit=1, offset=1))["events"]
        assert kinds(events) == ["note"]
        assert events[0]["event_id"].startswith("ev_")
        assert events[0]["posted_by"].startswith("key_")
        assert run_id in [event["run_id"] for event in (await asynchronous.events_async(limit=500))["data"]]


async def test_a_run_of_the_stock_client_tells_of_itself(
    client: OnceOnly, scene: Scene, tool: Tool, run_id: str
) -> None:
    name = await scene.register(tool.url, risk="medium")
    for _ in range(2):
        await asyncio.to_thread(
            client.ai.run, agent_id=scene.agent, tool=name, args={"n": 1}, run_id=run_id, spend_usd=0.25
        )
    events = await told(scene, run_id)
    assert kinds(events) == [*ALONE, *ALONE[1:]]
    assert [event["status"] for event in events] == [
        "in_progress", "allowed", "ok", "completed", "dedup", "ok", "completed",
    ]  # fmt: skip
    assert {event["agent_id"] for event in events} == {scene.agent}
    assert {event["tool"] for event in events} == {name}
    result = events[2]
    assert (result["data"]["spend_usd"], result["data"]["http_status"], result["data"]["decision"]) == (
        0.25,
        200,
        "executed",
    )
    assert events[1]["data"]["risk_level"] == "medium"
    assert result["duration_ms"] >= 0
    newest = (await asyncio.to_thread(client.events, 500))["data"]
    assert [event["event_id"] for event in newest if event["run_id"] == run_id] == [
        event["event_id"] for event in reversed(events)
    ]


async def test_a_tool_that_nobody_registered_is_seen_in_the_timeline(
    client: OnceOnly, scene: Scene, run_id: str
) -> None:
    with pytest.raises(ApiError) as failed:
        await asyncio.to_thread(client.ai_run, agent_id=scene.agent, tool=UNKNOWN, args={"n": 1}, run_id=run_id)
    assert failed.value.status_code == 404
    assert failed.value.detail["error"] == "tool_not_found"
    events = await told(scene, run_id)
    assert kinds(events) == ALONE
    assert [event["message"] for event in events[2:]] == ["tool_not_found"] * 2
    header = {"Interlock-Run-Id": run_id}
    assert (await scene.call(UNKNOWN, {"n": 1}, headers=header)).status == 404
    events = await told(scene, run_id)
    assert kinds(events) == [*ALONE, *ALONE[1:]]
    assert {event["agent_id"] for event in events} == {scene.agent}


async def test_of_60_calls_at_two_sidecars_the_run_tells_of_each_exactly_once(
    scene: Scene, tool: Tool, run_id: str
) -> None:
    name = await scene.register(tool.url)
    await scene.policy(max_actions_per_hour=40)
    header = {"Interlock-Run-Id": run_id}
    answers = await asyncio.gather(
        *(scene.call(name, {"n": number}, at=scene.both[number % 2], headers=header) for number in range(60))
    )
    assert Counter(answer.status for answer in answers) == {200: 40, 429: 20}
    events = await told(scene, run_id)
    assert Counter((event["type"], event["status"]) for event in events if event["type"].startswith("tool_")) == {
        ("tool_call", "allowed"): 40,
        ("tool_result", "ok"): 40,
        ("tool_call", "blocked"): 20,
        ("tool_result", "blocked"): 20,
    }
    calls = [answer.header("Interlock-Call-Id") for answer in answers]
    assert Counter(event["req_id"] for event in events if event["type"] == "tool_call") == dict.fromkeys(calls, 1)
    assert (kinds(events)[0], kinds(events)[-1]) == ("run_started", "run_finished")
    assert kinds(events).count("run_started") == 1
    pages = [
        (await scene.ask("GET", f"/v1/runs/{run_id}?limit=7&offset={at}"))["events"] for at in range(0, len(events), 7)
    ]
    assert [event for page in pages for event in page] == events


async def test_runs_are_listed_the_latest_first_and_found_by_their_beginning(scene: Scene) -> None:
    mark = secrets.token_hex(6)
    for number in range(5):
        await scene.ask("POST", "/v1/events", {"run_id": f"{mark}-{number}", "type": "note", "status": "open", "ts": 7})
    await scene.ask("POST", "/v1/events", {"run_id": f"{mark}-1", "type": "closed"})
    found = await scene.ask("GET", f"/v1/runs?q={mark}-&limit=3", at=scene.second)
    assert found["total"] == 5
    assert [run["run_id"] for run in found["items"]] == [f"{mark}-1", f"{mark}-4", f"{mark}-3"]
    assert found["items"][1] == {
        "run_id": f"{mark}-4", "last_ts": 7, "last_type": "note", "last_status": "open", "events_count": 1,
    }  # fmt: skip
    assert (found["items"][0]["last_type"], found["items"][0]["events_count"]) == ("closed", 2)
    rest = await scene.ask("GET", f"/v1/runs?q={mark}-&limit=3&offset=3")
    assert [run["run_id"] for run in rest["items"]] == [f"{mark}-2", f"{mark}-0"]


async def test_agents_and_namespaces_see_what_is_theirs(scene: Scene, tool: Tool, run_id: str) -> None:
    name = await scene.register(tool.url)
    other = f"{scene.agent}-other"
    headers = {"Interlock-Run-Id": run_id}
    for agent in (scene.agent, other):
        answer = await scene.call(name, {"by": agent}, headers=headers | {"Interlock-Agent": agent})
        assert answer.status == 200
    await scene.ask("POST", "/v1/events", {"run_id": run_id, "type": "note"})
    async with scene.first.client(await scene.key(scene.agent)) as agent_client:
        seen = (await agent_client.get(f"/v1/runs/{run_id}")).json()
        assert ({event["agent_id"] for event in seen["events"]}, kinds(seen["events"])) == ({scene.agent}, ALONE)
        assert {event["agent_id"] for event in (await agent_client.get("/v1/events")).json()} == {scene.agent}
        (run,) = (await agent_client.get("/v1/runs")).json()["items"]
        assert (run["run_id"], run["events_count"]) == (run_id, 4)
        posted = await agent_client.post("/v1/events", json={"run_id": run_id, "type": "mine"})
        assert posted.status_code == 200
        denied = await agent_client.post("/v1/events", json={"run_id": run_id, "type": "his", "agent_id": other})
        assert denied.json()["detail"]["error"] == "permission_denied"
    assert len(await told(scene, run_id)) == 10
    team = f"team-{secrets.token_hex(4)}"
    await scene.ask("POST", f"/v1/namespaces/{team}", {})
    for path, nothing in ((f"/v1/runs/{run_id}", {"run_id": run_id, "total": 0, "events": []}), ("/v1/events", [])):
        answer = await scene.operator.get(scene.first.url + path, headers={"Interlock-Namespace": team})
        assert answer.json() == nothing


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"run_id": "r"},
        {"run_id": " ", "type": "t"},
        {"run_id": "r\n", "type": "t"},
        {"run_id": "ü" * 129, "type": "t"},
        {"run_id": "r", "type": ""},
        {"run_id": "r", "type": "t" * 65},
        {"run_id": "r", "type": "t", "ts": -1},
        {"run_id": "r", "type": "t", "ts": "now"},
        {"run_id": "r", "type": "t", "ts": 10**15},
        {"run_id": "r", "type": "t", "duration_ms": 1.5},
        {"run_id": "r", "type": "t", "agent_id": "a b"},
        {"run_id": "r", "type": "t", "data": []},
        {"run_id": "r", "type": "t", "data": {"x": "y" * 9000}},
        {"run_id": "r", "type": "t", "more": "y" * 9000},
        {"run_id": "r", "type": "t", "message": "m" * 2049},
    ],
    ids=str,
)
async def test_an_event_that_is_none_is_refused_and_nothing_is_kept(scene: Scene, body: dict[str, Any]) -> None:
    answer = await scene.operator.post(f"{scene.first.url}/v1/events", json=body)
    assert (answer.status_code, isinstance(answer.json()["detail"], list)) == (422, True), answer.text


@pytest.mark.parametrize(
    "path",
    ["/v1/runs?limit=0", "/v1/runs?limit=201", "/v1/runs/r?limit=2001", "/v1/runs/r?offset=-1", "/v1/events?limit=x",
     "/v1/events?offset=10001", "/v1/runs/%0A", "/v1/runs/r?unknown=1"],
)  # fmt: skip
async def test_pages_that_there_are_none_of_are_refused(scene: Scene, path: str) -> None:
    assert (await scene.operator.get(scene.first.url + path)).status_code in (400, 422)


async def test_numbers_and_nesting_that_no_reader_takes_are_refused(scene: Scene) -> None:
    url, json = f"{scene.first.url}/v1/events", {"Content-Type": "application/json"}
    deep = "[" * 101 + "]" * 101
    for value in ("1e999", "NaN", deep, '"\\ud800"'):
        raw = f'{{"run_id":"r","type":"t","data":{{"x":{value}}}}}'
        answer: httpx.Response = await scene.operator.post(url, content=raw, headers=json)
        assert answer.status_code in (400, 422), (value[:20], answer.text)


async def test_the_days_of_a_namespace_are_counted_for_the_stock_client(scene: Scene, tool: Tool) -> None:
    team = f"team-{secrets.token_hex(4)}"
    await scene.ask("POST", f"/v1/namespaces/{team}", {"default_policy": "allow"})
    made = await scene.operator.post(
        f"{scene.first.url}/v1/keys", json={"role": "operator"}, headers={"Interlock-Namespace": team}
    )
    async with OnceOnly(made.json()["key"], base_url=f"{scene.second.url}/v1", timeout=30) as client:
        await client.gov.create_tool_async({"name": "pay", "url": tool.url})
        await client.gov.upsert_policy_async({"agent_id": "a", "max_actions_per_hour": 3})
        for number in (1, 1, 2, 3, 4):
            await client.ai.run_async(agent_id="a", tool="pay", args={"n": number}, spend_usd=0.5)
        to_day = datetime.now(UTC).date()
        rows = (await client.metrics_async(str(to_day - timedelta(days=7)), str(to_day)))["data"]
    assert len(rows) == 8
    counted = [sum(row[name] for row in rows) for name in ("total_actions", "blocked_actions", "dedup_actions")]
    assert (counted, sum(row["total_spend_usd"] for row in rows)) == ([3, 1, 1], 1.5)
    assert [row["day"] for row in rows] == [str(to_day - timedelta(days=ago)) for ago in range(7, -1, -1)]


@pytest.mark.parametrize("query", ["", "from_day=2026-01-02&to_day=2026-01-01", "from_day=2026-02-30&to_day=2026-03-01",
                                   "from_day=today&to_day=2026-03-01"])  # fmt: skip
async def test_days_that_there_are_none_of_are_refused(scene: Scene, query: str) -> None:
    assert (await scene.operator.get(f"{scene.first.url}/v1/metrics?{query}")).status_code == 422
