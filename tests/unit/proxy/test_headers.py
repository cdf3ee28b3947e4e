import pytest

from interlock.governance.errors import InvalidRequestError
from interlock.proxy.headers import forwardable, returnable


def test_what_is_the_tools_business_is_forwarded_in_order_and_line_by_line() -> None:
    fields = [
        ("Accept", "text/event-stream"),
        ("X-Tag", "a"),
        ("Content-Type", "application/json"),
        ("X-Tag", "b"),
        ("traceparent", "00-ab-cd-01"),
        ("X-Api-Key", "the tool's"),
        ("X-Note", "tab\tand \u00fc"),
    ]
    assert forwardable(fields) == fields


@pytest.mark.parametrize(
    "name",
    [
        *("Connection", "Keep-Alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Proxy-Connection"),
        *("Host", "Content-Length", "Expect", "Authorization", "Proxy-Authorization", "Cookie"),
        *("Interlock-Agent", "INTERLOCK-FENCE", "Interlock-Spend-Usd", "X-OnceOnly-Signature", "x-onceonly-timestamp"),
        *("Webhook-Id", "webhook-signature", "Signature", "Signature-Input", "Content-Digest", "Idempotency-Key"),
        *("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP"),
        *("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X_HTTP_Method_Override"),
        *("X-Original-URL", "X-Rewrite-URL"),
    ],
)
def test_what_is_ours_or_the_agents_own_is_not_forwarded(name: str) -> None:
    assert forwardable([(name, "x"), ("Accept", "*/*")]) == [("Accept", "*/*")]


@pytest.mark.parametrize("name", ["Interlock_Agent", "X_OnceOnly-Signature", "webhook_id", "Idempotency_Key"])
def test_an_underscore_does_not_smuggle_a_field_past_us(name: str) -> None:
    assert forwardable([(name, "x")]) == []
    assert returnable([("Idempotent_Replayed", "true")]) == []


def test_fields_named_by_connection_go_with_it() -> None:
    fields = [
        ("Connection", "close, X-Hop"),
        ("X-Hop", "1"),
        ("connection", "x_other"),
        ("X-Other", "2"),
        ("X-End", "3"),
    ]
    assert forwardable(fields) == [("X-End", "3")]
    assert returnable(fields) == [("X-End", "3")]


def test_prefer_is_forwarded_without_the_wait_that_is_meant_for_us() -> None:
    assert forwardable([("Prefer", "wait=30")]) == []
    assert forwardable([("prefer", "return=representation, Wait = 5, waiting=no")]) == [
        ("prefer", "return=representation, waiting=no")
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A", "1\r\nInterlock-Agent: root"),
        ("X-A", "1\nX: 2"),
        ("X-A", "1\r"),
        ("X-A", "\x00"),
        ("X-A", "\x7f"),
        ("X-A", "\udcff"),
        ("X-A\r\nB", "1"),
        ("X A", "1"),
        ("X:A", "1"),
        ("", "1"),
    ],
)
def test_a_field_that_breaks_out_of_its_line_is_refused_from_agents_and_left_out_from_tools(
    name: str, value: str
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        forwardable([(name, value)])
    assert refused.value.reason == "invalid_header"
    assert returnable([(name, value), ("X-B", "2")]) == [("X-B", "2")]


def test_an_answers_own_fields_return_in_order_and_line_by_line() -> None:
    fields = [
        ("Content-Type", "application/json"),
        ("Set-Cookie", "a=1"),
        ("Content-Encoding", "gzip"),
        ("Set-Cookie", "b=2"),
        ("Content-Length", "12"),
        ("Location", "/elsewhere"),
        ("Retry-After", "3"),
        ("X-RateLimit-Limit", "5"),
        ("ETag", '"x"'),
    ]
    assert returnable(fields) == fields


@pytest.mark.parametrize(
    "name",
    [
        *("Connection", "Keep-Alive", "Transfer-Encoding", "Trailer", "Upgrade", "Proxy-Authenticate", "Alt-Svc"),
        *("Interlock-Decision", "interlock-settled", "X-OnceOnly-Status", "webhook-id", "Signature", "Signature-Input"),
        *("Idempotent-Replayed", "RateLimit", "RateLimit-Policy", "RateLimit-Remaining"),
    ],
)
def test_a_tool_cannot_speak_in_our_name(name: str) -> None:
    assert returnable([(name, "x"), ("Date", "now")]) == [("Date", "now")]
