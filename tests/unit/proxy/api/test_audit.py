from interlock.governance.v1 import admin_pb2 as pb
from interlock.proxy.api.audit import Event


def test_an_event_is_shown_as_it_was_recorded() -> None:
    event = pb.Event(seq=7, at_ms=1_767_225_600_123, type="settlement", agent_id="billing", charged_micros=-70_000)
    event.facts.update({"status": 200, "key_id": "key_1"})
    assert Event.of(event).model_dump(exclude_unset=True) == {
        "seq": 7,
        "at": "2026-01-01T00:00:00.123Z",
        "type": "settlement",
        "agent_id": "billing",
        "tool": None,
        "call_id": None,
        "verdict": None,
        "reason": None,
        "charged_usd": -0.07,
        "facts": {"status": 200, "key_id": "key_1"},
    }


def test_whole_numbers_among_the_facts_are_integers_and_others_stay() -> None:
    event = pb.Event()
    event.facts.update({"cost_micros": 70_000, "share": 0.5})
    facts = Event.of(event).facts
    assert repr(facts) in {"{'cost_micros': 70000, 'share': 0.5}", "{'share': 0.5, 'cost_micros': 70000}"}
