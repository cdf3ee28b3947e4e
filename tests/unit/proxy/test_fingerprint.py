import json
from hashlib import sha256
from typing import Any

import pytest
import rfc8785
from hypothesis import assume, given
from hypothesis import strategies as st

from interlock.governance.errors import InvalidRequestError
from interlock.proxy.fingerprint import Fingerprint, fingerprint

CALL: dict[str, Any] = {
    "tool": "charge",
    "method": "POST",
    "path": "/tools/charge",
    "query": "",
    "content_type": "application/json",
    "body": b'{"amount": 12.5, "to": "ann"}',
}

scalars = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**53) + 1, max_value=2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
json_values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)
objects = st.dictionaries(st.text(), scalars)


def call_of(**changes: Any) -> Fingerprint:
    return fingerprint(**CALL | changes)


def of_body(body: Any, **changes: Any) -> Fingerprint:
    return call_of(body=body if isinstance(body, bytes) else json.dumps(body).encode(), **changes)


def backwards(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: backwards(value[name]) for name in reversed(value)}
    return [backwards(child) for child in value] if isinstance(value, list) else value


def shape(value: Any) -> Any:
    """A value that equals another's only if their JSON means the same: to Python, True is 1."""
    if isinstance(value, dict):
        return {name: shape(child) for name, child in value.items()}
    if isinstance(value, list):
        return [shape(child) for child in value]
    return (isinstance(value, bool), value)


@given(json_values)
def test_white_space_escapes_and_the_order_of_keys_make_no_difference(value: Any) -> None:
    loose = json.dumps(backwards(value), indent=3, ensure_ascii=False).encode()
    assert of_body(loose) == of_body(value)


@given(json_values, json_values)
def test_any_other_difference_in_the_arguments_is_another_call(one: Any, other: Any) -> None:
    assume(shape(one) != shape(other))
    assert of_body(one).call != of_body(other).call
    assert of_body(one).arguments != of_body(other).arguments


fields = st.fixed_dictionaries(
    {name: st.text(max_size=8) for name in ("tool", "method", "path", "query", "content_type")}
    | {"body": st.binary(max_size=8)}
)


@given(fields, fields)
def test_two_calls_that_differ_anywhere_never_collide(one: Any, other: Any) -> None:
    assume(one != other)
    assert fingerprint(**one).call != fingerprint(**other).call


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"tool": "ab", "method": "c"}, {"tool": "a", "method": "bc"}),
        ({"path": "/a", "query": "b"}, {"path": "/ab", "query": ""}),
        ({"content_type": "text/plain"}, {"content_type": "text/Plain"}),
        ({"content_type": "application/json"}, {"content_type": "application/json; charset=utf-8"}),
        ({"tool": "caf\u00e9"}, {"tool": "cafe\u0301"}),
        ({"path": "/\udcff"}, {"path": "/\udcfe"}),
        ({"body": b'{"a": "\xc3\xa9"}'}, {"body": b'{"a": "e\xcc\x81"}'}),
        ({"body": b'{"a": "X"}'}, {"body": b'{"a": "x"}'}),
    ],
)
def test_nothing_is_run_together_or_folded(one: Any, other: Any) -> None:
    assert call_of(**one).call != call_of(**other).call


@given(objects, json_values)
def test_an_ignored_field_makes_no_difference(arguments: dict[str, Any], value: Any) -> None:
    arguments.pop("at", None)
    assert of_body(arguments | {"at": value}, ignore=["at"]) == of_body(arguments, ignore=["at"]) == of_body(arguments)
    assert of_body(arguments | {"at": value}) != of_body(arguments)


def test_ignoring_reaches_the_top_level_only() -> None:
    assert of_body({"a": {"at": 1}}, ignore=["at"]) != of_body({"a": {"at": 2}}, ignore=["at"])
    assert of_body(["at"], ignore=["at"]) != of_body([], ignore=["at"])


def test_a_run_id_is_tracing_unless_it_is_an_argument() -> None:
    one, other = {"a": 1, "run_id": "r1"}, {"a": 1, "run_id": "r2"}
    assert of_body(one, run_id_is_argument=False) == of_body(other, run_id_is_argument=False)
    assert of_body(one) != of_body(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a": 9007199254740993}', b'{"a": 9007199254740992}'),
        (b'{"a": 9007199254740993.0}', b'{"a": 9007199254740992.0}'),
        (b'{"a": 0.1000000000000000055}', b'{"a": 0.1}'),
        (b'{"a": 1e-400}', b'{"a": 0.0}'),
        (b'{"a": 1e-99999999999999999999}', b'{"a": 0.0}'),
        (b'{"a": ' + b"7" * 4000 + b"}", b'{"a": ' + b"7" * 3999 + b"8}"),
    ],
)
def test_numbers_that_a_double_would_confuse_stay_apart(one: Any, other: Any) -> None:
    assert of_body(one).call != of_body(other).call


def test_a_body_with_such_a_number_counts_byte_for_byte() -> None:
    precise = b'{"a": 9007199254740993, "at": 1}'
    assert of_body(precise) == of_body(precise)
    assert of_body(precise) != of_body(precise.replace(b" ", b""))
    assert of_body(precise, ignore=["at"]) != of_body(precise.replace(b"1}", b"2}"), ignore=["at"])
    assert of_body(precise).arguments == sha256(precise).digest()


def test_such_a_number_in_an_ignored_field_is_ignored() -> None:
    assert of_body(b'{"b":1,"at":1.00000000000000000001}', ignore=["at"]) == of_body({"at": 2, "b": 1}, ignore=["at"])


@pytest.mark.parametrize(
    ("one", "other"), [("1", "1.0"), ("1e2", "100"), ("0.50", "0.5"), ("1E+2", "1e2"), ("0", "-0")]
)
def test_spellings_of_one_number_are_one_call(one: Any, other: Any) -> None:
    assert of_body(one.encode()) == of_body(other.encode())


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON ; charset=utf-8", "application/a+json"])
def test_json_is_known_by_its_media_type_and_must_then_be_json(content_type: str) -> None:
    assert of_body(b"{ }", content_type=content_type) == of_body(b"{}", content_type=content_type)
    with pytest.raises(InvalidRequestError, match="JSON"):
        of_body(b"{", content_type=content_type)


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/octet-stream", "application/jsonx"])
def test_any_other_body_counts_byte_for_byte(content_type: str) -> None:
    assert of_body(b"{ }", content_type=content_type) != of_body(b"{}", content_type=content_type)


def test_no_body_is_no_arguments_whatever_its_content_type_says() -> None:
    assert of_body(b"").arguments == sha256(b"").digest()


def test_the_arguments_digest_is_plain_sha256_of_the_canonical_json() -> None:
    assert of_body(b'{"b": 1.0, "a": "\\u00e9"}').arguments == sha256('{"a":"\u00e9","b":1}'.encode()).digest()


plain_text = st.text(st.characters(max_codepoint=0x7F))
plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.decimals(min_value=-(10**9), max_value=10**9, places=3).map(float)
    | plain_text,
    lambda inner: st.lists(inner) | st.dictionaries(plain_text, inner),
    max_leaves=10,
)


@given(plain_values | json_values, st.booleans())
def test_the_quick_way_to_the_canonical_form_leads_to_the_same(value: Any, escaped: bool) -> None:
    try:
        canonical = rfc8785.dumps(value)
    except rfc8785.CanonicalizationError:
        canonical = None
    body = json.dumps(value, ensure_ascii=escaped).encode()
    assert of_body(body).arguments == sha256(body if canonical is None else canonical).digest()


@pytest.mark.parametrize(
    ("number", "written"),
    [
        ("0.0", "0"),
        ("-0.0", "0"),
        ("5e-324", "5e-324"),
        ("-1.7976931348623157e308", "-1.7976931348623157e+308"),
        ("295147905179352830000.0", "295147905179352830000"),
        ("1e21", "1e+21"),
        ("1e23", "1e+23"),
        ("999999999999999700000.0", "999999999999999700000"),
        ("0.000001", "0.000001"),
        ("0.00001", "0.00001"),
        ("9.999999999999997e-7", "9.999999999999997e-7"),
        ("333333333.3333332", "333333333.3333332"),
        ("-0.0000033333333333333333", "-0.0000033333333333333333"),
        ("12.5", "12.5"),
        ("12.0", "12"),
        ("1424953923781206.2", "1424953923781206.2"),
        ("9007199254740991", "9007199254740991"),
        ("-9007199254740991", "-9007199254740991"),
    ],
)
def test_numbers_are_written_as_rfc_8785_appendix_b_has_them(number: str, written: str) -> None:
    assert of_body(f'{{"b": {number}, "a": "\x7f\\n"}}'.encode()).arguments == (
        sha256(f'{{"a":"\x7f\\n","b":{written}}}'.encode()).digest()
    )


def test_the_fingerprint_of_a_call_is_the_same_in_every_release() -> None:
    """Records outlive releases: another digest here would run the calls of a deployed version a second time."""
    assert call_of().call.hex() == "003e0df2fbc07d96d5ceb9757447f003d145d8c92934e4a51d23dc65a547db13"
