from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.breaker import Breaker, Breakers, CallBreakers


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


TOOL = pb.ToolRoute(name="charge", url="http://tool")


def of(breakers: Breakers, agent: str, url: str = TOOL.url) -> CallBreakers:
    return breakers.of(pb.Permit(namespace="default", agent_id=agent), pb.ToolRoute(name=TOOL.name, url=url))


def test_what_an_agent_sent_opens_its_own_breaker_only() -> None:
    breakers = Breakers()
    for _ in range(20):
        of(breakers, "loud").failed(0, connecting=False)
    assert not of(breakers, "loud").allows(1)
    assert of(breakers, "loud").retry_after_s(1) == 4
    assert of(breakers, "quiet").allows(1)
    assert of(breakers, "loud", "http://elsewhere").allows(1)


def test_a_tool_that_cannot_be_reached_is_left_alone_by_all() -> None:
    breakers = Breakers()
    for number in range(5):
        of(breakers, f"agent-{number}").failed(0, connecting=True)
    assert not of(breakers, "another").allows(1)
    of(breakers, "agent-0").connected()
    assert of(breakers, "another").allows(1)


def test_agents_without_end_do_not_make_a_tool_that_cannot_be_reached_be_forgotten() -> None:
    breakers = Breakers()
    for _ in range(5):
        of(breakers, "first").failed(0, connecting=True)
    for number in range(5_000):
        of(breakers, f"agent-{number}")
    assert not of(breakers, "first").allows(1)
