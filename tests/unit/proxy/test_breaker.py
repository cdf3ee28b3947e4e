from interlock.proxy.breaker import Breaker


def tripped() -> Breaker:
    breaker = Breaker(threshold=3, cooldown_s=10)
    for _ in range(3):
        breaker.failed(0)
    return breaker


def test_it_stays_closed_below_the_threshold() -> None:
    breaker = Breaker(threshold=3, cooldown_s=10)
    breaker.failed(0)
    breaker.failed(0)
    assert breaker.allows(0)
    assert breaker.retry_after_s(0) == 0


def test_it_opens_at_the_threshold_and_says_when_to_come_back() -> None:
    breaker = tripped()
    assert not breaker.allows(4)
    assert breaker.retry_after_s(4) == 6


def test_only_failures_in_a_row_count() -> None:
    breaker = Breaker(threshold=2, cooldown_s=10)
    for now in range(10):
        breaker.failed(now)
        breaker.succeeded()
    assert breaker.allows(10)


def test_after_the_cool_down_exactly_one_call_is_the_trial() -> None:
    breaker = tripped()
    assert [breaker.allows(10) for _ in range(5)] == [True, False, False, False, False]


def test_a_trial_that_succeeds_closes_it() -> None:
    breaker = tripped()
    assert breaker.allows(10)
    breaker.succeeded()
    assert all(breaker.allows(10) for _ in range(5))
    breaker.failed(10)
    assert breaker.allows(10)


def test_a_trial_that_fails_opens_it_for_another_cool_down() -> None:
    breaker = tripped()
    assert breaker.allows(10)
    breaker.failed(11)
    assert not breaker.allows(20.9)
    assert breaker.allows(21)


def test_a_trial_that_never_reports_back_does_not_close_the_door_for_ever() -> None:
    breaker = tripped()
    assert breaker.allows(10)
    assert not breaker.allows(19.9)
    assert breaker.allows(20)
