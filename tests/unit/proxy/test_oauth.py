"""Tokens, from a real endpoint over HTTP; only the clock is a fake."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

import pytest
from aiohttp import web

from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.destinations import Destinations
from interlock.proxy.metrics import Metrics
from interlock.proxy.oauth import MAX_ANSWER_BYTES, PROBATION_S, NoTokenError, Token, Tokens
from interlock.proxy.upstream import Upstream
from tests.tool import Script, Tool, answers, never_answers, resets, waits_for


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def gives(**answer: Any) -> Script:
    """Answers like a token endpoint, with another token each time."""
    given = 0

    async def script(_: web.Request) -> web.Response:
        nonlocal given
        given += 1
        return web.json_response({"access_token": f"token-{given}", "token_type": "Bearer", **answer})

    return script


@pytest.fixture
async def endpoint() -> AsyncIterator[Tool]:
    endpoint = Tool().does(gives(expires_in=100))
    await endpoint.start()
    yield endpoint
    await endpoint.stop()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def tokens(clock: Clock, metrics: Metrics) -> AsyncIterator[Tokens]:
    upstream = Upstream(Destinations(allow_loopback=True))
    await upstream.start()
    tokens = Tokens(upstream, metrics, timeout_s=0.3, clock=clock)
    yield tokens
    await tokens.close()
    await upstream.close()


def wanted(endpoint: Tool, **fields: Any) -> pb.OAuth2ClientCredentials:
    told = {"token_url": endpoint.url, "client_id": "client 1", "client_secret": "s/cret"} | fields
    return pb.OAuth2ClientCredentials(**told)


async def value(tokens: Tokens, client: pb.OAuth2ClientCredentials) -> str:
    return (await tokens.token(client, "charge")).value


async def no_token(tokens: Tokens, client: pb.OAuth2ClientCredentials) -> NoTokenError:
    with pytest.raises(NoTokenError) as missing:
        await tokens.token(client, "charge")
    return missing.value


async def settled() -> None:
    """Lets a fetch that nobody waits for come to its end."""
    fetching = [task for task in asyncio.all_tasks() if task.get_name() == "token-fetch"]
    if fetching:
        await asyncio.wait(fetching)


async def test_a_token_is_asked_for_as_the_grant_has_it(tokens: Tokens, endpoint: Tool) -> None:
    client = wanted(endpoint, scope="read write", audience="https://api.example", params={"resource": "r"})
    assert await value(tokens, client) == "token-1"
    (asked,) = endpoint.received
    assert parse_qs(asked.body.decode()) == {
        "grant_type": ["client_credentials"],
        "scope": ["read write"],
        "audience": ["https://api.example"],
        "resource": ["r"],
    }
    assert asked.header("Content-Type") == "application/x-www-form-urlencoded"
    authorization = asked.header("Authorization") or ""
    assert base64.b64decode(authorization.removeprefix("Basic ")) == b"client+1:s%2Fcret"


async def test_a_client_may_show_its_secret_in_the_body(tokens: Tokens, endpoint: Tool) -> None:
    await value(tokens, wanted(endpoint, client_auth=pb.CLIENT_AUTH_POST))
    (asked,) = endpoint.received
    assert asked.header("Authorization") is None
    assert parse_qs(asked.body.decode())["client_secret"] == ["s/cret"]


async def test_a_crowd_that_wants_a_token_asks_for_it_once(tokens: Tokens, endpoint: Tool) -> None:
    client = wanted(endpoint)
    assert {*await asyncio.gather(*(value(tokens, client) for _ in range(100)))} == {"token-1"}
    assert len(endpoint.received) == 1


async def test_who_leaves_takes_the_token_from_nobody(tokens: Tokens, endpoint: Tool) -> None:
    goes = asyncio.Event()
    endpoint.does(waits_for(goes, gives()))
    leaving, staying = (asyncio.create_task(value(tokens, wanted(endpoint))) for _ in range(2))
    await endpoint.until_received(1)
    leaving.cancel()
    goes.set()
    assert await staying == "token-1"


async def test_a_token_is_renewed_before_it_ends_and_nobody_waits_for_that(
    tokens: Tokens, endpoint: Tool, clock: Clock
) -> None:
    client = wanted(endpoint)
    await value(tokens, client)
    clock.now += 69
    assert await value(tokens, client) == "token-1"
    assert len(endpoint.received) == 1
    clock.now += 12
    assert await value(tokens, client) == "token-1"
    await settled()
    assert await value(tokens, client) == "token-2"
    assert len(endpoint.received) == 2


async def test_a_token_that_has_ended_is_not_used(tokens: Tokens, endpoint: Tool, clock: Clock) -> None:
    client = wanted(endpoint)
    await value(tokens, client)
    clock.now += 96
    assert await value(tokens, client) == "token-2"


@pytest.mark.parametrize(("answer", "life"), [({}, 300), ({"expires_in": None}, 300), ({"expires_in": "60"}, 60)])
async def test_a_life_that_is_not_stated_is_short_and_one_in_a_text_is_read(
    tokens: Tokens, endpoint: Tool, clock: Clock, answer: dict[str, Any], life: int
) -> None:
    endpoint.does(gives(**answer))
    client = wanted(endpoint)
    await value(tokens, client)
    clock.now += life * 0.65
    assert await value(tokens, client) == "token-1"
    clock.now += life * 0.4
    assert await value(tokens, client) == "token-2"


@pytest.mark.parametrize("life", [0, -5])
async def test_a_token_without_a_life_is_used_once(tokens: Tokens, endpoint: Tool, life: int) -> None:
    endpoint.does(gives(expires_in=life))
    assert [await value(tokens, wanted(endpoint)) for _ in range(2)] == ["token-1", "token-2"]


async def test_another_secret_or_scope_is_another_token(tokens: Tokens, endpoint: Tool) -> None:
    for fields in ({}, {"client_secret": "new"}, {"scope": "read"}, {"params": {"a": "b"}}):
        await value(tokens, wanted(endpoint, **fields))
    assert len(endpoint.received) == 4


GOOD = {"access_token": "t", "token_type": "Bearer"}
TELLING = b'{"error": "your secret is s/cret"}'


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (answers(400, b'{"error": "invalid_scope"}'), "credential_refused"),
        (answers(401, b'{"error": "invalid_client"}'), "credential_refused"),
        (answers(403, TELLING), "credential_refused"),
        (answers(200, json.dumps({**GOOD, "token_type": "mac"}).encode()), "credential_refused"),
        (answers(500), "credential_unavailable"),
        (answers(429), "credential_unavailable"),
        (answers(204), "credential_unavailable"),
        (answers(302, headers={"Location": "http://127.0.0.1:9/"}), "credential_unavailable"),
        (answers(200, b"<html>"), "credential_unavailable"),
        (answers(200, b"{}"), "credential_unavailable"),
        (answers(200, b"[" * 60_000), "credential_unavailable"),
        (answers(200, json.dumps({**GOOD, "access_token": ""}).encode()), "credential_unavailable"),
        (answers(200, json.dumps({**GOOD, "access_token": 5}).encode()), "credential_unavailable"),
        (answers(200, json.dumps({**GOOD, "access_token": "a\r\nX-Evil: 1"}).encode()), "credential_unavailable"),
        (answers(200, json.dumps({**GOOD, "access_token": "ä"}).encode()), "credential_unavailable"),
        (answers(200, json.dumps({**GOOD, "expires_in": "soon"}).encode()), "credential_unavailable"),
        (answers(200, b'{"access_token":"t","expires_in":1e999}'), "credential_unavailable"),
        (answers(200, b" " * (MAX_ANSWER_BYTES + 1)), "credential_unavailable"),
        (never_answers(), "credential_unavailable"),
        (resets(), "credential_unavailable"),
    ],
)
async def test_an_endpoint_that_gives_no_token_is_told_by_a_reason_and_then_left_alone(
    tokens: Tokens, endpoint: Tool, script: Script, reason: str, capsys: pytest.CaptureFixture[str], metrics: Metrics
) -> None:
    endpoint.does(script)
    client = wanted(endpoint)
    missing = [await no_token(tokens, client) for _ in range(20)]
    assert {error.reason for error in missing} == {reason}
    waits = {error.retry_after_s for error in missing}
    assert waits == {None} if reason == "credential_refused" else all(wait and 0 < wait <= 1 for wait in waits)
    assert len(endpoint.received) == 1
    outcome = "refused" if reason == "credential_refused" else "unavailable"
    figures = metrics.exposition("")[0].decode()
    assert f'interlock_token_fetches_total{{outcome="{outcome}",tool="charge"}} 1.0' in figures
    told = capsys.readouterr()
    assert "credential.fetch_failed" in told.out + told.err
    assert "s/cret" not in told.out + told.err + repr(missing)


async def test_an_endpoint_that_goes_on_failing_is_asked_less_and_less(
    tokens: Tokens, endpoint: Tool, clock: Clock
) -> None:
    endpoint.does(answers(500))
    client = wanted(endpoint)
    for _ in range(300):
        await no_token(tokens, client)
        clock.now += 1
    assert 7 <= len(endpoint.received) <= 13
    endpoint.does(gives())
    clock.now += 60
    assert await value(tokens, client) == "token-1"


async def test_an_endpoint_may_ask_to_be_left_alone_for_longer(tokens: Tokens, endpoint: Tool) -> None:
    endpoint.does(answers(503, headers={"Retry-After": "30"}))
    assert ((await no_token(tokens, wanted(endpoint))).retry_after_s or 0) > 20


async def test_a_token_that_holds_outlives_an_endpoint_that_fails(tokens: Tokens, endpoint: Tool, clock: Clock) -> None:
    client = wanted(endpoint)
    await value(tokens, client)
    endpoint.does(answers(500))
    clock.now += 90
    for _ in range(5):
        assert await value(tokens, client) == "token-1"
        await settled()
    assert len(endpoint.received) == 2
    clock.now += 9
    assert (await no_token(tokens, client)).reason == "credential_unavailable"


async def test_an_endpoint_that_is_not_there_or_must_not_be_is_told_alike(tokens: Tokens, endpoint: Tool) -> None:
    await endpoint.stop()
    for url in (endpoint.url, "http://169.254.169.254/token", "http://no-such-host.invalid/token"):
        assert (await no_token(tokens, wanted(endpoint, token_url=url))).reason == "credential_unavailable"


async def test_a_refused_token_is_replaced_once_for_all_who_had_it(tokens: Tokens, endpoint: Tool) -> None:
    client = wanted(endpoint)
    old = await tokens.token(client, "charge")
    newer = await asyncio.gather(*(tokens.instead_of(old, client, "charge") for _ in range(50)))
    assert {token.value for token in newer if token is not None} == {"token-2"}
    assert len(endpoint.received) == 2


async def test_a_tool_that_refuses_every_token_does_not_wear_out_the_endpoint(
    tokens: Tokens, endpoint: Tool, clock: Clock
) -> None:
    client = wanted(endpoint)
    for _ in range(20):
        await tokens.instead_of(await tokens.token(client, "charge"), client, "charge")
    assert len(endpoint.received) == 2
    clock.now += PROBATION_S
    assert await tokens.instead_of(await tokens.token(client, "charge"), client, "charge") is not None


async def test_a_refused_token_stays_where_no_other_is_to_be_had(tokens: Tokens, endpoint: Tool) -> None:
    client = wanted(endpoint)
    old = await tokens.token(client, "charge")
    endpoint.does(answers(500))
    assert await tokens.instead_of(old, client, "charge") is None
    assert await tokens.token(client, "charge") is old


async def test_closing_ends_what_is_still_asked_for(tokens: Tokens, endpoint: Tool) -> None:
    endpoint.does(never_answers())
    asking = asyncio.create_task(value(tokens, wanted(endpoint)))
    await endpoint.until_received(1)
    await tokens.close()
    with pytest.raises(asyncio.CancelledError):
        await asking


def test_a_token_shows_nothing_of_itself() -> None:
    assert "hush" not in repr(Token("hush-hush", 0, 0, 0))
