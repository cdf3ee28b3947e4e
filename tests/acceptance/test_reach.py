"""What a key reaches: an agent's its own calls and records; none, a wrong or a revoked one reach nothing."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from interlock.proxy.api.routes import OPERATIONS
from tests.acceptance.evidence import everything_in
from tests.acceptance.scene import Scene
from tests.tool import Tool, answers, waits_for

OTHER = "another-agent"
UNKNOWN_KEY = "once_live_" + "a" * 43
CALL = "call_" + "a" * 22

Asked = tuple[str, str, Any]
"""Method, path and JSON body."""


def an_operators(mine: str, tool: str, call_id: str) -> list[Asked]:
    """Every route that is no agent's, and every one where it names another agent."""
    other, policy = OTHER, {"max_actions_per_hour": 1_000_000}
    return [
        ("POST", "/v1/tools", {"name": tool, "url": "http://127.0.0.1:9/elsewhere"}),
        ("POST", "/v1/tools", {"name": "brand-new", "url": "http://127.0.0.1:9/", "scope_id": f"agent:{mine}"}),
        ("DELETE", f"/v1/tools/{tool}", None),
        ("POST", f"/v1/tools/{tool}/toggle", {"enabled": False}),
        ("GET", "/v1/policies", None),
        ("GET", f"/v1/policies/{other}", None),
        ("POST", f"/v1/policies/{mine}", policy),
        ("POST", f"/v1/policies/{other}", policy),
        ("POST", f"/v1/policies/{mine}/from-template", {"template": "permissive"}),
        ("DELETE", f"/v1/policies/{mine}", None),
        ("POST", "/v1/apply", {"tools": {tool: {"url": "http://127.0.0.1:9/elsewhere"}}}),
        ("POST", "/v1/apply", {"policies": {mine: policy}, "dry_run": True}),
        ("GET", f"/v1/agents/{other}", None),
        ("POST", f"/v1/agents/{mine}/disable", {}),
        ("POST", f"/v1/agents/{other}/disable", {}),
        ("POST", f"/v1/agents/{mine}/enable", {}),
        ("POST", f"/v1/agents/{other}/enable", {}),
        ("GET", f"/v1/agents/{other}/logs", None),
        ("GET", f"/v1/agents/{other}/metrics", None),
        ("POST", "/v1/keys", {"role": "agent", "agent_id": mine}),
        ("POST", "/v1/keys", {"role": "admin"}),
        ("GET", "/v1/keys", None),
        ("DELETE", "/v1/keys/key_x", None),
        ("GET", f"/v1/calls?agent_id={other}", None),
        ("GET", f"/v1/calls/{call_id}?agent_id={other}", None),
        ("POST", f"/v1/calls/{call_id}/resolve", {"outcome": "succeeded", "agent_id": other}),
        ("POST", f"/v1/calls/{call_id}/resolve", {"outcome": "not_sent"}),
        ("GET", f"/v1/audit?agent_id={other}", None),
        ("GET", f"/v1/audit/trails?agent_id={other}", None),
        ("GET", f"/v1/audit/follow?agent_id={other}", None),
        ("GET", "/v1/switches", None),
        ("POST", "/v1/switches/namespace", {"pulled": True}),
        ("POST", "/v1/switches/global", {"pulled": True}),
        ("GET", "/v1/namespaces", None),
        ("GET", "/v1/namespaces/default", None),
        ("POST", "/v1/namespaces/taken-over", {"plan": "unlimited"}),
        ("DELETE", "/v1/namespaces/default", None),
        ("GET", "/v1/plans", None),
        ("GET", "/v1/changes", None),
        ("GET", "/v1/usage?kind=ai", None),
        ("GET", "/v1/usage/all", None),
        ("POST", "/v1/me/notifications", {"email_notifications_enabled": False}),
        ("POST", "/v1/events", {"run_id": "r", "type": "note", "agent_id": other}),
        ("GET", "/v1/me/alerts", None),
        ("POST", "/v1/me/alerts", {"webhook_url": "http://127.0.0.1:9/", "secret": "not so secret"}),
        ("DELETE", "/v1/me/alerts", None),
        ("GET", "/v1/alerts", None),
        ("POST", "/v1/alerts/redeliver", {}),
        ("POST", "/v1/alerts/alert_0000000000000000000000/redeliver", {}),
        ("POST", "/v1/ai/run", {"agent_id": other, "tool": tool}),
        ("GET", f"/v1/ai/status?key=one&agent_id={other}", None),
        ("GET", f"/v1/ai/result?key=one&agent_id={other}", None),
        ("POST", "/v1/ai/run/cancel", {"key": "four", "agent_id": other}),
    ]


def an_agents(
    mine: str, tool: str, call_id: str, leases: tuple[str, str, str] = ("lease_x", "lease_x", "lease_x")
) -> list[Asked]:
    """The routes that are an agent's, where they are about itself; `leases` are its own, of one, two, three."""
    one, two, three = leases
    return [
        ("POST", "/v1/check-lock", {"key": "one"}),
        ("POST", "/v1/ai/lease", {"key": "one"}),
        ("POST", "/v1/ai/extend", {"key": "one", "lease_id": one}),
        ("POST", "/v1/ai/complete", {"key": "one", "lease_id": one}),
        ("POST", "/v1/ai/fail", {"key": "two", "lease_id": two, "error_code": "bad"}),
        ("POST", "/v1/ai/cancel", {"key": "three", "lease_id": three}),
        ("POST", "/v1/ai/run/cancel", {"key": "four"}),
        ("GET", "/v1/ai/status?key=one", None),
        ("GET", "/v1/ai/result?key=one", None),
        ("GET", "/v1/tools", None),
        ("GET", f"/v1/tools/{tool}", None),
        ("GET", "/v1/me", None),
        ("GET", f"/v1/policies/{mine}", None),
        ("GET", "/v1/agents", None),
        ("GET", f"/v1/agents/{mine}", None),
        ("GET", f"/v1/agents/{mine}/logs", None),
        ("GET", f"/v1/agents/{mine}/metrics", None),
        ("GET", "/v1/calls", None),
        ("GET", f"/v1/calls/{call_id}", None),
        ("GET", f"/v1/audit?agent_id={mine}", None),
        ("GET", f"/v1/audit/trails?agent_id={mine}", None),
        ("GET", "/v1/audit/follow?until_now=true", None),
        ("GET", "/v1/events", None),
        ("GET", "/v1/metrics?from_day=2026-01-01&to_day=2026-01-02", None),
        ("POST", "/v1/events", {"run_id": "r", "type": "note"}),
        ("GET", "/v1/runs", None),
        ("GET", "/v1/runs/r", None),
        ("POST", "/v1/ai/run", {"agent_id": mine, "tool": tool}),
    ]


def test_the_lists_above_leave_out_no_route() -> None:
    asked = [*an_operators("a", "t", CALL), *an_agents("a", "t", CALL)]
    for of in OPERATIONS:
        pattern = re.compile(re.sub(r"\{\w+\}", "[^/]+", of.path))
        assert any(method == of.method and pattern.fullmatch(path.partition("?")[0]) for method, path, _ in asked), of


@pytest.fixture
async def agent(scene: Scene) -> AsyncIterator[httpx.AsyncClient]:
    """Speaks with the key of the scene's agent."""
    async with scene.first.client(await scene.key(scene.agent)) as client:
        yield client


async def test_an_agents_key_is_denied_what_is_an_operators_or_another_agents(
    scene: Scene, agent: httpx.AsyncClient, tool: Tool
) -> None:
    name = await scene.register(tool.url)
    await scene.policy(max_actions_per_hour=10)
    own = (await agent.post(f"/tools/{name}", json={"order": 1})).headers["Interlock-Call-Id"]
    for_other = {"Authorization": f"Bearer {scene.first.key}", "Interlock-Agent": OTHER}
    others = (await agent.post(f"/tools/{name}", headers=for_other, json={})).headers["Interlock-Call-Id"]

    before = await everything_in(scene.first.redis_url)
    for method, path, body in an_operators(scene.agent, name, others):
        refused = await agent.request(method, path, json=body)
        assert (refused.status_code, refused.json()["detail"]["error"]) == (403, "permission_denied"), (method, path)
    refused = await agent.post(f"/tools/{name}", headers={"Interlock-Agent": OTHER}, json={"order": 2})
    assert (refused.status_code, refused.json()["reason"]) == (403, "permission_denied")
    assert (await agent.get(f"/v1/calls/{others}")).json()["detail"]["error"] == "call_not_found"
    assert before.changes_to(await everything_in(scene.first.redis_url)) == []
    assert len(tool.received) == 2

    leases = [
        (await agent.post("/v1/ai/lease", json={"key": key})).json()["lease_id"] for key in ("one", "two", "three")
    ]
    may_answer = asyncio.Event()
    tool.does(waits_for(may_answer, answers()))
    await agent.post("/v1/ai/run", json={"key": "four", "metadata": {"actions": [{"tool": name}]}})
    await tool.until_received(3)
    tool.does(answers())
    for method, path, body in an_agents(scene.agent, name, own, (leases[0], leases[1], leases[2])):
        assert (await agent.request(method, path, json=body)).status_code == 200, (method, path)
    may_answer.set()
    await scene.until_idle()


async def test_an_agent_does_not_see_the_tools_of_another(scene: Scene, agent: httpx.AsyncClient, tool: Tool) -> None:
    hidden = await scene.register(tool.url, scope_id=f"agent:{OTHER}")
    assert hidden not in [shown["name"] for shown in (await agent.get("/v1/tools")).json()]
    asked = await agent.get(f"/v1/tools/{hidden}", params={"scope_id": f"agent:{OTHER}"})
    assert (asked.status_code, asked.json()["detail"]["error"]) == (404, "tool_not_found")
    called = await agent.post(f"/tools/{hidden}", json={})
    assert (called.status_code, called.json()["reason"]) == (404, "tool_not_found")
    assert tool.received == []


@pytest.mark.parametrize("role", ["viewer", "operator"])
async def test_a_role_ends_where_the_next_one_begins(scene: Scene, role: str, tool: Tool) -> None:
    name = await scene.register(tool.url)
    key = (await scene.ask("POST", "/v1/keys", {"role": role}))["key"]
    beyond: dict[str, list[Asked]] = {
        "viewer": [asked for asked in an_operators(scene.agent, name, CALL) if asked[0] != "GET"],
        "operator": [
            ("POST", "/v1/keys", {"role": "admin"}),
            ("POST", "/v1/switches/global", {"pulled": True}),
            ("GET", "/v1/namespaces", None),
            ("GET", "/v1/namespaces/other", None),
            ("GET", "/v1/changes?scope=global", None),
            ("POST", "/v1/namespaces/default", {"plan": "unlimited"}),
            ("DELETE", "/v1/namespaces/other", None),
        ],
    }
    before = await everything_in(scene.first.redis_url)
    async with scene.first.client(key) as client:
        for method, path, body in beyond[role]:
            refused = await client.request(method, path, json=body)
            assert (refused.status_code, refused.json()["detail"]["error"]) == (403, "permission_denied"), path
        for path in ("/v1/tools", "/v1/policies", f"/v1/agents/{OTHER}/logs", f"/v1/audit?agent_id={OTHER}"):
            assert (await client.get(path)).status_code == 200, path
    assert before.changes_to(await everything_in(scene.first.redis_url)) == []


@pytest.mark.parametrize(
    ("authorization", "status", "detail", "reason"),
    [
        ("", 401, "Missing Authorization Bearer token", "missing_key"),
        (f"Bearer {UNKNOWN_KEY}", 403, "Invalid API key", "invalid_key"),
        ("Bearer nonsense", 403, "Invalid API key", "invalid_key"),
    ],
)
async def test_without_a_good_key_no_route_answers(
    scene: Scene, tool: Tool, authorization: str, status: int, detail: str, reason: str
) -> None:
    name = await scene.register(tool.url)
    before = await everything_in(scene.first.redis_url)
    async with scene.first.client("") as client:
        if authorization:
            client.headers["Authorization"] = authorization
        for method, path, body in (*an_operators(scene.agent, name, CALL), *an_agents(scene.agent, name, CALL)):
            refused = await client.request(method, path, json=body)
            assert (refused.status_code, refused.json()) == (status, {"detail": detail}), (method, path)
        refused = await client.post(f"/tools/{name}", json={})
        assert (refused.status_code, refused.json()["reason"]) == (status, reason)
        assert refused.headers.get("WWW-Authenticate") == ("Bearer" if status == 401 else None)
    assert before.changes_to(await everything_in(scene.first.redis_url)) == []
    assert tool.received == []


async def test_a_revoked_key_is_good_for_nothing_from_then_on_at_any_sidecar(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    made = await scene.ask("POST", "/v1/keys", {"role": "agent", "agent_id": scene.agent})
    async with scene.first.client(made["key"]) as here, scene.second.client(made["key"]) as there:
        for client in (here, there):
            assert (await client.post(f"/tools/{name}", json={"order": 1})).status_code == 200
        await scene.ask("DELETE", f"/v1/keys/{made['key_id']}")
        charged = await scene.charged()
        for client in (there, here):
            refused = await client.post(f"/tools/{name}", json={"order": 2})
            assert (refused.status_code, refused.json()["reason"]) == (403, "invalid_key")
            for method, path, body in an_agents(scene.agent, name, CALL):
                refused = await client.request(method, path, json=body)
                assert (refused.status_code, refused.json()) == (403, {"detail": "Invalid API key"}), (method, path)
    # Not without a trace: an engine that remembers the key takes back what it had decided.
    assert await scene.charged() == charged
    assert len(tool.received) == 1
