"""The very commands and variables of deploy/compose.yaml, as processes: a call goes through, and is seen."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import promql_parser as promql
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.compose import Stack, soon
from tests.unit.test_monitoring import DASHBOARDS, all_queries, asked, queries_of, rules

ROLES = {"engine": 8403, "sidecar": 8401, "exporter": 8404}


def answers(stack: Stack) -> bool:
    with Redis(port=stack.ports[6379]) as redis:
        try:
            return bool(redis.ping())
        except RedisConnectionError:
            return False


def counted(stack: Stack, selector: str) -> float:
    """The sidecar's series that a selector of PromQL chooses, added up."""
    chosen = promql.parse(selector)
    text = httpx.get(f"http://127.0.0.1:{stack.ports[8401]}/metrics").text
    samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
    return sum(
        each.value
        for each in samples
        if each.name == chosen.name
        and all(matches(matcher, each.labels[matcher.name]) for matcher in chosen.matchers.matchers)
    )


def matches(matcher: promql.Matcher, value: str) -> bool:
    if matcher.op == promql.MatchOp.Equal:
        return bool(matcher.value == value)
    assert matcher.op == promql.MatchOp.Re
    return re.fullmatch(matcher.value, value) is not None


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All of it but Prometheus and Grafana, with an agent that has made its first three calls."""
    stack = Stack(tmp_path_factory.mktemp("compose"))
    try:
        stack.start("redis")
        soon(lambda: answers(stack))
        for name in ("tool", "engine", "exporter", "sidecar"):
            stack.start(name)
        soon(lambda: stack.is_healthy("engine"))
        soon(lambda: stack.is_healthy("sidecar"))
        assert stack.start("enrol").wait(30) == 0, stack.log("enrol").read_text()
        stack.start("agent")
        soon(lambda: len([*stack.said("agent")]) >= 3)
        yield stack
    finally:
        for process in stack.running.values():
            process.kill()
            process.wait(10)


def test_the_agents_calls_are_executed_once_answered_again_and_refused(stack: Stack) -> None:
    first, again, mail, *_ = stack.said("agent")
    assert (first["status"], first["decision"], first["body"]["receipt"]) == (200, "executed", "ch_1")
    assert (again["status"], again["decision"], again["body"]) == (200, "dedup", first["body"])
    assert (mail["status"], mail["decision"]) == (403, "blocked")


def test_a_call_past_the_sidecar_is_refused_by_the_tool(stack: Stack) -> None:
    assert httpx.post(f"http://127.0.0.1:{stack.ports[9000]}/charge", json={"order": "1"}).status_code == 401


def test_the_trail_is_exported_and_can_be_proved(stack: Stack) -> None:
    folder = stack.folder / "volumes" / "trail" / "audit"
    soon(lambda: any('"dev.interlock.audit.settlement"' in file.read_text() for file in folder.glob("*.jsonl*")))


def test_every_query_asks_for_what_these_processes_expose(stack: Stack) -> None:
    exposed: dict[str, list[dict[str, str]]] = {}
    for port in ROLES.values():
        text = httpx.get(f"http://127.0.0.1:{stack.ports[port]}/metrics").text
        for family in text_string_to_metric_families(text):
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
            for name in (family.name + suffix for suffix in suffixes):
                exposed.setdefault(name, []).extend(each.labels for each in family.samples if each.name == name)
    seen = set()
    for _, query in all_queries():
        for each in asked(query):
            if each.metric == "up":
                continue
            assert each.metric in exposed
            labels = each.labels - {"job", "instance"}
            for series in exposed[each.metric]:
                assert labels <= set(series), (each, series)
                seen.add(each.metric)
    assert {"interlock_decisions_total", "interlock_redis_call_seconds_bucket", "interlock_audit_lag_seconds"} <= seen


def test_the_verdicts_that_dashboards_leave_out_are_those_of_calls_let_through(stack: Stack) -> None:
    text = httpx.get(f"http://127.0.0.1:{stack.ports[8401]}/metrics").text
    verdicts = set(re.findall(r'^interlock_decisions_total\{.*?verdict="(\w+)"', text, re.MULTILINE))
    assert verdicts == {"EXECUTE", "REPLAY", "BLOCKED"}
    queries = [query for board in DASHBOARDS for query in queries_of(board)]
    left_out = {found for query in queries for found in re.findall(r'verdict!~"([^"]+)"', query)}
    assert left_out == {"EXECUTE|REPLAY"}


@pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is missing: apt-get install prometheus")
def test_prometheus_scrapes_every_role_evaluates_the_rules_and_answers_the_dashboards(stack: Stack) -> None:
    stack.start("prometheus")
    with httpx.Client(base_url=f"http://127.0.0.1:{stack.ports[9090]}/api/v1/", timeout=10) as api:

        def data(path: str, **query: str) -> Any:
            return api.get(path, params=query).raise_for_status().json()["data"]

        def scrapes_all() -> bool:
            try:
                up = data("query", query="up == 1")["result"]
            except httpx.HTTPError:  # it does not listen yet, or is not ready
                return False
            return {each["metric"]["job"] for each in up} == set(ROLES)

        soon(scrapes_all)
        loaded = [rule["name"] for group in data("rules")["groups"] for rule in group["rules"]]
        assert loaded == [rule["alert"] for rule in rules()]
        for _, query in all_queries():
            data("query", query=query.replace("$instance", ".*").replace("$tool", ".*"))
        by_verdict = data("query", query="sum by (verdict) (interlock_decisions_total)")["result"]
        assert {each["metric"]["verdict"] for each in by_verdict} == {"EXECUTE", "REPLAY", "BLOCKED"}
        assert data("alerts")["alerts"] == []


@pytest.mark.parametrize(
    ("gone", "alert"), [("tool", "InterlockToolFails"), ("engine", "InterlockNotJudging")], ids=["tool", "engine"]
)
def test_when_one_is_gone_the_alert_for_it_counts_the_calls_that_fail(stack: Stack, gone: str, alert: str) -> None:
    [rule] = [rule for rule in rules() if rule["alert"] == alert]
    [selector] = re.findall(r"interlock_decisions_total\{[^}]+\}", rule["expr"])
    assert counted(stack, selector) == 0
    stack.stop(gone)
    soon(lambda: counted(stack, selector) > 0)


def test_the_other_roles_end_in_order_when_they_are_told_to(stack: Stack) -> None:
    stack.stop("agent")
    assert [stack.stop(name) for name in ("sidecar", "exporter")] == [0, 0]


def test_the_secrets_are_made_once(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    before = [(tmp_path / name).read_bytes() for name in (".env", "keys/audit.key")]
    subprocess.run(["sh", str(tmp_path / "compose-keys.sh")], check=True)
    assert [(tmp_path / name).read_bytes() for name in (".env", "keys/audit.key")] == before
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert json.dumps(stack.variables).count("once_live_") == 1
