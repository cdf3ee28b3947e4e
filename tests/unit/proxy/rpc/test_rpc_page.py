"""The page on gRPC tells the statuses that are sent."""

import re
from pathlib import Path

import pytest
from grpc import StatusCode as Code

from interlock.governance.errors import BY_KIND, InternalError, UnavailableError
from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.problems import MESSAGES, STATUS_OF_REASON, problem_of_error, problem_of_failure
from interlock.proxy.rpc.status import CODE_OF_REASON, code_of, outcome_of
from tests.unit.proxy.test_error_page import RAISED, raised


def reasons_of(module: Path) -> set[str]:
    return {reason for _, reason in RAISED.findall(module.read_text())}


PAGE = (Path(__file__).parents[4] / "docs" / "grpc.md").read_text()
ROWS = {
    reason: code
    for code, reasons in re.findall(r"^\| `([A-Z_]+)` \| (`[a-z].*) \|$", PAGE, re.MULTILINE)
    for reason in re.findall(r"`(\w+)`", reasons)
}
OUTCOMES = {
    code: outcome
    for codes, outcome in re.findall(r"^\| (`[A-Z_`, ]+) \| (succeeded|rejected|ambiguous) \|", PAGE, re.MULTILINE)
    for code in re.findall(r"`(\w+)`", codes)
}
HTTP_ONLY = {"invalid_json", "invalid_body", "malformed_request", "method_not_allowed", "expectation_failed"} | {
    "host_not_allowed", "tool_is_grpc", "request_refused", "sidecar_only"
}  # fmt: skip
ROOM = Path(__file__).parents[4] / "proxy" / "interlock" / "proxy"
OF_CALLS = {reason for path in (*ROOM.glob("rpc/*.py"), *ROOM.glob("stages/*.py")) for reason in reasons_of(path)}
SENT = ({*STATUS_OF_REASON, *MESSAGES, *CODE_OF_REASON} | OF_CALLS) - HTTP_ONLY


@pytest.mark.parametrize("reason", sorted(SENT))
def test_every_reason_has_its_status_on_the_page(reason: str) -> None:
    error = BY_KIND[raised()[reason]](reason, "…") if reason in raised() else None
    problem = problem_of_error(error) if error else problem_of_failure(reason)
    if reason in MESSAGES and reason not in STATUS_OF_REASON:  # of the engine's verdict
        assert ROWS[reason] == Code.PERMISSION_DENIED.name
    else:
        assert ROWS[reason] == code_of(problem).name


def test_every_status_of_a_tool_has_its_outcome_on_the_page() -> None:
    assert {code.name: pb.Outcome.Name(outcome_of(code)).removeprefix("OUTCOME_").lower() for code in Code} == OUTCOMES


def test_a_reason_that_nobody_has_thought_of_is_no_word_of_the_tools() -> None:
    assert code_of(problem_of_error(UnavailableError("new", "…"))) is Code.UNAVAILABLE
    assert code_of(problem_of_error(InternalError("new", "…"))) is Code.INTERNAL
    assert code_of(problem_of_failure("new")) is Code.UNKNOWN
