"""Alerts from outside: real calls at two `interlock dev` on one Redis, real receivers, and engines that are killed."""

import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from tests.alert_receiver import SECRET, AlertReceiver, MailServer
from tests.interlock_dev import InterlockDev, until
from tests.redis_server import RedisServer
from tests.tool import Tool, answers

HASTE = {
    "INTERLOCK_ENGINE__ALERTS__FOLD_S": "1",
    "INTERLOCK_ENGINE__ALERTS__FIRST_PAUSE_MS": "50",
    "INTERLOCK_ENGINE__ALERTS__LAST_PAUSE_MS": "200",
    "INTERLOCK_ENGINE__ALERTS__MAX_TRIES": "3",
    "INTERLOCK_ENGINE__ALERTS__WEBHOOK_TIMEOUT_MS": "500",
    "INTERLOCK_ENGINE__ALERTS__LEASE_MS": "500",
    "INTERLOCK_ENGINE__ALERTS__ANOMALIES__BURST_MIN_CALLS": "30",
    "INTERLOCK_ENGINE__ALERTS__ANOMALIES__NEW_TOOL_AFTER_CALLS": "20",
    "INTERLOCK_SIDECAR__ENGINE__TIMEOUT_MS": "20000",
}


@dataclass
class House:
    """Two engines with their sidecars, tools that do as they are told, and who is told."""

    first: InterlockDev
    second: InterlockDev
    redis: Redis
    mail: MailServer
    tool: Tool
    agents: int = 0
    calls: int = 0

    def agent(self) -> str:
        self.agents += 1
        return f"a{self.agents}"

    async def ask(self, method: str, path: str, body: object = None, status: int = 200) -> Any:
        async with self.first.client() as api:
            asked = await api.request(method, path, json=body)
        assert asked.status_code == status, asked.text
        return asked.json()

    async def told_at(self, receiver: AlertReceiver) -> None:
        await self.ask("POST", "/v1/me/alerts", {"webhook_url": receiver.url, "secret": SECRET})

    async def run(self, agent: str, tool: str = "charge", usd: float = 0, at: InterlockDev | None = None) -> Any:
        self.calls += 1
        body = {"agent_id": agent, "tool": tool, "args": {"n": self.calls}, "spend_usd": usd}
        async with (at or self.first).client() as api:
            return (await api.post("/v1/ai/run", json=body)).json()

    async def events(self, agent: str, kind: str) -> list[dict[str, Any]]:
        """Those of a kind in the agent's trail, which has no gap."""
        events = await self.ask("GET", f"/v1/audit?agent_id={agent}&limit=1000")
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        return [event for event in events if event["type"] == kind]

    async def anomalies(self, agent: str, count: int) -> list[dict[str, Any]]:
        """Waits for so many in the agent's trail."""

        async def noted() -> bool:
            return len(await self.events(agent, "anomaly")) >= count

        await until(noted)
        return await self.events(agent, "anomaly")

    async def dead_letter(self, agent: str) -> dict[str, Any]:
        """The alert of this agent's that nobody took; others may still be told of what earlier tests did."""
        letters: list[dict[str, Any]] = []

        async def dead() -> bool:
            letters[:] = [one for one in await self.ask("GET", "/v1/alerts?state=dead") if one["agent_id"] == agent]
            return bool(letters)

        await until(dead)
        [letter] = letters
        return letter

    async def settled(self) -> None:
        """Waits until whoever watches has looked at all that there is by now."""
        for agent in [f"a{number + 1}" for number in range(self.agents)]:

            async def looked(agent: str = agent) -> bool:
                seq = int(await self.redis.hget(f"il:{{default:{agent}}}:state", "seq") or 0)
                record = await self.redis.hget("il:{default}:watched", agent)
                return not seq or (record is not None and json.loads(record)["seq"] >= seq)

            await until(looked)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    folder = tmp_path_factory.mktemp("alerts")
    with tempfile.TemporaryDirectory(prefix="redis-") as data, MailServer() as mail:
        redis = RedisServer(Path(data), durable=False)
        redis.start()
        smtp = {"host": "127.0.0.1", "port": mail.port, "security": "none", "sender": "interlock@example.com"}
        settings = HASTE | {"INTERLOCK_ENGINE__ALERTS__SMTP": json.dumps(smtp)}
        first, second = (InterlockDev(folder / name, redis.url, settings) for name in ("first", "second"))
        tool = Tool()
        await tool.start()
        try:
            await first.start()
            await second.start()
            await first.register(tool.url)
            await first.register(tool.url, "refund")
            await first.register(tool.url, "failing", max_retries=0)
            async with Redis.from_url(redis.url) as raw:
                yield House(first, second, raw, mail, tool)
        finally:
            for dev in (first, second):
                if dev.process is not None:
                    await dev.kill()
            await tool.stop()
            redis.stop()


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_failing_tool_and_blocked_calls_are_told_together_and_signed(house: House) -> None:
    agent = house.agent()
    await house.ask("POST", f"/v1/policies/{agent}", {"blocked_tools": ["refund"]})
    async with AlertReceiver() as receiver:
        await house.told_at(receiver)
        house.tool.does(answers(500))
        for _ in range(5):
            assert (await house.run(agent))["policy_reason"] == "tool_error"
            assert (await house.run(agent, "refund"))["decision"] == "blocked"
        house.tool.does(answers())
        async with asyncio.timeout(20):
            while sum(alert["count"] for alert in receiver.alerts) < 10:
                await receiver.until(len(receiver.alerts) + 1)
    told: Counter[tuple[str, str]] = Counter()
    for alert in receiver.alerts:
        assert (alert["agent_id"], alert["namespace"]) == (agent, "default")
        told[alert["kind"], alert["tool"]] += alert["count"]
    assert told == {("tool_error", "charge"): 5, ("blocked_call", "refund"): 5}
    assert len(receiver.alerts) < 10
    listed = await house.ask("GET", "/v1/alerts?state=delivered")
    assert {alert["alert_id"] for alert in listed} >= {alert["alert_id"] for alert in receiver.alerts}


async def test_preferences_switch_what_is_sent_and_mail_goes_to_whom_is_named(house: House) -> None:
    agent = house.agent()
    await house.ask("POST", f"/v1/policies/{agent}", {"blocked_tools": ["refund"]})
    mails = len(house.mail.mails)
    async with AlertReceiver() as receiver:
        await house.told_at(receiver)
        await house.ask("POST", "/v1/me/alerts", {"recipients": ["ops@example.com", "duty@example.com"]})
        await house.ask("POST", "/v1/me/notifications", {"tool_error_notifications_enabled": False})
        try:
            house.tool.does(answers(500))
            await house.run(agent)
            house.tool.does(answers())
            await house.run(agent, "refund")
            [alert] = await receiver.until(1)

            async def mailed() -> bool:
                return len(house.mail.mails) > mails

            await until(mailed)
            await house.settled()
        finally:
            switched = {"tool_error_notifications_enabled": True, "email_notifications_enabled": False}
            await house.ask("POST", "/v1/me/notifications", switched)
        assert alert["kind"] == "blocked_call"
        assert [kept["kind"] for kept in receiver.alerts] == ["blocked_call"]
        [unsent] = [one for one in await house.ask("GET", "/v1/alerts?limit=5") if one["kind"] == "tool_error"][:1]
        assert (unsent["agent_id"], unsent["deliveries"]) == (agent, [])
        # With mail off, only the webhook is told.
        await house.run(house.agent(), "nothing-of-that-name")
        other = house.agent()
        await house.ask("POST", f"/v1/policies/{other}", {"blocked_tools": ["refund"]})
        await house.run(other, "refund")
        await receiver.until(2)
    await house.ask("POST", "/v1/me/notifications", {"email_notifications_enabled": True})
    await house.ask("POST", "/v1/me/alerts", {"recipients": []})
    [mail] = house.mail.mails[mails:]
    assert mail["Message-ID"] == f"<{alert['alert_id']}@example.com>"
    assert house.mail.recipients[-1] == ["ops@example.com", "duty@example.com"]
    assert mail["Subject"] == f"[interlock] blocked call: {agent} refund: tool_explicitly_blocked"
    assert alert["facts"]["call_id"] in mail.get_payload()


async def test_a_lease_that_fails_is_a_failed_run_told_once_and_can_be_switched_off(house: House) -> None:
    agent = house.agent()
    key = (await house.ask("POST", "/v1/keys", {"role": "agent", "agent_id": agent}))["key"]

    async def fail(name: str) -> None:
        async with house.second.client(key) as api:
            leased = (await api.post("/v1/ai/lease", json={"key": name})).json()
            failed = {"key": name, "lease_id": leased["lease_id"], "error_code": "boom"}
            for _ in range(2):
                assert (await api.post("/v1/ai/fail", json=failed)).json()["status"] == "failed"

    async with AlertReceiver() as receiver:
        await house.told_at(receiver)
        await fail("report-1")
        [alert] = await receiver.until(1, "run_failed")
        assert (alert["agent_id"], alert["reason"], alert["count"]) == (agent, "boom", 1)
        assert alert["facts"] == {"key": "report-1", "of": "lease"}
        await house.ask("POST", "/v1/me/notifications", {"run_failure_notifications_enabled": False})
        try:
            await fail("report-2")

            async def listed() -> bool:
                alerts = await house.ask("GET", "/v1/alerts?limit=20")
                return sum(one["kind"] == "run_failed" for one in alerts) == 2

            await until(listed)
        finally:
            await house.ask("POST", "/v1/me/notifications", {"run_failure_notifications_enabled": True})
        assert len(receiver.of("run_failed")) == 1


async def test_a_keyed_run_that_fails_is_told_once(house: House) -> None:
    agent = house.agent()
    async with AlertReceiver() as receiver:
        await house.told_at(receiver)
        house.tool.does(answers(500))
        try:
            metadata = {"agent_id": agent, "actions": [{"tool": "failing", "args": {"run": 1}}]}
            await house.ask("POST", "/v1/ai/run", {"key": "nightly-1", "metadata": metadata})
            [alert] = await receiver.until(1, "run_failed")
        finally:
            house.tool.does(answers())
        await house.settled()
        assert len(receiver.of("run_failed")) == 1
    assert (alert["reason"], alert["count"]) == ("tool_error", 1)
    assert alert["facts"] == {"key": "nightly-1", "of": "run"}


async def test_a_receiver_that_is_down_is_tried_again_and_dead_letters_can_be_delivered_again(house: House) -> None:
    agent = house.agent()
    await house.ask("POST", f"/v1/policies/{agent}", {"blocked_tools": ["refund"]})
    async with AlertReceiver() as receiver:
        receiver.status = 503
        await house.told_at(receiver)
        await house.run(agent, "refund")
        letter = await house.dead_letter(agent)
        [delivery] = letter["deliveries"]
        assert (delivery["state"], delivery["tries"], delivery["problem"]) == ("dead", 3, "status 503")
        assert receiver.tried.count(letter["alert_id"]) == 3
        receiver.status = 200
        asked = await house.ask("POST", f"/v1/alerts/{letter['alert_id']}/redeliver", {})
        assert asked == {"ok": True, "redelivered": 1}

        async def told() -> bool:
            return letter["alert_id"] in [alert["alert_id"] for alert in receiver.alerts]

        await until(told)
        await house.ask("POST", f"/v1/alerts/{letter['alert_id']}/redeliver", {}, 404)


async def test_a_receiver_that_hangs_or_leads_elsewhere_counts_as_down_and_one_that_is_gone_is_asked_once(
    house: House,
) -> None:
    async with AlertReceiver() as receiver:
        await house.told_at(receiver)
        for status, headers, tries in ((307, {"Location": "http://127.0.0.1:9/"}, 3), (410, {}, 1)):
            receiver.status, receiver.headers = status, headers
            agent = house.agent()
            await house.ask("POST", f"/v1/policies/{agent}", {"blocked_tools": ["refund"]})
            await house.run(agent, "refund")
            letter = await house.dead_letter(agent)
            assert receiver.tried.count(letter["alert_id"]) == tries
        receiver.status, receiver.hangs = 200, True
        agent = house.agent()
        await house.ask("POST", f"/v1/policies/{agent}", {"blocked_tools": ["refund"]})
        await house.run(agent, "refund")
        await receiver.until_tried(len(receiver.tried) + 2)
        receiver.hangs = False

        async def told() -> bool:
            return agent in [alert["agent_id"] for alert in receiver.alerts]

        await until(told)
        await house.ask("POST", "/v1/alerts/redeliver", {})
        await receiver.until(3)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "http://[fe80::1]/",
        "http://metadata.google.internal/",
        "http://0x7f000001/",
        "ftp://example.com/",
        "grpc://example.com:1",
        "http://user:password@example.com/",
    ],
)
async def test_a_webhook_may_be_where_a_tool_may_be_only(house: House, url: str) -> None:
    asked = await house.ask("POST", "/v1/me/alerts", {"webhook_url": url, "secret": "not a secret"}, 422)
    assert "not a secret" not in json.dumps(asked)


async def test_another_url_needs_its_secret_with_it_and_no_secret_is_ever_shown(house: House) -> None:
    await house.ask("POST", "/v1/me/alerts", {"webhook_url": "http://127.0.0.1:9/a", "secret": SECRET})
    await house.ask("POST", "/v1/me/alerts", {"webhook_url": "http://127.0.0.1:9/b"}, 422)
    await house.ask("POST", "/v1/me/alerts", {"recipients": ["a@b.example\nBcc: c@d.example"]}, 422)
    shown = await house.ask("GET", "/v1/me/alerts")
    assert (shown["webhook_url"], shown["has_secret"]) == ("http://127.0.0.1:9/a", True)
    kept = await house.redis.get("il:{default}:alerting")
    for text in (json.dumps(shown), str(kept), house.first.log.read_text(), json.dumps(await _changes(house))):
        assert SECRET not in text
        assert SECRET.removeprefix("whsec_") not in text
    removed = await house.ask("DELETE", "/v1/me/alerts")
    assert (removed["webhook_url"], removed["has_secret"]) == (None, False)


async def _changes(house: House) -> list[dict[str, Any]]:
    changes = await house.ask("GET", "/v1/changes?limit=1000")
    assert [change["verdict"] for change in changes if change["type"] == "alerting"][-1] == "SET"
    return list(changes)


async def test_budgets_are_told_once_each_whatever_crowd_uses_them_up_at_two_engines(house: House) -> None:
    agent = house.agent()
    policy = {"max_spend_usd_per_day": 100, "max_actions_per_hour": 250, "max_calls_per_tool": {"refund": 10}}
    await house.ask("POST", f"/v1/policies/{agent}", policy)
    async with AlertReceiver() as receiver:
        await house.told_at(receiver)
        crowd = [house.run(agent, usd=1, at=(house.first, house.second)[n % 2]) for n in range(300)]
        answered = await asyncio.gather(*crowd)
        assert Counter(one["decision"] for one in answered) == {"executed": 100, "blocked": 200}
        await asyncio.gather(*(house.run(agent, "refund", at=house.second) for _ in range(30)))
        await receiver.until(4, "budget")
        await house.settled()
        for _ in range(20):
            await house.run(agent, usd=1)
        await house.settled()
    told = Counter((alert["reason"], alert["tool"]) for alert in receiver.of("budget"))
    assert told == {
        ("max_spend_usd_per_day_80_percent", None): 1,
        ("max_spend_usd_per_day_100_percent", None): 1,
        ("max_calls_per_tool_80_percent", "refund"): 1,
        ("max_calls_per_tool_100_percent", "refund"): 1,
    }
    assert len({alert["alert_id"] for alert in receiver.alerts}) == len(receiver.alerts)


async def test_repeated_refusals_raise_the_risk_and_disable_the_agent_once_and_enabling_it_holds(house: House) -> None:
    agent = house.agent()
    await house.ask("POST", f"/v1/policies/{agent}", {"blocked_tools": ["refund"], "on_anomaly": "disable"})
    assert (await house.run(agent))["risk_level"] == "low"
    for _ in range(12):
        await house.run(agent, "refund")
    [anomaly] = await house.anomalies(agent, 1)
    assert (anomaly["reason"], anomaly["tool"], anomaly["facts"]["action"]) == ("repeated_refusal", "refund", "disable")
    assert anomaly["facts"]["refusals"] >= 10
    for dev in (house.first, house.second):
        refused = await house.run(agent, at=dev)
        assert (refused["policy_reason"], refused["risk_level"]) == ("agent_disabled", "high")
    shown = await house.ask("GET", f"/v1/agents/{agent}")
    assert shown["is_enabled"] is False
    assert shown["disabled_reason"] == "anomaly: repeated_refusal (refund)"
    for _ in range(20):
        await house.run(agent, "refund")
    await house.settled()
    assert len(await house.events(agent, "switch")) == 1
    await house.ask("POST", f"/v1/agents/{agent}/enable", {"reason": "seen"})
    for dev in (house.first, house.second) * 3:
        assert (await house.run(agent, at=dev))["allowed"]
        await house.run(agent, "refund")
    await house.settled()
    assert (await house.ask("GET", f"/v1/agents/{agent}"))["is_enabled"] is True
    assert len(await house.events(agent, "anomaly")) == 1
    # What it does from then on is new evidence, however lately it was told.
    for _ in range(10):
        await house.run(agent, "refund")
    await house.anomalies(agent, 2)
    assert (await house.ask("GET", f"/v1/agents/{agent}"))["is_enabled"] is False


async def test_a_burst_a_new_tool_and_spend_velocity_are_noted_and_normal_use_is_not(house: House) -> None:
    agent, normal = house.agent(), house.agent()
    for one in (agent, normal):
        await house.ask("POST", f"/v1/policies/{one}", {"max_spend_usd_per_day": 1000})
        hour = (await house.redis.time())[0] // 3600
        await house.run(one)
        past = {f"{hour - back}:a": "12" for back in range(1, 25)}
        await house.redis.hset(f"il:{{default:{one}}}:hours", mapping=past)
    for _ in range(25):
        await house.run(normal, usd=0.1)
    await asyncio.gather(*(house.run(agent) for _ in range(60)))
    [burst] = await house.anomalies(agent, 1)
    assert (burst["reason"], burst["facts"]["usual_calls"], burst["facts"]["action"]) == ("burst", 1, "alert")
    await house.run(agent, "refund")
    new_tool = (await house.anomalies(agent, 2))[1]
    assert (new_tool["reason"], new_tool["tool"]) == ("new_tool", "refund")
    for _ in range(3):
        await house.run(agent, usd=300)
    velocity = (await house.anomalies(agent, 3))[2]
    assert (velocity["reason"], velocity["facts"]["limit_usd"]) == ("spend_velocity", 1000)
    assert (await house.run(agent, at=house.second))["risk_level"] == "high"
    assert (await house.ask("GET", f"/v1/agents/{agent}"))["is_enabled"] is True
    await house.settled()
    assert await house.events(normal, "anomaly") == []
    assert (await house.run(normal))["risk_level"] == "low"


async def test_what_was_told_is_counted_and_one_engine_watches(house: House) -> None:
    metrics = Counter[str]()
    for dev in (house.first, house.second):
        async with dev.client() as api:
            lines = (await api.get(f"{dev.admin_url}/metrics")).text.splitlines()
        for line in lines:
            name, _, value = line.rpartition(" ")
            metrics[name] += int(float(value)) if name.startswith(("interlock_a",)) else 0
    assert metrics["interlock_alerts_watching"] == 1
    assert metrics['interlock_anomalies_total{kind="burst"}'] == 1
    assert metrics['interlock_anomalies_total{kind="repeated_refusal"}'] >= 2
    assert metrics['interlock_alert_deliveries_total{channel="webhook",outcome="dead"}'] >= 3
    assert metrics['interlock_alert_deliveries_total{channel="webhook",outcome="delivered"}'] > 5


async def test_an_engine_that_is_killed_loses_no_alert_and_raises_none_twice(house: House) -> None:
    agents = [house.agent() for _ in range(30)]
    async with AlertReceiver() as receiver:
        await house.told_at(receiver)
        for agent in agents:
            await house.ask("POST", f"/v1/policies/{agent}", {"blocked_tools": ["refund"]})
        victim, other = (house.first, house.second) if await _watches(house.first) else (house.second, house.first)
        for number, agent in enumerate(agents):
            await house.run(agent, "refund", at=other)
            if number == 15:
                await victim.kill()
        async with asyncio.timeout(30):
            while len({alert["agent_id"] for alert in receiver.of("blocked_call")} & {*agents}) < len(agents):
                await receiver.until(len(receiver.alerts) + 1, within_s=30)
        await victim.start()
    of_agents = [alert for alert in receiver.of("blocked_call") if alert["agent_id"] in agents]
    # Delivered twice, it has the same id; an agent's one refusal is one alert.
    assert len({alert["alert_id"] for alert in of_agents}) == len(agents)
    assert {alert["count"] for alert in of_agents} == {1}


async def _watches(dev: InterlockDev) -> bool:
    async with dev.client() as api:
        return "interlock_alerts_watching 1.0" in (await api.get(f"{dev.admin_url}/metrics")).text
