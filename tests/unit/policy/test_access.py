"""Who may do what."""

import pytest

from interlock.governance.errors import DeniedError, InvalidRequestError
from interlock.policy import access, credentials
from interlock.policy.model import Identity, Role, Scope

AGENT = Identity("key_a", "acme", Role.AGENT, "bot-1")
VIEWER, OPERATOR, ADMIN = (Identity("key", "acme", role) for role in (Role.VIEWER, Role.OPERATOR, Role.ADMIN))


def test_an_agent_key_acts_as_its_own_agent_named_or_not() -> None:
    assert access.acting_agent(AGENT, "") == access.acting_agent(AGENT, "bot-1") == Scope("acme", "bot-1")


def test_an_agent_key_reaches_no_other_agent() -> None:
    for reach in (access.acting_agent, access.readable_agent, access.managed_agent):
        with pytest.raises(DeniedError):
            reach(AGENT, "bot-2")


def test_an_agent_key_changes_nothing_even_of_its_own() -> None:
    with pytest.raises(DeniedError):
        access.managed_agent(AGENT, "bot-1")


def test_a_viewer_reads_and_does_not_act() -> None:
    assert access.readable_agent(VIEWER, "bot-2") == Scope("acme", "bot-2")
    for reach in (access.acting_agent, access.managed_agent):
        with pytest.raises(DeniedError):
            reach(VIEWER, "bot-2")


@pytest.mark.parametrize("identity", [OPERATOR, ADMIN])
def test_an_operator_acts_for_any_agent_but_must_name_one(identity: Identity) -> None:
    assert access.acting_agent(identity, "bot-2") == Scope("acme", "bot-2")
    with pytest.raises(InvalidRequestError):
        access.acting_agent(identity, "")


@pytest.mark.parametrize("name", ["a}b", "a b", "a/b", "a\n", "é", "x" * 129])
def test_a_name_that_could_break_out_of_a_key_is_refused(name: str) -> None:
    for reach in (access.acting_agent, access.readable_agent, access.managed_agent):
        with pytest.raises(InvalidRequestError):
            reach(OPERATOR, name)


def test_a_key_looks_like_one_and_no_two_are_alike() -> None:
    made = {credentials.new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(credentials.looks_like_key(key) for key in made)
    assert not any(credentials.looks_like_key(wrong) for wrong in ("", "once_live_", "once_live_" + "é" * 43))
