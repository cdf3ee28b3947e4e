from datetime import UTC, datetime

import pytest

from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.call import Forwarded
from interlock.proxy.outcomes import (
    FIRST_BACKOFF_S,
    LAST_BACKOFF_S,
    backoff_s,
    full_jitter,
    outcome_of,
    retry_after_s,
    settled_outcome,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, pb.OUTCOME_SUCCEEDED),
        (204, pb.OUTCOME_SUCCEEDED),
        (301, pb.OUTCOME_SUCCEEDED),
        (304, pb.OUTCOME_SUCCEEDED),
        (400, pb.OUTCOME_REJECTED),
        (404, pb.OUTCOME_REJECTED),
        (408, pb.OUTCOME_AMBIGUOUS),
        (429, pb.OUTCOME_REJECTED),
        (499, pb.OUTCOME_REJECTED),
        (500, pb.OUTCOME_AMBIGUOUS),
        (503, pb.OUTCOME_AMBIGUOUS),
    ],
)
def test_a_whole_answer_is_judged_by_its_status(status: int, outcome: int) -> None:
    assert outcome_of(status, sent=True, whole=True) == outcome


@pytest.mark.parametrize("status", [0, 200, 404, 500])
def test_an_answer_that_is_not_whole_is_ambiguous_whatever_its_status(status: int) -> None:
    assert outcome_of(status, sent=True, whole=False) == pb.OUTCOME_AMBIGUOUS


def test_what_was_not_sent_did_nothing() -> None:
    assert outcome_of(0, sent=False, whole=False) == pb.OUTCOME_NOT_SENT


@pytest.mark.parametrize("last", [pb.OUTCOME_NOT_SENT, pb.OUTCOME_REJECTED, pb.OUTCOME_AMBIGUOUS])
def test_a_later_try_that_did_nothing_does_not_clear_an_ambiguous_one(last: "pb.Outcome.ValueType") -> None:
    assert settled_outcome(last, earlier_ambiguous=True) == pb.OUTCOME_AMBIGUOUS


@pytest.mark.parametrize("earlier_ambiguous", [True, False])
def test_a_success_clears_whatever_was_before_it(*, earlier_ambiguous: bool) -> None:
    assert settled_outcome(pb.OUTCOME_SUCCEEDED, earlier_ambiguous=earlier_ambiguous) == pb.OUTCOME_SUCCEEDED


def test_a_call_whose_tries_did_nothing_did_nothing() -> None:
    assert settled_outcome(pb.OUTCOME_REJECTED, earlier_ambiguous=False) == pb.OUTCOME_REJECTED


RETRY = pb.ToolRoute(max_retries=2, on_ambiguous=pb.ON_AMBIGUOUS_RETRY, timeout_ms=1_000)
HOLD = pb.ToolRoute(max_retries=2, on_ambiguous=pb.ON_AMBIGUOUS_HOLD, timeout_ms=1_000)
NOT_SENT = Forwarded(outcome=pb.OUTCOME_NOT_SENT, failure="upstream_unreachable")
AMBIGUOUS = Forwarded(outcome=pb.OUTCOME_AMBIGUOUS, status=500)
LIMITED = Forwarded(outcome=pb.OUTCOME_REJECTED, status=429)
REJECTED = Forwarded(outcome=pb.OUTCOME_REJECTED, status=404)
SUCCEEDED = Forwarded(outcome=pb.OUTCOME_SUCCEEDED, status=200)
REFUSED = Forwarded(outcome=pb.OUTCOME_NOT_SENT, failure="destination_refused")


@pytest.mark.parametrize("tool", [RETRY, HOLD], ids=["retry", "hold"])
def test_what_was_not_sent_is_tried_again_for_every_tool(tool: pb.ToolRoute) -> None:
    assert backoff_s(NOT_SENT, tool, 1) is not None


@pytest.mark.parametrize("tried", [AMBIGUOUS, LIMITED], ids=["ambiguous", "429"])
def test_what_may_have_happened_is_tried_again_only_for_retry_tools(tried: Forwarded) -> None:
    assert backoff_s(tried, RETRY, 1) is not None
    assert backoff_s(tried, HOLD, 1) is None


@pytest.mark.parametrize("tried", [REJECTED, SUCCEEDED, REFUSED], ids=["rejected", "succeeded", "refused"])
def test_what_another_try_cannot_better_is_not_tried_again(tried: Forwarded) -> None:
    assert backoff_s(tried, RETRY, 1) is None


def test_a_call_is_tried_once_and_max_retries_times_again() -> None:
    assert backoff_s(AMBIGUOUS, RETRY, 2) is not None
    assert backoff_s(AMBIGUOUS, RETRY, 3) is None


def test_backoff_doubles_from_try_to_try_and_is_jittered_in_full() -> None:
    tool = pb.ToolRoute(max_retries=10)
    for tries in (1, 2, 3):
        waits = [backoff_s(AMBIGUOUS, tool, tries) or 0.0 for _ in range(500)]
        most = FIRST_BACKOFF_S * 2 ** (tries - 1)
        assert max(waits) <= most
        assert min(waits) < most / 4
        assert max(waits) > most * 3 / 4


def test_backoff_ends_growing_however_long_it_goes_on() -> None:
    assert LAST_BACKOFF_S / 2 < max(full_jitter(100_000) for _ in range(500)) <= LAST_BACKOFF_S


def test_a_429_is_tried_again_when_it_says() -> None:
    assert backoff_s(Forwarded(outcome=pb.OUTCOME_REJECTED, status=429, retry_after_s=0.5), RETRY, 1) == 0.5


def test_a_429_that_asks_for_more_than_the_time_out_is_left_to_the_agent() -> None:
    assert backoff_s(Forwarded(outcome=pb.OUTCOME_REJECTED, status=429, retry_after_s=1.5), RETRY, 1) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("Fri, 02 Jan 2026 03:04:15 GMT", 10.0),
        ("Fri, 02 Jan 2026 03:04:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("", None),
        ("Thu, 01 Jan 2026 00:00:99999999999999999999 GMT", None),
        ("Thu, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Thu, 01 Jan 2026 00:00:00 +99999999999999999999", None),
        ("Thu, 01 Jan 0001 00:00:00 +2359", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert retry_after_s((("retry-after", value),), NOW) == seconds
