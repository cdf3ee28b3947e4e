"""The public client `onceonly-sdk` 3.0.5, unmodified, against a running sidecar: every method, sync and async.

Each test has two namespaces side by side, and the other one never sees what the first one does.
"""

import asyncio
import importlib.metadata
import inspect
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import onceonly
import pytest
from langchain_core.tools import tool as langchain_tool
from onceonly import AiToolResult, ApiError, OnceOnly, UnauthorizedError, ValidationError
from onceonly.ai import AiClient
from onceonly.ai_models import AiResult
from onceonly.governance import GovernanceClient
from onceonly.integrations.langchain import make_idempotent_tool

from tests.acceptance.scene import Sidecars
from tests.interlock_dev import InterlockDev
from tests.tool import Tool, answers

SECRET = "a-secret-of-the-tool"
CLIENTS = {"client": OnceOnly, "ai": AiClient, "gov": GovernanceClient}
DRIVEN: set[str] = set()


def drives(*names: str) -> Callable[[Any], Any]:
    """Says which methods a test calls, as `ai.lease`; that it does is looked at when it is over."""

    def noted(test: Any) -> Any:
        DRIVEN.update(names)
        test.drives = {*names}
        return test

    return noted


@dataclass
class Team:
    """A namespace with an operator's key, and the client that speaks with it, in one of its two ways."""

    namespace: str
    client: OnceOnly
    way: str
    called: set[str] = field(default_factory=set)

    async def do(self, name: str, *given: Any, **named: Any) -> Any:
        """Calls a method of the client, as `ai.lease`."""
        self.called.add(name)
        of, _, method = name.partition(".")
        on = self.client if of == "client" else getattr(self.client, of)
        if self.way == "async":
            return await getattr(on, f"{method}_async")(*given, **named)
        return await asyncio.to_thread(getattr(on, method), *given, **named)

    async def run_fn(self, key: str, work: Callable[[], Any], **named: Any) -> AiResult:
        """Calls `ai.run_fn`."""
        return await self.result_of(key, self.do("ai.run_fn", key, work, **named))

    async def result_of(self, key: str, running: Awaitable[AiResult]) -> AiResult:
        """What came of a function that ran under a lease.

        Who held the lease gets CancelledError of an async client 3.0.5, whatever it talks to: it cancels its heartbeat
        when the function is over and completed, and lets out what awaiting that raises.
        """
        try:
            return await running
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if me is None or me.cancelling():
                raise
            return await self.client.ai.result_async(key)

    async def refused(self, name: str, *given: Any, **named: Any) -> ApiError:
        """The error that a call is refused with."""
        with pytest.raises(ApiError) as refused:
            await self.do(name, *given, **named)
        return refused.value

    async def register(self, url: str, name: str = "charge", **fields: Any) -> Any:
        return await self.do("gov.create_tool", {"name": name, "url": url, **fields})

    async def run(self, agent: str = "bot", tool: str = "charge", **named: Any) -> AiToolResult:
        result = await self.do("ai.run_tool", agent_id=agent, tool=tool, **named)
        assert isinstance(result, AiToolResult)
        return result


async def new_team(sidecar: InterlockDev, way: str, name: str, plan: str = "unlimited") -> Team:
    namespace = f"{name}-{secrets.token_hex(4)}"
    async with sidecar.client() as admin:
        (await admin.post(f"/v1/namespaces/{namespace}", json={"plan": plan})).raise_for_status()
        asked = {"role": "operator"}
        made = await admin.post("/v1/keys", json=asked, headers={"Interlock-Namespace": namespace})
    return Team(namespace, OnceOnly(made.json()["key"], f"{sidecar.url}/v1", timeout=20, fail_open=False), way)


@pytest.fixture(params=["sync", "async"])
async def teams(request: pytest.FixtureRequest, sidecars: Sidecars) -> AsyncIterator[tuple[Team, Team]]:
    """Two namespaces, each at a sidecar of its own, and the ways of the client in turn."""
    mine = await new_team(sidecars.first, request.param, "mine")
    theirs = await new_team(sidecars.second, request.param, "theirs")
    yield mine, theirs
    for team in (mine, theirs):
        team.client.close()
        await team.client.aclose()
    assert request.function.drives <= mine.called | theirs.called


def public_methods(of: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(of, inspect.isfunction) if not name.startswith("_")}


def test_it_is_the_public_client_as_it_was_published() -> None:
    assert importlib.metadata.version("onceonly-sdk") == onceonly.__version__ == "3.0.5"
    names = {"OnceOnly", "create_client", "idempotent", "idempotent_ai"}
    assert {name for name in onceonly.__all__ if callable(getattr(onceonly, name))} >= names


def test_no_method_of_the_client_is_left_out() -> None:
    for name, of in CLIENTS.items():
        methods = public_methods(of) - {"close", "aclose"}
        both = {method for method in methods if not method.endswith("_async")}
        assert {f"{method}_async" for method in both} == methods - both, name
        assert {f"{name}.{method}" for method in both} == {driven for driven in DRIVEN if driven.startswith(f"{name}.")}


# check_lock


@drives("client.check_lock")
async def test_check_lock_locks_once_in_each_namespace(teams: tuple[Team, Team]) -> None:
    mine, theirs = teams
    first = await mine.do("client.check_lock", "order:1", ttl=60, meta={"who": "me"}, request_id="req-1")
    assert (first.locked, first.duplicate, first.key, first.ttl, first.first_seen_at) == (
        *(True, False, "order:1", 60, None),
    )
    assert first.should_proceed()
    assert first.request_id == "req-1"
    again = await mine.do("client.check_lock", "order:1", ttl=60)
    assert (again.locked, again.duplicate) == (False, True)
    assert datetime.fromisoformat(again.first_seen_at).tzinfo is not None
    assert (await theirs.do("client.check_lock", "order:1", ttl=60)).locked
    crowd = await asyncio.gather(*(mine.do("client.check_lock", "order:2") for _ in range(30)))
    assert sum(one.locked for one in crowd) == 1
    with pytest.raises(ValidationError):
        await mine.do("client.check_lock", "")


# Leases


@drives("ai.lease", "ai.extend", "ai.complete", "ai.status", "ai.result", "ai.wait")
async def test_a_lease_is_held_extended_and_completed_and_only_its_holder_may(teams: tuple[Team, Team]) -> None:
    mine, theirs = teams
    lease = await mine.do("ai.lease", "job", ttl=60, metadata={"n": 1})
    assert (lease["status"], lease["charged"]) == ("acquired", 1)
    polling = await mine.do("ai.lease", "job")
    assert (polling["status"], polling["charged"], polling.get("lease_id")) == ("polling", 0, None)
    assert (await mine.do("ai.status", "job")).status == "in_progress"
    assert (await mine.do("ai.extend", "job", lease["lease_id"], ttl=120))["status"] == "extended"
    assert (await mine.refused("ai.complete", "job", "not-the-lease", result={})).status_code == 409

    assert (await theirs.refused("ai.status", "job")).status_code == 404
    assert (await theirs.refused("ai.complete", "job", lease["lease_id"], result={})).status_code in {404, 409}
    assert (await theirs.do("ai.lease", "job"))["status"] == "acquired"

    done = await mine.do("ai.complete", "job", lease["lease_id"], result={"sum": 3})
    assert done["status"] == "completed"
    for result in (await mine.do("ai.result", "job"), await mine.do("ai.wait", "job", timeout=5)):
        assert (result.ok, result.status, result.result) == (True, "completed", {"sum": 3})
    assert (await mine.do("ai.lease", "job"))["status"] == "completed"
    assert (await theirs.do("ai.status", "job")).status == "in_progress"


@drives("ai.lease", "ai.fail", "ai.cancel", "ai.status", "ai.result")
async def test_a_lease_fails_for_good_and_is_free_again_when_it_is_cancelled(teams: tuple[Team, Team]) -> None:
    mine, _ = teams
    lease = await mine.do("ai.lease", "broken")
    assert (await mine.do("ai.fail", "broken", lease["lease_id"], error_code="boom"))["status"] == "failed"
    result = await mine.do("ai.result", "broken")
    assert (result.status, result.error_code) == ("failed", "boom")
    lease = await mine.do("ai.lease", "changed-mind")
    assert (await mine.do("ai.cancel", "changed-mind", lease["lease_id"], reason="later"))["status"] == "cancelled"
    assert (await mine.do("ai.status", "changed-mind")).status == "cancelled"
    taken = await mine.do("ai.lease", "changed-mind")
    assert (taken["status"], taken["version"] > lease["version"]) == ("acquired", True)


@drives("ai.run_fn")
async def test_run_fn_runs_a_function_once_in_each_namespace(teams: tuple[Team, Team]) -> None:
    mine, theirs = teams
    runs: list[str] = []

    def work() -> dict[str, int]:
        runs.append("run")
        return {"run": len(runs)}

    crowd = await asyncio.gather(*(mine.run_fn("report", work, ttl=30, timeout=15) for _ in range(5)))
    assert [(result.ok, result.result) for result in crowd] == [(True, {"run": 1})] * 5
    assert (await theirs.run_fn("report", work)).result == {"run": 2}

    def breaks() -> None:
        raise RuntimeError("broken")

    with pytest.raises((RuntimeError, asyncio.CancelledError)):
        await mine.do("ai.run_fn", "breaks", breaks, error_code="e1")
    assert (await mine.run_fn("breaks", work)).error_code == "e1"
    assert len(runs) == 2


# Calls of tools


@drives("ai.run_tool", "ai.run", "ai.run_and_wait", "client.ai_run", "client.ai_run_and_wait", "gov.create_tool")
async def test_a_tool_is_called_once_however_it_is_asked_for(teams: tuple[Team, Team], tool: Tool) -> None:
    mine, theirs = teams
    await mine.register(tool.url, auth={"type": "hmac_sha256", "secret": SECRET}, risk="high")
    call = {"agent_id": "bot", "tool": "charge", "args": {"n": 1}}
    first = await mine.run(args={"n": 1}, spend_usd=0.25, run_id="run-1")
    assert (first.ok, first.allowed, first.decision, first.policy_reason) == (True, True, "executed", "ok")
    assert (first.risk_level, first.result) == ("high", {"calls": 1})
    for name in ("ai.run", "ai.run_and_wait", "client.ai_run", "client.ai_run_and_wait"):
        again = await mine.do(name, **call, run_id=f"by {name}")
        assert isinstance(again, AiToolResult)
        assert (again.ok, again.decision, again.policy_reason) == (True, "dedup", "tool_idempotency")
        assert again.result == {"calls": 1}
    assert len(tool.received) == 1
    missing = await theirs.refused("ai.run_tool", **call)
    assert (missing.status_code, missing.detail["error"]) == (404, "tool_not_found")


@drives("ai.run_tool", "gov.agent_metrics", "gov.agent_logs")
async def test_what_a_call_came_to_is_told_logged_and_counted(teams: tuple[Team, Team], tool: Tool) -> None:
    mine, theirs = teams
    await mine.register(tool.does(answers(), answers(500)).url, max_retries=0)
    await mine.do("gov.upsert_policy", {"max_calls_per_tool": {"charge": 2}}, agent_id="bot")
    executed = await mine.run(args={"n": 1}, spend_usd=0.5)
    failed = await mine.run(args={"n": 2}, spend_usd=0.25)
    blocked = await mine.run(args={"n": 3})
    assert (failed.ok, failed.allowed, failed.decision, failed.policy_reason) == (False, True, "executed", "tool_error")
    assert (blocked.ok, blocked.allowed, blocked.decision, blocked.policy_reason) == (
        *(False, False, "blocked", "max_calls_per_tool_exceeded"),
    )
    assert executed.risk_level == "low"

    logged = await mine.do("gov.agent_logs", "bot", limit=10)
    assert [(item.decision, item.allowed, item.spend_usd) for item in logged] == [
        ("blocked", False, 0.0),
        ("executed", True, 0.25),
        ("executed", True, 0.5),
    ]
    assert {item.agent_id for item in logged} == {"bot"}
    assert len({item.args_hash for item in logged}) == 3
    for period in ("hour", "day", "week"):
        figures = await mine.do("gov.agent_metrics", "bot", period)
        assert (figures.total_actions, figures.blocked_actions, figures.total_spend_usd) == (2, 1, 0.75)
        assert figures.top_tools == [{"tool": "charge", "count": 2}]
    assert await theirs.do("gov.agent_logs", "bot") == []
    assert (await theirs.do("gov.agent_metrics", "bot")).total_actions == 0


@drives("ai.run", "ai.run_and_wait", "ai.status", "client.get_run_timeline")
async def test_a_keyed_run_is_carried_out_in_the_background_once(teams: tuple[Team, Team], tool: Tool) -> None:
    mine, theirs = teams
    await mine.register(tool.url)
    actions = [{"tool": "charge", "args": {"n": n}} for n in range(3)]
    run = {"key": "nightly", "ttl": 60, "metadata": {"agent_id": "bot", "actions": actions}}
    first = await mine.do("ai.run_and_wait", **run, timeout=30)
    assert (first.ok, first.status, first.key) == (True, "completed", "nightly")
    again = await mine.do("ai.run", **run)
    assert (again.status, again.lease_id) == ("completed", None)
    assert len(tool.received) == 3
    assert (await mine.do("ai.status", "nightly")).status == "completed"
    told = [event["type"] for event in (await mine.do("client.get_run_timeline", "nightly"))["events"]]
    assert (told.count("tool_call"), told[0], told[-1]) == (3, "run_started", "run_finished")
    assert (await theirs.refused("ai.status", "nightly")).status_code == 404


@drives("client.metrics", "ai.run_tool")
async def test_metrics_tell_what_was_done_day_by_day(teams: tuple[Team, Team], tool: Tool) -> None:
    mine, theirs = teams
    await mine.register(tool.url)
    for n in (1, 1, 2):
        await mine.run(args={"n": n}, spend_usd=0.5)
    await mine.do("gov.upsert_policy", {"blocked_tools": ["*"]}, agent_id="other")
    await mine.run("other")
    today = datetime.now(UTC).date().isoformat()
    (day,) = listed(await mine.do("client.metrics", today, today))
    assert day.items() >= {"day": today, "total_actions": 2, "blocked_actions": 1, "total_spend_usd": 1.0}.items()
    (other,) = listed(await theirs.do("client.metrics", today, today))
    assert other["total_actions"] == 0


# Tools


@drives("gov.create_tool", "gov.list_tools", "gov.get_tool", "gov.toggle_tool", "gov.delete_tool")
async def test_tools_are_registered_shown_switched_and_deleted_and_never_with_their_secret(
    teams: tuple[Team, Team], tool: Tool
) -> None:
    mine, theirs = teams
    made = await mine.register(tool.url, auth={"type": "hmac_sha256", "secret": SECRET}, description="charges cards")
    assert (made["name"], made["scope_id"], made["timeout_ms"], made["max_retries"]) == ("charge", "global", 15000, 2)
    shown, listed = await mine.do("gov.get_tool", "charge"), await mine.do("gov.list_tools")
    assert [shown] == listed
    assert (shown["has_secret"], SECRET in f"{made}{shown}{listed}") == (True, False)
    assert shown["secret_mask"]
    assert await theirs.do("gov.list_tools") == []
    assert (await theirs.refused("gov.get_tool", "charge")).status_code == 404
    assert (await theirs.refused("gov.delete_tool", "charge")).status_code == 404

    assert not (await mine.do("gov.toggle_tool", "charge", enabled=False))["enabled"]
    assert (await mine.run()).policy_reason == "tool_disabled"
    assert (await mine.do("gov.toggle_tool", "charge", enabled=True))["enabled"]
    assert (await mine.run()).decision == "executed"
    deleted = await mine.do("gov.delete_tool", "charge")
    assert (deleted["ok"], deleted["deleted"]) == (True, True)
    assert (await mine.refused("ai.run_tool", agent_id="bot", tool="charge")).status_code == 404
    for wrong in ({"name": "a b", "url": tool.url}, {"name": "x", "url": tool.url, "timeout_ms": 1}):
        with pytest.raises(ValidationError):
            await mine.do("gov.create_tool", wrong)


@drives("gov.create_tool", "gov.get_tool", "gov.list_tools", "ai.run_tool")
async def test_an_agents_own_tool_hides_the_global_one(teams: tuple[Team, Team], tool: Tool) -> None:
    mine, _ = teams
    own = Tool().does(answers(body=b'"own"'))
    await own.start()
    try:
        await mine.register(tool.url)
        await mine.register(own.url, scope_id="agent:bot")
        assert (await mine.run()).result == {"value": "own"}
        assert (await mine.run("other")).result == {"calls": 1}
    finally:
        await own.stop()
    assert (await mine.do("gov.get_tool", "charge", scope_id="agent:bot"))["url"] == own.url
    assert [shown["url"] for shown in await mine.do("gov.list_tools", scope_id="global")] == [tool.url]


# Policies and the kill switch


@drives("gov.upsert_policy", "gov.get_policy", "gov.list_policies", "ai.run_tool")
async def test_policies_are_set_shown_and_held(teams: tuple[Team, Team], tool: Tool) -> None:
    mine, theirs = teams
    await mine.register(tool.url)
    await mine.register(tool.url, "mail.send")
    wanted = {
        "allowed_tools": ["charge", "mail.*"],
        "blocked_tools": ["mail.*"],
        "max_actions_per_hour": 100,
        "max_spend_usd_per_day": 1.5,
        "pricing_rules": [{"tool": "charge", "price_usd": 1.0}],
    }
    set_to = await mine.do("gov.upsert_policy", wanted, agent_id="bot")
    assert set_to.policy == wanted
    assert await mine.do("gov.get_policy", "bot") == set_to
    assert await mine.do("gov.list_policies") == [set_to]
    assert await theirs.do("gov.list_policies") == []
    assert (await theirs.refused("gov.get_policy", "bot")).status_code == 404

    assert (await mine.run(tool="mail.send")).policy_reason == "tool_explicitly_blocked"
    assert (await mine.run(args={"n": 1})).decision == "executed"
    priced = await mine.run(args={"n": 2})
    assert (priced.decision, priced.policy_reason) == ("blocked", "max_spend_usd_per_day_exceeded")
    await mine.do("gov.upsert_policy", {"agent_id": "bot", "allowed_tools": []})
    assert (await mine.run(args={"n": 3})).policy_reason == "tool_not_in_allowed_list"
    for wrong in ({"max_actions_per_hour": -1}, {"no_such_field": 1}):
        with pytest.raises(ValidationError):
            await mine.do("gov.upsert_policy", wrong, agent_id="bot")


@drives("gov.policy_from_template", "ai.run_tool")
async def test_policies_are_made_of_templates_with_overrides(teams: tuple[Team, Team], tool: Tool) -> None:
    mine, theirs = teams
    await mine.register(tool.url, "write")
    await mine.register(tool.url, "read", read_only=True)
    for template in ("strict", "moderate", "permissive", "read_only", "support_bot"):
        made = await mine.do("gov.policy_from_template", "bot", template, {"max_actions_per_hour": 7})
        assert (made.agent_id, made.max_actions_per_hour) == ("bot", 7)
        assert made.max_spend_usd_per_day is not None
    await mine.do("gov.policy_from_template", "bot", "read_only")
    assert (await mine.run(tool="read")).decision == "executed"
    assert (await mine.run(tool="write")).policy_reason == "tool_not_in_allowed_list"
    await mine.register(tool.url, "write-later")
    assert (await mine.run(tool="write-later")).policy_reason == "tool_not_in_allowed_list"
    await mine.do("gov.policy_from_template", "bot", "strict", {"allowed_tools": ["write"]})
    assert (await mine.run(tool="write")).decision == "executed"
    assert (await mine.run(tool="read", args={"again": 1})).policy_reason == "tool_not_in_allowed_list"
    assert await theirs.do("gov.list_policies") == []
    for wrong in (("lax", {}), ("strict", {"max_actions_per_hour": "many"}), ("strict", {"nothing": 1})):
        with pytest.raises(ValidationError):
            await mine.do("gov.policy_from_template", "bot", *wrong)


@drives("gov.disable_agent", "gov.enable_agent", "ai.run_tool")
async def test_the_kill_switch_holds_for_the_very_next_decision_at_every_sidecar(
    teams: tuple[Team, Team], tool: Tool, sidecars: Sidecars
) -> None:
    mine, theirs = teams
    for team in teams:
        await team.register(tool.url)
    elsewhere = Team(mine.namespace, OnceOnly(mine.client.api_key, f"{sidecars.second.url}/v1", timeout=20), mine.way)
    try:
        assert (await elsewhere.run(args={"n": 0})).decision == "executed"
        off = await mine.do("gov.disable_agent", "bot", "ran wild")
        assert (off.is_enabled, off.enabled, off.disabled_reason) == (False, False, "ran wild")
        assert abs((datetime.now(UTC) - datetime.fromisoformat(off.disabled_at)).total_seconds()) < 60
        for team in (elsewhere, mine):
            assert (await team.run(args={"n": 1})).policy_reason == "agent_disabled"
        assert (await theirs.run(args={"n": 1})).decision == "executed"
        on = await mine.do("gov.enable_agent", "bot", "mended")
        assert (on.is_enabled, on.disabled_at) == (True, None)
        assert (await elsewhere.run(args={"n": 1})).decision == "executed"
    finally:
        elsewhere.client.close()
        await elsewhere.client.aclose()


# The account


@drives("client.me", "client.update_notifications")
async def test_an_account_tells_its_plan_and_keeps_its_preferences(teams: tuple[Team, Team]) -> None:
    mine, theirs = teams
    account = await mine.do("client.me")
    assert (account["plan"], account["namespace"], account["role"]) == ("unlimited", mine.namespace, "operator")
    changed = await mine.do("client.update_notifications", tool_error_notifications_enabled=False)
    assert changed == {
        "email_notifications_enabled": True,
        "tool_error_notifications_enabled": False,
        "run_failure_notifications_enabled": True,
    }
    assert (await mine.do("client.me")).items() >= changed.items()
    assert (await theirs.do("client.me"))["tool_error_notifications_enabled"]


@drives("client.usage", "client.usage_all", "client.check_lock", "ai.lease", "ai.run_tool")
async def test_usage_counts_what_was_charged_asked_for_and_refused(teams: tuple[Team, Team], tool: Tool) -> None:
    mine, theirs = teams
    await mine.register(tool.url)
    for _ in range(3):
        await mine.do("client.check_lock", "k")
    for _ in range(2):
        await mine.do("ai.lease", "k")
    await mine.do("gov.upsert_policy", {"max_actions_per_hour": 1}, agent_id="bot")
    for n in (1, 1, 2):
        await mine.run(args={"n": n})
    make, ai = await mine.do("client.usage"), await mine.do("client.usage", "ai")
    month = datetime.now(UTC).strftime("%Y-%m")
    unlimited = {"plan": "unlimited", "month": month, "limit": None}
    assert make.items() >= {**unlimited, "usage": 1, "requests_total_month": 3, "blocked_total_month": 2}.items()
    # A lease and a call were charged; beside them were a poll, a replay and a refusal.
    assert ai.items() >= {**unlimited, "usage": 2, "requests_total_month": 5, "blocked_total_month": 1}.items()
    whole = await mine.do("client.usage_all")
    assert (whole["make"], whole["ai"]) == (make, ai)
    assert (whole["charged_total_month"], whole["polling_total_month"]) == (3, 1)
    for of in ("make", "ai"):
        assert (await theirs.do("client.usage", of))["requests_total_month"] == 0
    with pytest.raises(ValidationError):
        await mine.do("client.usage", "other")


# Timelines


@drives("client.events", "client.post_event", "client.get_run_timeline")
async def test_events_are_kept_by_run_and_namespace(teams: tuple[Team, Team]) -> None:
    mine, theirs = teams
    for step in ("one", "two"):
        posted = await mine.do("client.post_event", run_id="run/1", type="step", step=step, data={"n": 1}, colour="red")
        assert (posted["ok"], posted["run_id"]) == (True, "run/1")
    timeline = await mine.do("client.get_run_timeline", "run/1")
    assert (timeline["run_id"], timeline["total"]) == ("run/1", 2)
    assert [(event["step"], event["colour"]) for event in timeline["events"]] == [("one", "red"), ("two", "red")]
    found = await mine.do("client.events")
    assert {event["run_id"] for event in listed(found)} == {"run/1"}
    assert listed(await theirs.do("client.events")) == []
    assert not (await answer_or_none(theirs, "run/1"))


def listed(found: Any) -> list[Any]:
    """The client wraps a list that it is answered with as `data`."""
    return list(found["data"] if isinstance(found, dict) and "data" in found else found.get("items", []))


async def answer_or_none(team: Team, run_id: str) -> list[Any]:
    try:
        return list((await team.do("client.get_run_timeline", run_id))["events"])
    except ApiError as refused:
        assert refused.status_code == 404
        return []


# Decorators and the wrapper


@drives()
@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_the_decorator_idempotent_has_a_function_run_once(teams: tuple[Team, Team], kind: str) -> None:
    mine, theirs = teams
    seen: list[tuple[str, int]] = []

    def decorated(team: Team) -> Callable[[int], Any]:
        if kind == "plain":

            @onceonly.idempotent(team.client, key_id="pay", return_value_on_duplicate="twice")
            def pay(amount: int) -> str:
                seen.append((team.namespace, amount))
                return "paid"

            return pay

        @onceonly.idempotent(team.client, key_id="pay", on_duplicate=lambda amount: f"twice {amount}"[:5])
        async def pay_later(amount: int) -> str:
            seen.append((team.namespace, amount))
            return "paid"

        return pay_later

    async def called(team: Team, amount: int) -> Any:
        made = decorated(team)
        return await made(amount) if kind == "coroutine" else await asyncio.to_thread(made, amount)

    assert [await called(mine, 1), await called(mine, 1), await called(mine, 2)] == ["paid", "twice", "paid"]
    assert await called(theirs, 1) == "paid"
    assert seen == [(mine.namespace, 1), (mine.namespace, 2), (theirs.namespace, 1)]


@drives()
@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_the_decorator_idempotent_ai_gives_everybody_the_one_result(teams: tuple[Team, Team], kind: str) -> None:
    mine, theirs = teams
    seen: list[int] = []

    def decorated(team: Team) -> Callable[[int], Any]:
        if kind == "plain":

            @onceonly.idempotent_ai(team.client, key_fn=lambda n: f"sum:{n}", metadata={"by": "test"})
            def add(n: int) -> dict[str, int]:
                seen.append(n)
                return {"times": len(seen)}

            return add

        @onceonly.idempotent_ai(team.client, key_fn=lambda n: f"sum:{n}")
        async def add_later(n: int) -> dict[str, int]:
            seen.append(n)
            return {"times": len(seen)}

        return add_later

    async def called(team: Team) -> Any:
        made = decorated(team)
        return await team.result_of("sum:7", made(7) if kind == "coroutine" else asyncio.to_thread(made, 7))

    assert [(await called(mine)).result for _ in range(2)] == [{"times": 1}] * 2
    assert (await called(theirs)).result == {"times": 2}


@drives()
async def test_the_langchain_wrapper_runs_a_tool_once(teams: tuple[Team, Team]) -> None:
    mine, theirs = teams
    sent: list[str] = []

    @langchain_tool
    def send(to: str) -> str:
        """Sends a mail."""
        sent.append(to)
        return f"sent to {to}"

    async def invoked(team: Team) -> Any:
        wrapped = make_idempotent_tool(send, client=team.client)
        if team.way == "async":
            return await wrapped.ainvoke({"to": "ann"})
        return await asyncio.to_thread(wrapped.invoke, {"to": "ann"})

    assert await invoked(mine) == "sent to ann"
    assert "skipped" in await invoked(mine)
    assert await invoked(theirs) == "sent to ann"
    assert sent == ["ann", "ann"]


# The client itself


async def test_a_client_closes_what_it_opened_and_says_when_its_key_is_no_good(sidecars: Sidecars) -> None:
    made = onceonly.create_client(sidecars.first.key, sidecars.first.url)
    with made as client:
        assert (await asyncio.to_thread(client.me))["role"] == "admin"
    with pytest.raises(RuntimeError):
        made.me()
    async with OnceOnly(sidecars.first.key, sidecars.first.url) as client:
        assert (await client.me_async())["role"] == "admin"
        client.close()
    async with OnceOnly("no-key-of-ours", sidecars.first.url) as client:
        with pytest.raises(UnauthorizedError):
            await client.me_async()
        with pytest.raises(UnauthorizedError):
            await client.check_lock_async("k")
        client.close()


async def test_the_headers_of_usage_name_plan_and_month(sidecars: Sidecars) -> None:
    async with sidecars.first.client() as admin:
        answer: httpx.Response = await admin.get("/v1/usage/all")
    assert answer.headers["X-OnceOnly-Plan"] == "unlimited"
    assert answer.headers["X-OnceOnly-Month"] == answer.json()["month"]
