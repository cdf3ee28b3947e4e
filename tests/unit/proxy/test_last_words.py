"""What is remembered of the engine's word: only a yes, and no longer than that nothing speaks against it."""

from typing import Any

import pytest

from interlock.governance.errors import DeniedError, InterlockError, NotFoundError, UnauthenticatedError
from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy import last_words
from interlock.proxy.call import Ask
from interlock.proxy.last_words import LastWords

OPEN = pb.ToolRoute(name="weather", on_governance_failure=pb.ON_GOVERNANCE_FAILURE_OPEN)
CLOSED = pb.ToolRoute(name="weather", on_governance_failure=pb.ON_GOVERNANCE_FAILURE_CLOSED)


def ask(credential: str = "key-1", agent_id: str = "a1", tool: str = "weather") -> Ask:
    return Ask(tool=tool, credential=credential, agent_id=agent_id)


def verdict(kind: Any = pb.VERDICT_EXECUTE, reason: str = "ok", agent_id: str = "a1") -> pb.AuthorizeResponse:
    return pb.AuthorizeResponse(verdict=kind, reason=reason, namespace="acme", agent_id=agent_id)


def blocked(reason: str) -> pb.AuthorizeResponse:
    return verdict(pb.VERDICT_BLOCKED, reason)


def hear(words: LastWords, of: Ask, tool: pb.ToolRoute, said: pb.AuthorizeResponse) -> None:
    """It was asked just now."""
    words.judged(of, tool, said, last_words.time.monotonic())


def known(*asks: Ask) -> LastWords:
    """The engine has let these pass."""
    words = LastWords(3600)
    for of in asks:
        hear(words, of, pb.ToolRoute(name=of.tool, on_governance_failure=OPEN.on_governance_failure), verdict())
    return words


@pytest.mark.parametrize(
    "kind", [pb.VERDICT_EXECUTE, pb.VERDICT_REPLAY, pb.VERDICT_IN_FLIGHT, pb.VERDICT_MISMATCH, pb.VERDICT_UNKNOWN]
)
def test_what_has_passed_switches_and_lists_is_a_yes(kind: "pb.Verdict.ValueType") -> None:
    words = LastWords(3600)
    hear(words, ask(), OPEN, verdict(kind))
    found = words.of(ask())
    assert found is not None
    assert (found.namespace, found.agent_id, found.tool) == ("acme", "a1", OPEN)
    for other in (ask(credential="key-2"), ask(agent_id="a2"), ask(tool="charge")):
        assert words.of(other) is None


@pytest.mark.parametrize(
    "reason",
    ["tool_explicitly_blocked", "tool_not_in_allowed_list", "no_policy", "max_actions_per_hour_exceeded", "new_one"],
)
def test_a_refusal_of_any_kind_takes_the_yes_back(reason: str) -> None:
    words = known(ask(), ask(tool="charge"))
    hear(words, ask(), OPEN, blocked(reason))
    assert words.of(ask()) is None
    assert words.of(ask(tool="charge")) is not None


def test_a_tool_that_is_closed_is_not_remembered_and_one_that_was_open_is_forgotten() -> None:
    words = known(ask())
    hear(words, ask(), CLOSED, verdict())
    assert words.of(ask()) is None


@pytest.mark.parametrize(
    ("reason", "left"),
    [
        ("kill_switch", set()),
        ("agent_disabled", {"another agent"}),
        ("tool_disabled", {"another tool"}),
    ],
)
def test_a_switch_seen_pulled_holds_for_all_that_it_concerns(reason: str, left: set[str]) -> None:
    words = LastWords(3600)
    others = {"another agent": ask("key-2", "a2"), "another tool": ask(tool="charge")}
    hear(words, ask(), OPEN, verdict())
    hear(words, others["another agent"], OPEN, verdict(agent_id="a2"))
    hear(words, others["another tool"], pb.ToolRoute(name="charge", on_governance_failure=2), verdict())
    hear(words, ask("key-3"), OPEN, blocked(reason))
    assert {name for name, other in others.items() if words.of(other)} == left
    assert words.of(ask()) is None


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (UnauthenticatedError("invalid_key", "no"), {"another key"}),
        (DeniedError("permission_denied", "no"), {"another key", "another agent"}),
        (NotFoundError("tool_not_found", "no"), {"another key", "another agent", "another tool"}),
    ],
)
def test_a_key_that_is_not_good_is_so_for_all_its_calls(error: InterlockError, left: set[str]) -> None:
    others = {"another key": ask("key-2"), "another agent": ask(agent_id="a2"), "another tool": ask(tool="charge")}
    words = known(ask(), *others.values())
    words.refused(ask(), error)
    assert {name for name, other in others.items() if words.of(other)} == left
    assert words.of(ask()) is None


@pytest.mark.parametrize(
    "no",
    [
        *(blocked(reason) for reason in ("kill_switch", "agent_disabled", "tool_disabled", "tool_explicitly_blocked")),
        UnauthenticatedError("invalid_key", "no"),
        DeniedError("permission_denied", "no"),
        NotFoundError("tool_not_found", "no"),
    ],
    ids=lambda no: no.reason,
)
def test_a_yes_that_a_no_has_overtaken_on_its_way_is_none(no: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    words, asked_at = LastWords(3600), last_words.time.monotonic()
    if isinstance(no, InterlockError):
        words.refused(ask(), no)
    else:
        hear(words, ask(), OPEN, no)
    words.judged(ask(), OPEN, verdict(), asked_at)
    assert words.of(ask()) is None
    later = last_words.time.monotonic() + 1
    monkeypatch.setattr(last_words.time, "monotonic", lambda: later)
    hear(words, ask(), OPEN, verdict())
    assert words.of(ask()) is not None


def test_a_no_that_is_forgotten_is_taken_to_concern_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_words, "MAX_WORDS", 2)
    words, asked_at = LastWords(3600), last_words.time.monotonic()
    for credential in "123":
        hear(words, ask(credential), OPEN, blocked("no_policy"))
    words.judged(ask("1"), OPEN, verdict(), asked_at)
    assert words.of(ask("1")) is None


def test_a_word_grows_old(monkeypatch: pytest.MonkeyPatch) -> None:
    words = known(ask())
    now = last_words.time.monotonic()
    monkeypatch.setattr(last_words.time, "monotonic", lambda: now + 3599)
    assert words.of(ask()) is not None
    monkeypatch.setattr(last_words.time, "monotonic", lambda: now + 3601)
    assert words.of(ask()) is None


def test_of_too_many_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_words, "MAX_WORDS", 2)
    words = known(ask("1"), ask("2"), ask("1"), ask("3"))
    assert [bool(words.of(ask(credential))) for credential in "123"] == [True, False, True]
