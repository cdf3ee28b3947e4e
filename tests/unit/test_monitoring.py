"""Rules and dashboards: their queries ask for metrics and labels that there are, and every alert leads somewhere."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
FILES = ROOT / "helm" / "interlock" / "files"
DASHBOARDS = sorted((FILES / "dashboards").glob("*.json"))
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
OF_PROMETHEUS = {"job", "instance"}
"""Labels that Prometheus gives to what it scrapes."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A metric that a query names, with the labels by which it chooses and groups."""

    metric: str
    labels: frozenset[str]


def rules() -> list[dict[str, Any]]:
    read = YAML(typ="safe", pure=True).load((FILES / "rules.yaml").read_text())
    return [rule for group in read["groups"] for rule in group["rules"]]


def queries_of(dashboard: Path) -> Iterator[str]:
    for panel in json.loads(dashboard.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"].replace("$__rate_interval", "1m")


def asked(query: str) -> Iterator[Asked]:
    """All metrics of a query. What a query groups by has to be a label of each metric below it."""
    yield from _asked(promql.parse(query), frozenset())


def _asked(node: Any, grouping: frozenset[str]) -> Iterator[Asked]:
    if isinstance(node, promql.MatrixSelector):
        node = node.vector_selector
    if isinstance(node, promql.VectorSelector):
        yield Asked(node.name, grouping | {matcher.name for matcher in node.matchers.matchers})
        return
    if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
        grouping |= {*node.modifier.labels}
    if isinstance(node, promql.BinaryExpr) and str(node.op) in {"and", "unless"}:  # the right only chooses
        yield from _asked(node.lhs, grouping)
        yield from _asked(node.rhs, frozenset())
        return
    for below in _below(node):
        yield from _asked(below, grouping)


def _below(node: Any) -> Iterator[Any]:
    if isinstance(node, promql.Call):
        yield from node.args
    elif isinstance(node, promql.BinaryExpr):
        yield from (node.lhs, node.rhs)
    elif isinstance(node, promql.AggregateExpr | promql.ParenExpr | promql.SubqueryExpr | promql.UnaryExpr):
        yield node.expr


def all_queries() -> list[tuple[str, str]]:
    told = [(f"rule {rule['alert']}", rule["expr"]) for rule in rules()]
    return told + [(board.name, query) for board in DASHBOARDS for query in queries_of(board)]


def metrics_of_the_page() -> dict[str, set[str]]:
    """Metrics with their labels by docs/operations.md, which another test holds to the code."""
    rows = re.findall(
        r"^\| `(interlock_\w+)` \|([^|]*)\| (?:sidecar|engine|injector|both) \|", OPERATIONS, re.MULTILINE
    )
    named = {name: {*re.findall(r"`(\w+)`", labels)} for name, labels in rows}
    seconds = [name for name in named if name.endswith("_seconds") and named[name] - {"sink"}]
    parts = {f"{name}_bucket": named[name] | {"le"} for name in seconds}
    return named | parts | {f"{name}_count": named[name] for name in seconds} | {"up": set()}


def test_there_are_rules_and_dashboards_and_deploy_leads_to_the_charts_own() -> None:
    assert len(rules()) >= 15
    assert [board.name for board in DASHBOARDS] == ["calls.json", "engines.json"]
    assert (ROOT / "deploy" / "prometheus" / "rules.yaml").resolve() == FILES / "rules.yaml"
    assert [path.resolve() for path in sorted((ROOT / "deploy" / "grafana").glob("*.json"))] == DASHBOARDS


@pytest.mark.parametrize(("where", "query"), all_queries())
def test_every_query_asks_for_metrics_and_labels_that_there_are(where: str, query: str) -> None:
    known = metrics_of_the_page()
    found = [*asked(query)]
    assert found
    for each in found:
        assert each.metric in known, each.metric
        assert each.labels - OF_PROMETHEUS <= known[each.metric], each


def test_every_metric_is_shown_by_a_dashboard() -> None:
    shown = {each.metric for board in DASHBOARDS for query in queries_of(board) for each in asked(query)}
    known = {*re.findall(r"^\| `(interlock_\w+)` \|", OPERATIONS, re.MULTILINE)}
    assert {re.sub(r"_(bucket|count)$", "", name) for name in shown} >= known - {"interlock_audit_folded_total"}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_every_alert_is_on_the_page_and_leads_to_what_to_do(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^##+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert re.search(rf"^\| `{rule['alert']}` \| [^|]+ \| \[[^]]+\]\(#{anchor}\) \|$", OPERATIONS, re.MULTILINE)
    assert rule["labels"]["severity"] in {"critical", "warning"}


def test_the_page_names_no_alert_that_there_is_not() -> None:
    assert {*re.findall(r"^\| `(Interlock\w+)` \|", OPERATIONS, re.MULTILINE)} == {rule["alert"] for rule in rules()}


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_has_panels_that_say_what_they_show_and_do_not_overlap(dashboard: Path) -> None:
    board = json.loads(dashboard.read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {variable["name"] for variable in board["templating"]["list"]}
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["type"] == "row" or (panel["description"] and panel["targets"])
        used = re.findall(r"\$\{?(\w+)", json.dumps(panel))
        assert {*used} - {"__rate_interval"} <= variables


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is missing: apt-get install prometheus")
@pytest.mark.parametrize("command", [["check", "rules", "rules.yaml"], ["test", "rules", "rules_test.yaml"]])
def test_promtool_finds_nothing_wrong(command: list[str]) -> None:
    folder = ROOT / "deploy" / "prometheus"
    told = subprocess.run(["promtool", *command], cwd=folder, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_is_silent() -> None:
    read = YAML(typ="safe", pure=True).load((ROOT / "deploy" / "prometheus" / "rules_test.yaml").read_text())
    cases = [case for test in read["tests"] for case in test["alert_rule_test"]]
    fires = {case["alertname"] for case in cases if case.get("exp_alerts")}
    silent = {case["alertname"] for case in cases if not case.get("exp_alerts")}
    alerts = {rule["alert"] for rule in rules()}
    assert (alerts - fires, alerts - silent) == (set(), set())
