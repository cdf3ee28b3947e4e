"""What an exported line is, by the public SDK of CloudEvents, by RFC 8785, and by hand."""

import hashlib
import json
import re

import pytest
import rfc8785
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st

from interlock.audit.chain import hash_of, is_canonical, seal
from interlock.audit.lines import _parsed, link_of
from interlock.policy.model import GENESIS
from tests.unit.audit.trails import event

FACTS = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**53) + 1, 2**53 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


def test_a_line_is_a_cloud_event_of_the_spec() -> None:
    line = seal("acme", event(7), GENESIS).line
    told = from_structured_event(HTTPMessage({"content-type": "application/cloudevents+json"}, line), JSONFormat())
    assert (told.get_id(), told.get_source(), told.get_subject()) == ("acme/bot-1/7", "/interlock/acme", "bot-1")
    assert (told.get_type(), told.get_specversion()) == ("dev.interlock.audit.decision", "1.0")
    assert told.get_time().isoformat(timespec="milliseconds") == "2026-01-01T00:00:00.130+00:00"
    assert told.get_datacontenttype() == "application/json"
    extensions = {name: told.get_extension(name) for name in ("sequence", "previoushash", "hash")}
    assert extensions["previoushash"] == GENESIS
    assert extensions["sequence"] == "0000000000000007"


def test_the_hash_is_what_the_page_says_it_is() -> None:
    line = seal("acme", event(7), GENESIS).line
    value = json.loads(line)
    assert line == rfc8785.dumps(value)
    by_hand = re.sub(rb'"hash":"[0-9a-f]{64}",', b"", line)
    assert hashlib.sha256(by_hand).hexdigest() == value["hash"]
    del value["hash"]
    assert rfc8785.dumps(value) == by_hand


def test_the_same_trail_makes_the_same_bytes_and_another_previous_hash_others() -> None:
    assert seal("acme", event(7), GENESIS) == seal("acme", event(7), GENESIS)
    assert seal("acme", event(7), GENESIS).point.hash != seal("acme", event(7), "1" * 64).point.hash


@given(facts=FACTS, agent=st.text(min_size=1), tool=st.text())
def test_whatever_an_event_holds_its_line_is_read_back_as_what_it_is(
    facts: dict[str, object], agent: str, tool: str
) -> None:
    sealed = seal("acme", event(7, agent, facts=facts, tool=tool), GENESIS)
    assert sealed.line == rfc8785.dumps(_parsed(sealed.line)[0])
    assert b"\n" not in sealed.line
    assert hash_of(sealed.line) == sealed.point.hash
    link = link_of(sealed.line)
    assert (link.agent.agent_id, link.seq, link.hash, link.previous) == (agent, 7, sealed.point.hash, GENESIS)


@given(FACTS)
def test_the_quick_look_at_a_line_and_the_library_agree(facts: dict[str, object]) -> None:
    line = rfc8785.dumps(facts)
    value, plain = _parsed(line)
    assert is_canonical(line, value, plain=plain)
    assert is_canonical(line, value, plain=False)
    spaced = line.replace(b"{", b"{ ", 1)
    assert not is_canonical(spaced, value, plain=plain)


@pytest.mark.parametrize("facts", [{"big": 2**60}, {"nan": float("nan")}, {"lone": "\ud800"}])
def test_what_json_cannot_say_is_told_as_text_and_holds_nothing_up(facts: dict[str, object]) -> None:
    sealed = seal("acme", event(7, facts=facts), GENESIS)
    assert json.loads(json.loads(sealed.line)["data"]["facts"]["as_text"]).keys() == facts.keys()
    assert link_of(sealed.line).hash == sealed.point.hash


def test_text_that_looks_like_the_end_of_a_line_is_not_taken_for_it() -> None:
    trap = '"datacontenttype":"application/json","hash":"' + "0" * 64 + '","id":"'
    nested = {"datacontenttype": "application/json", "hash": "0" * 64, "id": "x"}
    sealed = seal("acme", event(7, tool=trap, facts={"nested": nested, trap: trap}), GENESIS)
    assert hash_of(sealed.line) == sealed.point.hash == json.loads(sealed.line)["hash"]
