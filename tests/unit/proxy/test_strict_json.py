import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.governance.errors import InvalidRequestError
from interlock.proxy import strict_json

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(json_values)
def test_what_json_can_say_is_read_as_it_was_meant(value: strict_json.JsonValue) -> None:
    assert strict_json.parse(json.dumps(value).encode()) == value
    assert strict_json.parse(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.binary(max_size=64) | st.text(alphabet='{}[]",:\\u0189dDeE.+-NaInfity \ufeff\ud800', max_size=64))
def test_whatever_comes_is_read_or_refused_but_never_crashes(junk: bytes | str) -> None:
    raw = junk if isinstance(junk, bytes) else junk.encode("utf-8", "surrogatepass")
    try:
        strict_json.parse(raw)
    except InvalidRequestError as error:
        assert error.reason == "invalid_json"


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "Expecting value"),
        (b"{'a': 1}", "Expecting property name"),
        (b'{"a": 1} x', "Extra data"),
        (b'{"a": 1,}', "double quotes"),
        (b'["a\nb"]', "control character"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b"[1e400]", "a number is too large"),
        (b"[-1e400]", "a number is too large"),
        (b"9" * 5000, "too many digits"),
        (b'{"a": 1, "a": 1}', "a key stands twice"),
        (b'{"x": [{"a": 1, "\\u0061": 2}]}', "a key stands twice"),
        (b'{"a": "\xff"}', "the byte at 7 is not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b"\xef\xbb\xbf{}", "Expecting value"),
        (b'{"a": "\\ud800"}', "half a surrogate pair"),
        (b'{"\\uDFFF": 1}', "half a surrogate pair"),
        (b'["\\ude00\\ud83d"]', "half a surrogate pair"),
        (b"[" * 200 + b"]" * 200, "more than 100 levels"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "more than 100 levels"),
        (b"[" * 100_000 + b"]" * 100_000, "more than 100 levels"),
        (b'{"a":' * 100_000, "more than 100 levels"),
    ],
)
def test_what_is_not_plain_json_is_refused_with_the_problem_named(raw: bytes, problem: str) -> None:
    with pytest.raises(InvalidRequestError, match=problem) as refused:
        strict_json.parse(raw)
    assert refused.value.reason == "invalid_json"


def test_the_deepest_nesting_allowed_is_read_and_one_level_more_is_not() -> None:
    assert strict_json.parse(b"[" * 100 + b"]" * 100)
    assert strict_json.parse(b'{"a":' * 100 + b"1" + b"}" * 100)
    with pytest.raises(InvalidRequestError):
        strict_json.parse(b"[" * 101 + b"]" * 101)
    assert strict_json.parse(b"[[1]]", max_depth=2) == [[1]]
    with pytest.raises(InvalidRequestError):
        strict_json.parse(b"[[{}]]", max_depth=2)


def test_many_brackets_side_by_side_are_not_deep() -> None:
    assert strict_json.parse(b"[" + b"[]," * 500 + b"{}]") == [*[[]] * 500, {}]


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert strict_json.parse(b'"\\ud83d\\ude00"') == "\U0001f600"


def test_a_message_never_repeats_what_was_sent() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        strict_json.parse(b'{"s3cret": 1, "s3cret": 2}')
    assert "s3cret" not in refused.value.message
