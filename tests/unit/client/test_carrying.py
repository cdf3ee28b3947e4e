"""Both clients at a server that answers as it is told: tries, errors, and failing open."""

import json
import time
from typing import Any

import pytest

from interlock.client import (
    ApiError,
    ConfigurationError,
    ConflictError,
    FeatureNotAvailableError,
    Interlock,
    InvalidAnswerError,
    InvalidKeyError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitedError,
    RetryPolicy,
    UnavailableError,
    UnreachableError,
)
from tests.interlock_dev import free_port
from tests.tool import Script, Tool, answers, never_answers, resets
from tests.unit.client.answering import AT_ONCE, BOTH, KEY, ask, sent

LOCKED = answers(body=b'{"success":true,"status":"locked","key":"k","ttl":60,"first_seen_at":null}')
pytestmark = pytest.mark.parametrize("flavour", BOTH)


def refuses(status: int, detail: object, **headers: str) -> Script:
    return answers(status, json.dumps({"detail": detail}).encode(), headers)


def lock(client: Any) -> Any:
    return client.check_lock("k")


async def test_a_request_says_who_asks_and_names_its_attempt(flavour: str, tool: Tool) -> None:
    tool.does(LOCKED)
    found = await ask(flavour, tool, lambda client: client.check_lock("k", 60, metadata={"a": 1}, request_id="r1"))
    assert found.locked
    assert found
    assert not found.duplicate
    (request,) = tool.received
    assert (request.method, request.target) == ("POST", "/v1/check-lock")
    assert request.header("Authorization") == f"Bearer {KEY}"
    assert request.header("X-Request-Id") == "r1"
    body = json.loads(request.body)
    assert len(body.pop("attempt_id")) == 32
    assert body == {"key": "k", "ttl": 60, "metadata": {"a": 1}}


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_what_passes_is_tried_again_as_the_same_attempt(flavour: str, tool: Tool, status: int) -> None:
    tool.does(refuses(status, "later"), refuses(status, "later"), LOCKED)
    assert (await ask(flavour, tool, lock)).locked
    bodies = sent(tool)
    assert len(bodies) == 3
    assert bodies[0] == bodies[1] == bodies[2]


async def test_a_broken_connection_is_tried_again_as_the_same_attempt(flavour: str, tool: Tool) -> None:
    tool.does(resets(), LOCKED)
    assert (await ask(flavour, tool, lock)).locked
    first, second = sent(tool)
    assert first == second


async def test_two_questions_are_two_attempts(flavour: str, tool: Tool) -> None:
    tool.does(LOCKED)
    await ask(flavour, tool, lock)
    await ask(flavour, tool, lock)
    assert len({body["attempt_id"] for body in sent(tool)}) == 2


async def test_retry_after_is_kept_to(flavour: str, tool: Tool) -> None:
    tool.does(refuses(429, "later", **{"Retry-After": "1"}), LOCKED)
    began = time.monotonic()
    await ask(flavour, tool, lock)
    assert time.monotonic() - began >= 1


async def test_nobody_waits_longer_than_told_to(flavour: str, tool: Tool) -> None:
    tool.does(refuses(429, "tomorrow", **{"Retry-After": "86400"}))
    with pytest.raises(RateLimitedError) as raised:
        await ask(flavour, tool, lock)
    assert raised.value.retry_after_s == 86400
    assert len(tool.received) == 1


@pytest.mark.parametrize(
    ("status", "detail", "kind", "reason"),
    [
        (401, "Missing Authorization Bearer token", InvalidKeyError, "missing_key"),
        (403, "Invalid API key", InvalidKeyError, "invalid_key"),
        (403, {"error": "permission_denied", "message": "m"}, PermissionDeniedError, "permission_denied"),
        (403, {"error": "kill_switch", "message": "m"}, PermissionDeniedError, "kill_switch"),
        (403, {"error": "feature_not_available", "plan": "free"}, FeatureNotAvailableError, "feature_not_available"),
        (402, {"error": "payment_required", "plan": "free"}, QuotaExceededError, "payment_required"),
        (404, {"error": "not_found"}, NotFoundError, "not_found"),
        (409, {"error": "lease_not_held"}, ConflictError, "lease_not_held"),
        (422, [{"type": "t", "loc": ["body", "key"], "msg": "too long"}], InvalidRequestError, "invalid_request"),
        (418, None, ApiError, "http_418"),
        (302, None, ApiError, "http_302"),
    ],
)
@pytest.mark.parametrize("fail_open", [False, True])
async def test_a_refusal_is_raised_at_once_and_never_failed_open(
    flavour: str, tool: Tool, status: int, detail: Any, kind: type[ApiError], reason: str, *, fail_open: bool
) -> None:
    tool.does(refuses(status, detail, **{"X-Request-Id": "r7"}))
    with pytest.raises(kind) as raised:
        await ask(flavour, tool, lock, fail_open=fail_open)
    assert type(raised.value) is kind
    assert raised.value.reason == reason
    assert raised.value.status == status
    assert raised.value.detail == detail
    assert raised.value.request_id == "r7"
    assert KEY not in str(raised.value)
    assert len(tool.received) == 1


async def test_a_quota_tells_its_numbers(flavour: str, tool: Tool) -> None:
    tool.does(refuses(402, {"error": "payment_required", "plan": "free", "limit": 1000, "usage": 1000}))
    with pytest.raises(QuotaExceededError) as raised:
        await ask(flavour, tool, lock)
    assert (raised.value.plan, raised.value.limit, raised.value.usage) == ("free", 1000, 1000)


async def test_invalid_values_are_named_in_the_message(flavour: str, tool: Tool) -> None:
    tool.does(refuses(422, [{"type": "t", "loc": ["body", "key"], "msg": "too long"}]))
    with pytest.raises(InvalidRequestError, match=r"body\.key: too long \(HTTP 422\)") as raised:
        await ask(flavour, tool, lock)
    assert len(raised.value.fields) == 1


@pytest.mark.parametrize("script", [answers(503, b"<html>"), answers(500, b'{"detail":"x"}'), resets()])
async def test_an_outage_is_raised_after_all_tries(flavour: str, tool: Tool, script: Script) -> None:
    tool.does(script)
    with pytest.raises((UnavailableError, UnreachableError)):
        await ask(flavour, tool, lock)
    assert len(tool.received) == AT_ONCE.tries


@pytest.mark.parametrize("script", [answers(503, b"<html>"), answers(500, b'{"detail":"x"}'), resets()])
async def test_an_outage_fails_open_if_it_shall(flavour: str, tool: Tool, script: Script) -> None:
    tool.does(script)
    found = await ask(flavour, tool, lock, fail_open=True)
    assert found.locked
    assert found.failed_open


async def test_a_limit_is_no_outage(flavour: str, tool: Tool) -> None:
    tool.does(refuses(429, "slow down"))
    with pytest.raises(RateLimitedError):
        await ask(flavour, tool, lock, fail_open=True)


async def test_a_time_out_is_told_with_its_doubt(flavour: str, tool: Tool) -> None:
    tool.does(never_answers())
    with pytest.raises(UnreachableError) as raised:
        await ask(flavour, tool, lock, timeout_s=0.05, retries=RetryPolicy(tries=2, base_s=0))
    assert raised.value.reason == "timeout"
    assert raised.value.in_doubt


async def test_a_refused_connection_leaves_no_doubt(flavour: str, tool: Tool) -> None:
    await tool.stop()
    with pytest.raises(UnreachableError) as raised:
        await ask(flavour, tool, lock)
    assert not raised.value.in_doubt
    assert raised.value.__cause__ is not None


@pytest.mark.parametrize("script", [answers(503), resets()])
async def test_only_check_lock_and_run_fn_fail_open(flavour: str, tool: Tool, script: Script) -> None:
    tool.does(script)
    for question in (
        lambda client: client.run_tool("a", "t"),
        lambda client: client.leases.acquire("k"),
        lambda client: client.account.me(),
    ):
        with pytest.raises((UnavailableError, UnreachableError)):
            await ask(flavour, tool, question, fail_open=True)


@pytest.mark.parametrize("script", [answers(500), answers(504), resets()])
async def test_a_call_that_may_have_happened_is_repeated_only_under_a_key(
    flavour: str, tool: Tool, script: Script
) -> None:
    tool.does(script)
    with pytest.raises((UnavailableError, UnreachableError)):
        await ask(flavour, tool, lambda client: client.run_tool("a", "t"))
    assert len(tool.received) == 1
    with pytest.raises((UnavailableError, UnreachableError)):
        await ask(flavour, tool, lambda client: client.run_tool("a", "t", idempotency_key='k"1'))
    assert len(tool.received) == 1 + AT_ONCE.tries
    assert {request.header("Idempotency-Key") for request in tool.received[1:]} == {'"k\\"1"'}


async def test_a_call_that_certainly_did_not_happen_is_repeated(flavour: str, tool: Tool) -> None:
    tool.does(
        refuses(503, {"error": "governance_unavailable"}),
        answers(body=b'{"ok":true,"allowed":true,"decision":"executed","result":{"n":1}}'),
    )
    found = await ask(flavour, tool, lambda client: client.run_tool("a", "t", {"x": 1}, run_id="r"))
    assert found.executed
    assert found.result == {"n": 1}
    assert sent(tool)[1] == {"agent_id": "a", "tool": "t", "args": {"x": 1}}
    assert tool.received[1].header("Interlock-Run-Id") == "r"


async def test_an_event_is_not_told_twice(flavour: str, tool: Tool) -> None:
    tool.does(answers(503))
    with pytest.raises(UnavailableError):
        await ask(flavour, tool, lambda client: client.timelines.post_event("r", "note"))
    assert len(tool.received) == 1


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"ok"', b'{"status":"locked"}', b'{"status":1,"key":"k"}'])
async def test_what_is_no_answer_of_interlocks_never_locks(flavour: str, tool: Tool, body: bytes) -> None:
    tool.does(answers(body=body))
    with pytest.raises(InvalidAnswerError):
        await ask(flavour, tool, lock, fail_open=True)


async def test_an_answer_that_cannot_be_unpacked_never_locks(flavour: str, tool: Tool) -> None:
    tool.does(answers(body=b"no gzip", headers={"Content-Encoding": "gzip"}))
    with pytest.raises(InvalidAnswerError):
        await ask(flavour, tool, lock, fail_open=True)


async def test_a_status_nobody_knows_is_no_lock(flavour: str, tool: Tool) -> None:
    tool.does(answers(body=b'{"success":true,"status":"perhaps","key":"k","ttl":60}'))
    assert (await ask(flavour, tool, lock)).duplicate


async def test_a_duplicate_may_be_told_as_a_conflict(flavour: str, tool: Tool) -> None:
    tool.does(refuses(409, {"error": "duplicate", "first_seen_at": "2026-01-01T00:00:00Z"}))
    found = await ask(flavour, tool, lock)
    assert found.duplicate
    assert found.first_seen_at == "2026-01-01T00:00:00Z"


async def test_no_name_climbs_out_of_its_place_in_the_path(flavour: str, tool: Tool) -> None:
    tool.does(answers(404))
    for name in ("..", ".", "a/b", "../../x", "a?b=c", "a%2fb", "é"):
        with pytest.raises(NotFoundError):
            await ask(flavour, tool, lambda client, name=name: client.governance.policy(name))
    targets = [request.target for request in tool.received]
    assert targets[:5] == [f"/v1/policies/{n}" for n in ("%2E%2E", "%2E", "a%2Fb", "%2E%2E%2F%2E%2E%2Fx", "a%3Fb%3Dc")]


async def test_an_admin_may_act_in_another_namespace(flavour: str, tool: Tool) -> None:
    tool.does(answers(body=b'{"plan":"free","more":1}'))
    found = await ask(flavour, tool, lambda client: client.account.me(), namespace="team-a")
    assert found.raw == {"plan": "free", "more": 1}
    assert tool.received[0].header("Interlock-Namespace") == "team-a"


def test_where_and_who_come_from_the_environment(flavour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="INTERLOCK_API_KEY"):
        Interlock()
    monkeypatch.setenv("INTERLOCK_API_KEY", f" {KEY}\n")
    with Interlock() as client:
        assert str(client._http.base_url) == "http://localhost:8400/v1/"
    monkeypatch.setenv("INTERLOCK_BASE_URL", f"http://127.0.0.1:{free_port()}")
    with Interlock() as client:
        assert client._http.base_url.path == "/v1/"
        assert client._http.headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("url", ["localhost:8400", "ftp://x", "http://", "http://x:0", "http://x:y", "http://x/?a=b"])
def test_an_address_that_is_none_is_refused(flavour: str, url: str) -> None:
    with pytest.raises(ConfigurationError):
        Interlock(KEY, url)


@pytest.mark.parametrize("key", ["", " ", "a b", "a\nb", "ä"])
def test_a_key_that_is_none_is_refused_and_not_repeated(flavour: str, key: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Interlock(key, "http://localhost")
    assert not key.strip() or key not in str(raised.value)
