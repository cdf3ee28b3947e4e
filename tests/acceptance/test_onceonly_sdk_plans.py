"""The public client on the plans of the OnceOnly API: quotas, features and rates, as it tells them apart."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from onceonly import ApiError, OverLimitError, RateLimitError
from ruamel.yaml import YAML

from tests.acceptance.test_onceonly_sdk import Team, new_team
from tests.conftest import StartDev
from tests.interlock_dev import InterlockDev
from tests.tool import Tool

EXAMPLE = Path(__file__).parents[2] / "deploy" / "examples" / "plans.yaml"
PAGE = (Path(__file__).parents[2] / "docs" / "namespaces.md").read_text()
DAY, HOUR = 86_400, 3_600
TABLE = {
    "free": (1_000, 3_000, 60, HOUR, 0),
    "starter": (20_000, 100_000, HOUR, DAY, 0),
    "pro": (200_000, 1_000_000, 6 * HOUR, 7 * DAY, 10),
    "agency": (2_000_000, 10_000_000, DAY, 30 * DAY, 500),
}
OF_PRO = {"budgets", "blocklist", "per_tool_limits", "logs", "metrics"}
OF_AGENCY = OF_PRO | {"allowlist", "kill_switch", "anomaly_detection"}
SMALL = {"check_locks_per_month": 2, "runs_per_month": 3, "tools": 1}
FIT = 7


@pytest.fixture
async def sidecar(interlock_dev: StartDev, redis_url: str) -> InterlockDev:
    """Knows the plans of the example, and two small ones."""
    plans = YAML(typ="safe", pure=True).load(EXAMPLE)["engine"]["plans"]
    plans |= {"small": SMALL, "slow": {"requests_per_minute": FIT}}
    return await interlock_dev(redis_url, INTERLOCK_ENGINE__PLANS=json.dumps(plans))


@asynccontextmanager
async def team_on(sidecar: InterlockDev, plan: str, way: str = "async") -> AsyncIterator[Team]:
    team = await new_team(sidecar, way, plan, plan)
    yield team
    team.client.close()
    await team.client.aclose()


def test_the_example_is_the_contracts_table_and_that_of_the_page() -> None:
    text = EXAMPLE.read_text()
    plans = YAML(typ="safe", pure=True).load(text)["engine"]["plans"]
    fields = ("check_locks_per_month", "runs_per_month", "default_ttl_s", "max_ttl_s", "tools")
    assert {name: tuple(plan[field] for field in fields) for name, plan in plans.items()} == TABLE
    features = {name: {*plan["features"]} for name, plan in plans.items()}
    assert features == {"free": set(), "starter": set(), "pro": OF_PRO, "agency": OF_AGENCY}
    assert text.partition("\nengine:")[2] in PAGE


async def without(team: Team, name: str, *given: object, **named: object) -> str:
    """The message of the refusal by which the client knows that a plan lacks something."""
    refused = await team.refused(name, *given, **named)
    assert (refused.status_code, refused.detail["error"]) == (403, "feature_not_available")
    return str(refused.detail["message"])


async def test_a_feature_that_a_plan_lacks_is_told_from_an_invalid_key(sidecar: InterlockDev, tool: Tool) -> None:
    async with team_on(sidecar, "free") as free, team_on(sidecar, "pro") as pro, team_on(sidecar, "agency") as agency:
        assert "no tools" in await without(free, "gov.create_tool", {"name": "charge", "url": tool.url})
        for policy in ({"max_actions_per_hour": 1}, {"blocked_tools": ["x"]}, {"max_calls_per_tool": {"x": 1}}):
            await without(free, "gov.upsert_policy", policy, agent_id="bot")
            await pro.do("gov.upsert_policy", policy, agent_id="bot")
        for name in ("gov.agent_logs", "gov.agent_metrics"):
            await without(free, name, "bot")
            await pro.do(name, "bot")
        for policy in ({"allowed_tools": ["x"]}, {"allow_read_only": True}, {"on_anomaly": "alert"}):
            await without(pro, "gov.upsert_policy", policy, agent_id="bot")
            await agency.do("gov.upsert_policy", policy, agent_id="bot")
        await without(pro, "gov.disable_agent", "bot")
        await without(pro, "gov.policy_from_template", "bot", "strict")
        assert not (await agency.do("gov.disable_agent", "bot")).is_enabled
        assert (await agency.do("gov.policy_from_template", "bot", "strict")).allowed_tools == []
        lock = await free.do("client.check_lock", "k", ttl=DAY)
        assert (lock.locked, lock.ttl) == (True, HOUR)
        assert (await free.do("ai.lease", "k"))["ttl"] == 60


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_beyond_a_quota_the_client_is_told_plan_limit_and_usage(
    sidecar: InterlockDev, tool: Tool, way: str
) -> None:
    async with team_on(sidecar, "small", way) as team, team_on(sidecar, "small", way) as other:
        await team.register(tool.url)
        with pytest.raises(OverLimitError) as full:
            await team.register(tool.url, "second")
        assert (full.value.detail["plan"], full.value.detail["limit"], full.value.detail["usage"]) == ("small", 1, 1)

        locks = (team.do("client.check_lock", f"k{n}") for n in range(12))
        told = await asyncio.gather(*locks, return_exceptions=True)
        assert sum(isinstance(one, OverLimitError) for one in told) == 10
        assert (await team.do("client.usage"))["usage"] == 2

        leases = [team.do("ai.lease", f"k{n}") for n in range(6)]
        calls = [team.do("ai.run_tool", agent_id="bot", tool="charge", args={"n": n}) for n in range(6)]
        told = await asyncio.gather(*leases, *calls, return_exceptions=True)
        assert sum(isinstance(one, OverLimitError) for one in told) == 12 - 3
        ai = await team.do("client.usage", "ai")
        assert (ai["plan"], ai["usage"], ai["limit"]) == ("small", 3, 3)
        assert (await other.do("client.check_lock", "k0")).locked


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_beyond_its_rate_the_client_is_told_when_to_come_back_and_nobody_else_is(
    sidecar: InterlockDev, way: str
) -> None:
    async with team_on(sidecar, "slow", way) as slow, team_on(sidecar, "unlimited", way) as other:
        asked = (slow.do(*call) for call in (("client.me",), ("gov.list_tools",), ("client.check_lock", "k")) * 10)
        told = await asyncio.gather(*asked, return_exceptions=True)
        limited = [one for one in told if isinstance(one, RateLimitError)]
        assert len(limited) == 30 - FIT
        assert all(1 <= one.retry_after_sec <= 61 for one in limited)
        assert not [one for one in told if isinstance(one, ApiError)]
        assert not (await slow.do("gov.disable_agent", "bot")).is_enabled
        await other.do("client.me")


async def test_calls_of_tools_are_held_to_the_rate_and_none_beyond_it_reaches_the_tool(
    sidecar: InterlockDev, tool: Tool
) -> None:
    async with team_on(sidecar, "slow") as slow, sidecar.client(slow.client.api_key) as http:
        await slow.register(tool.url)
        by_http = (http.post("/tools/charge", json={"n": n}, headers={"Interlock-Agent": "bot"}) for n in range(15))
        by_run = (
            http.post("/v1/ai/run", json={"agent_id": "bot", "tool": "charge", "args": {"m": n}}) for n in range(15)
        )
        answers = await asyncio.gather(*by_http, *by_run)
        limited = [answer for answer in answers if answer.status_code == 429]
        assert (len(limited), len(tool.received)) == (30 - (FIT - 1), FIT - 1)
        for answer in limited:
            told = answer.json()
            reason = told["reason"] if "reason" in told else told["detail"]["error"]
            assert (reason, answer.headers["Interlock-Decision"]) == ("rate_limited", "error")
            assert 1 <= int(answer.headers["Retry-After"]) <= 61
