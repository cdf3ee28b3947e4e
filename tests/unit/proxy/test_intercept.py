import math

import pytest

from interlock.governance.errors import InterlockError, InvalidRequestError, UnauthenticatedError
from interlock.proxy.call import Incoming
from interlock.proxy.stages.intercept import RequestFields, check_target, tool_name


def fields(*headers: tuple[str, str]) -> RequestFields:
    return RequestFields(Incoming(method="POST", target="/tools/charge", headers=headers, body=b""))


@pytest.mark.parametrize(
    "target",
    [
        "/tools/charge",
        "/tools/charge/a%20b/%C3%A9;v=1,2//c.d/...",
        '/tools/charge?q=%2F..%2e%00&x=<">|`{}^',
        "/tools/charge/a..b/.well-known/%2ehidden",
        "/v1/runs/run%20x%2Fy%5c%252F",
    ],
)
def test_a_plain_target_passes(target: str) -> None:
    check_target(target)


@pytest.mark.parametrize(
    "target",
    [
        "/tools/charge/../refund",
        "/tools/charge/..",
        "/tools/./charge",
        "/tools/charge/%2e%2E/refund",
        "/tools/charge/.%2e/refund",
        "/tools/charge/..;v=1/refund",
        "/v1/runs/%00",
        "/tools/charge%2Frefund",
        "/tools/charge%2frefund",
        "/tools/charge%5Crefund",
        "/tools/charge\\refund",
        "/tools/charge/%00",
        "/tools/charge/%0d%0aHost:x",
        "/tools/charge/%7F",
        "/tools/charge/\x00",
        "/tools/charge/a b",
        "/tools/charge/\u00e9",
        "/tools/charge#fragment",
        "http://localhost/tools/charge",
        "localhost:80",
        "*",
        "",
    ],
)
def test_a_target_that_two_parsers_could_read_differently_is_refused(target: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        check_target(target)
    assert refused.value.reason == "invalid_path"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a{b}", "a b", "\u00e9", "x" * 129, "charge\n"])
def test_what_is_no_name_of_a_tool_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError):
        tool_name(name)


@pytest.mark.parametrize(
    ("sent", "key"),
    [
        ("abc", "abc"),
        ('"abc"', "abc"),
        (r'"a\"b\\c"', 'a"b\\c'),
        ("k" * 256, "k" * 256),
        ('"' + "k" * 256 + '"', "k" * 256),
        ("\u00e9" * 128, "\u00e9" * 128),
        ("a b", "a b"),
    ],
)
def test_an_idempotency_key_is_quoted_or_bare(sent: str, key: str) -> None:
    assert fields(("Idempotency-Key", sent)).idempotency_key() == key


@pytest.mark.parametrize(
    "sent", ["", '""', '"abc', '"a"b"', r'"a\b"', '"\u00e9"', "k" * 257, "\u00e9" * 129, '"a"; p=1', "\udcff"]
)
def test_what_is_no_idempotency_key_is_refused(sent: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        fields(("Idempotency-Key", sent)).idempotency_key()
    assert refused.value.reason == "invalid_idempotency_key"


def test_two_idempotency_keys_are_refused() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        fields(("Idempotency-Key", "a"), ("idempotency-key", "a")).idempotency_key()
    assert refused.value.reason == "invalid_idempotency_key"


@pytest.mark.parametrize(
    ("sent", "micros"),
    [
        ("0", 0),
        ("0.05", 50_000),
        ("0.0000001", 1),
        ("1.0000001", 1_000_001),
        ("1e-7", 1),
        ("2.5E1", 25_000_000),
        ("1000000", 10**12),
        ("0.10000000000000000000000000000001", 100_001),
    ],
)
def test_declared_spend_is_rounded_up_to_a_millionth(sent: str, micros: int) -> None:
    assert fields(("Interlock-Spend-Usd", sent)).spend_micros() == micros


@pytest.mark.parametrize(
    "sent",
    ["-1", "-0", "NaN", "Infinity", "1000000.01", "1e7", "1e999", "0x10", "1_000", "1,5", "$1", "+1", "\u0663", ""],
)
def test_impossible_spend_is_refused(sent: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        fields(("Interlock-Spend-Usd", sent)).spend_micros()
    assert refused.value.reason == "invalid_spend"


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        ([], 0),
        (["wait=10"], 10),
        (["wait"], math.inf),
        (['respond-async, wait="7"; foo=bar'], 7),
        (["respond-async", "WAIT = 3"], 3),
        (["wait=soon"], 0),
        (["wait=-1"], 0),
        (["waiting=5"], 0),
    ],
)
def test_prefer_says_how_long_to_wait(sent: list[str], seconds: float) -> None:
    assert fields(*(("Prefer", value) for value in sent)).wait_s() == seconds


def test_a_bearer_key_is_read_whatever_the_case_of_its_scheme() -> None:
    assert fields(("authorization", "bEARER once_live_x")).credential("") == "once_live_x"


def test_only_a_call_without_any_key_is_made_with_the_sidecars_own() -> None:
    assert fields().credential("own") == "own"


def test_a_call_without_any_key_is_refused_if_the_sidecar_has_none() -> None:
    with pytest.raises(UnauthenticatedError) as refused:
        fields().credential("")
    assert refused.value.reason == "missing_key"


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ([""], "missing_key"),
        (["Basic dTpw"], "missing_key"),
        (["Bearer a b"], "invalid_key"),
        (["Bearer " + "a" * 513], "invalid_key"),
        (["Bearer a", "Bearer b"], "invalid_key"),
        (["Bearer a", "Bearer a"], "invalid_key"),
    ],
)
def test_a_bad_key_is_never_downgraded_to_the_sidecars_own(sent: list[str], reason: str) -> None:
    with pytest.raises(UnauthenticatedError) as refused:
        fields(*(("Authorization", value) for value in sent)).credential("own")
    assert refused.value.reason == reason


@pytest.mark.parametrize("agent_id", ["a}b", "a{b", "a b", "a/b", "x" * 129, "\u00e9"])
def test_an_agent_id_that_could_break_out_of_a_hash_tag_is_refused(agent_id: str) -> None:
    with pytest.raises(InterlockError) as refused:
        fields(("Interlock-Agent", agent_id)).agent_id()
    assert refused.value.reason == "invalid_header"
