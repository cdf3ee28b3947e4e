"""The page of errors is complete and its statuses are those that are sent."""

import re
from pathlib import Path

import pytest

from interlock.governance.errors import BY_KIND, Kind
from interlock.proxy.problems import MESSAGES, STATUS_OF_REASON, problem_of_error

ROOT = Path(__file__).parents[3]
ROWS = dict(re.findall(r"^\| `(\w+)` \| (\d{3}) \|", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE))
SOURCES = [path for room in ("proxy", "policy", "store", "proto") for path in (ROOT / room).rglob("*.py")]
# Raised with a reason as its first argument: what a caller may see.
RAISED = re.compile(
    r"\b(InvalidRequest|Unauthenticated|Denied|NotFound|Conflict|Exhausted|Unavailable|Internal|Upstream)Error\(\s*\"(\w+)\""
)
KINDS = {"InvalidRequest": Kind.INVALID, "Unauthenticated": Kind.UNAUTHENTICATED, "NotFound": Kind.NOT_FOUND}
# Operators' routes only, which answer under /v1.
ADMIN_ONLY = {
    "invalid_tool", "invalid_policy", "invalid_role", "tool_changing", "policy_not_found", "key_not_found",
    "call_not_found", "call_not_open", "invalid_alerting", "alert_not_dead", "invalid_cursor", "too_many_followers",
    "managed_by_another", "configuration_changing", "invalid_namespace", "unknown_plan", "unknown_template",
    "namespace_changing",
    "payment_required", "feature_not_available", "namespace_not_found", "namespace_in_use", "namespace_deleted",
}  # fmt: skip


def raised() -> dict[str, Kind]:
    found = {}
    for path in SOURCES:
        for name, reason in RAISED.findall(path.read_text()):
            found[reason] = KINDS.get(name) or Kind[name.upper()] if name != "Upstream" else Kind.UNAVAILABLE
    return found


@pytest.mark.parametrize("reason", sorted({*STATUS_OF_REASON, *MESSAGES, *raised()} - ADMIN_ONLY))
def test_every_reason_stands_on_the_page(reason: str) -> None:
    assert reason in ROWS


@pytest.mark.parametrize(("reason", "kind"), sorted((r, k) for r, k in raised().items() if r not in ADMIN_ONLY))
def test_the_status_on_the_page_is_the_one_that_is_sent(reason: str, kind: Kind) -> None:
    assert problem_of_error(BY_KIND[kind](reason, "…")).status == int(ROWS[reason])


@pytest.mark.parametrize(("reason", "status"), STATUS_OF_REASON.items())
def test_statuses_of_verdicts_and_failures_are_those_on_the_page(reason: str, status: int) -> None:
    assert int(ROWS[reason]) == status
