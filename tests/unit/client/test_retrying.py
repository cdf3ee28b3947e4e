"""Which requests are tried again, when, and how long they wait."""

from datetime import UTC, datetime

import httpx
import pytest

from interlock.client.retrying import (
    Repeat,
    RetryPolicy,
    may_repeat_after_failure,
    may_repeat_after_status,
    retry_after_s,
)

REQUEST = httpx.Request("POST", "http://localhost/")


def test_pauses_double_and_half_of_each_is_left_to_chance() -> None:
    policy = RetryPolicy(tries=9, base_s=1, max_pause_s=5)
    assert [policy.pause_s(tried, chance=lambda: 1.0) for tried in range(1, 6)] == [1, 2, 4, 5, 5]
    assert [policy.pause_s(tried, chance=lambda: 0.0) for tried in range(1, 6)] == [0.5, 1, 2, 2.5, 2.5]


def test_no_more_tries_than_allowed() -> None:
    assert RetryPolicy(tries=3).pause_s(2) is not None
    assert RetryPolicy(tries=3).pause_s(3) is None


def test_what_the_server_asks_for_is_never_cut_short() -> None:
    policy = RetryPolicy(base_s=1)
    assert policy.pause_s(1, 7, chance=lambda: 0.0) == 7.5
    assert policy.pause_s(1, 7, chance=lambda: 1.0) == 8


def test_a_longer_wait_than_allowed_is_not_begun() -> None:
    assert RetryPolicy(max_retry_after_s=30).pause_s(1, 31) is None


def test_an_exponent_of_any_size_is_cut_off() -> None:
    assert RetryPolicy(tries=10**9, max_pause_s=5).pause_s(10**8, chance=lambda: 1.0) == 5


@pytest.mark.parametrize("nonsense", [{"tries": 0}, {"base_s": -1}, {"max_retry_after_s": -1}])
def test_a_policy_that_makes_no_sense_is_refused(nonsense: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least once"):
        RetryPolicy(**nonsense)


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("0", 0),
        ("17", 17),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("²", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(told: str, seconds: float | None) -> None:
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert retry_after_s(httpx.Headers({"Retry-After": told.encode("utf-8")}), now) == seconds


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 422, 501])
@pytest.mark.parametrize("repeat", Repeat)
def test_a_refusal_is_never_tried_again(repeat: Repeat, status: int) -> None:
    assert not may_repeat_after_status(repeat, status)


def test_what_a_second_try_would_repeat_is_tried_again_only_where_nothing_was_done() -> None:
    statuses = (429, 500, 502, 503, 504)
    repeated = {repeat: [s for s in statuses if may_repeat_after_status(repeat, s)] for repeat in Repeat}
    assert repeated == {
        Repeat.HARMLESS: [429, 500, 502, 503, 504],
        Repeat.HARMFUL: [429],
        Repeat.HARMFUL_UNLESS_UNAVAILABLE: [429, 503],
    }


@pytest.mark.parametrize(
    ("failure", "harmful_too"),
    [
        (httpx.ConnectError, True),
        (httpx.ConnectTimeout, True),
        (httpx.PoolTimeout, True),
        (httpx.ReadTimeout, False),
        (httpx.WriteError, False),
        (httpx.RemoteProtocolError, False),
    ],
)
def test_a_lost_answer_is_asked_for_again_only_if_that_does_no_harm(
    failure: type[httpx.TransportError], *, harmful_too: bool
) -> None:
    broken = failure("broken", request=REQUEST)
    assert may_repeat_after_failure(Repeat.HARMLESS, broken)
    assert may_repeat_after_failure(Repeat.HARMFUL, broken) is harmful_too


def test_what_cannot_be_sent_at_all_is_not_tried_twice() -> None:
    assert not may_repeat_after_failure(Repeat.HARMLESS, httpx.UnsupportedProtocol("ftp", request=REQUEST))
