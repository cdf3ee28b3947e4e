"""A tool's own credential on its way, and what of it comes back."""

import gzip
from collections.abc import AsyncIterator

import httpx
import pytest
from aiohttp import web

from interlock.governance.v1 import governance_pb2 as pb
from tests.tool import Script, Tool, answers, streams
from tests.unit.proxy.scripted_engine import ScriptedEngine

SECRET = "k-0123456789-k"
STARS = "*" * len(SECRET)


@pytest.fixture
async def endpoint() -> AsyncIterator[Tool]:
    """A token endpoint that gives another token each time."""
    endpoint = Tool()

    async def script(_: web.Request) -> web.Response:
        token = f"token-{len(endpoint.received):08}"
        return web.json_response({"access_token": token, "token_type": "Bearer", "expires_in": 3600})

    endpoint.does(script)
    await endpoint.start()
    yield endpoint
    await endpoint.stop()


@pytest.fixture
def with_header(engine: ScriptedEngine) -> None:
    engine.tool.upstream_credential.MergeFrom(pb.UpstreamCredential(header="X-Api-Key", value=SECRET))


@pytest.fixture
def with_token(engine: ScriptedEngine, endpoint: Tool) -> None:
    oauth2 = pb.OAuth2ClientCredentials(token_url=endpoint.url, client_id="client-1", client_secret="client-secret")
    engine.tool.upstream_credential.oauth2.CopyFrom(oauth2)


async def pieces(*of: bytes) -> AsyncIterator[bytes]:
    for piece in of:
        yield piece


def shown_tokens(tool: Tool) -> list[str | None]:
    return [received.header("Authorization") for received in tool.received]


def accepts(token: str) -> Script:
    async def script(request: web.Request) -> web.Response:
        accepted = request.headers.get("Authorization") == f"Bearer {token}"
        return web.Response(status=200 if accepted else 401)

    return script


@pytest.mark.usefixtures("with_header")
async def test_a_credential_takes_the_place_of_what_the_agent_sends_under_its_name(
    agent: httpx.AsyncClient, tool: Tool
) -> None:
    for name in ("X-Api-Key", "x_api_key"):
        await agent.post("/tools/charge", headers={name: "the agent's", "Accept-Encoding": "gzip, br"})
        received = tool.received[-1]
        assert received.header("X-Api-Key") == SECRET
        assert "the agent's" not in str(received.headers)
        assert received.header("Accept-Encoding") == "identity"


async def test_a_tool_without_a_credential_is_asked_for_the_agents_own_encodings(
    agent: httpx.AsyncClient, tool: Tool
) -> None:
    body = gzip.compress(SECRET.encode())
    tool.does(answers(200, body, {"Content-Encoding": "gzip"}))
    answer = await agent.post("/tools/charge", headers={"Accept-Encoding": "gzip, br"})
    assert tool.received[0].header("Accept-Encoding") == "gzip, br"
    assert answer.text == SECRET


@pytest.mark.usefixtures("with_header")
async def test_a_short_answer_that_repeats_the_credential_is_masked_and_kept_masked(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    tool.does(answers(200, f'"{SECRET}"'.encode(), {"X-Echo": f"X-Api-Key: {SECRET}"}))
    answer = await agent.post("/tools/charge")
    assert (answer.text, answer.headers["X-Echo"]) == (f'"{STARS}"', f"X-Api-Key: {STARS}")
    assert SECRET not in str(engine.settled)
    assert engine.settled[0].answer.body == f'"{STARS}"'.encode()


@pytest.mark.usefixtures("with_header")
@pytest.mark.parametrize("stated", [True, False])
async def test_a_long_answer_is_masked_across_its_pieces(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool, stated: bool
) -> None:
    body = [b"x" * 2_000 + SECRET[:5].encode(), SECRET[5:].encode() + b"y", SECRET.encode()]
    length = {"Content-Length": str(sum(map(len, body)))} if stated else {}

    async def script(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=length)
        await response.prepare(request)
        for piece in body:
            await response.write(piece)
        return response

    tool.does(script)
    answer = await agent.post("/tools/charge")
    assert answer.text == f"{'x' * 2_000}{STARS}y{STARS}"
    assert engine.settled[0].answer.size == len(answer.content)


@pytest.mark.usefixtures("with_header")
@pytest.mark.parametrize("long", [False, True])
async def test_an_answer_that_cannot_be_looked_through_is_withheld_and_what_the_tool_did_is_on_record(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool, long: bool
) -> None:
    body = gzip.compress(SECRET.encode() * (1_000 if long else 1))
    headers = {"Content-Encoding": "gzip"}
    tool.does(streams(pieces(body), headers) if long else answers(200, body, headers))
    answer = await agent.post("/tools/charge")
    assert (answer.status_code, answer.json()["reason"]) == (502, "answer_unreadable")
    assert answer.json()["retryable"] is False
    assert (engine.settled[0].outcome, engine.settled[0].failure) == (pb.OUTCOME_SUCCEEDED, "answer_unreadable")
    assert not engine.settled[0].HasField("answer")


@pytest.mark.usefixtures("with_token")
async def test_calls_share_a_token(agent: httpx.AsyncClient, tool: Tool, endpoint: Tool) -> None:
    for _ in range(3):
        assert (await agent.post("/tools/charge", headers={"X-Mine": "yes"})).status_code == 200
    assert shown_tokens(tool) == ["Bearer token-00000001"] * 3
    assert tool.received[0].header("X-Mine") == "yes"
    assert len(endpoint.received) == 1


@pytest.mark.usefixtures("with_token")
async def test_a_token_goes_into_the_header_that_is_told_without_a_scheme_if_told_so(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.tool.upstream_credential.oauth2.MergeFrom(pb.OAuth2ClientCredentials(header="X-Token", scheme=""))
    await agent.post("/tools/charge")
    assert (tool.received[0].header("X-Token"), tool.received[0].header("Authorization")) == (
        "token-00000001",
        None,
    )


@pytest.mark.usefixtures("with_token")
@pytest.mark.parametrize("on_ambiguous", [pb.ON_AMBIGUOUS_RETRY, pb.ON_AMBIGUOUS_HOLD])
async def test_a_token_that_the_tool_does_not_accept_any_more_is_replaced_within_the_call(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool, on_ambiguous: int
) -> None:
    engine.tool.MergeFrom(pb.ToolRoute(on_ambiguous=on_ambiguous, max_retries=0))
    await agent.post("/tools/charge")
    tool.does(accepts("token-00000002"))
    assert (await agent.post("/tools/charge")).status_code == 200
    assert shown_tokens(tool)[1:] == ["Bearer token-00000001", "Bearer token-00000002"]
    first, second = tool.received[1:]
    assert first.header("Idempotency-Key") == second.header("Idempotency-Key")
    assert [settled.outcome for settled in engine.settled] == [pb.OUTCOME_SUCCEEDED] * 2


@pytest.mark.usefixtures("with_token")
async def test_a_tool_that_accepts_no_token_is_tried_once_more_and_then_believed(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool, endpoint: Tool
) -> None:
    tool.does(answers(401, b'"no"'))
    for _ in range(5):
        answer = await agent.post("/tools/charge")
        assert (answer.status_code, answer.text) == (401, '"no"')
    assert {settled.outcome for settled in engine.settled} == {pb.OUTCOME_REJECTED}
    assert (len(tool.received), len(endpoint.received)) == (6, 2)


@pytest.mark.usefixtures("with_token")
async def test_a_401_stands_where_no_other_token_is_to_be_had(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool, endpoint: Tool
) -> None:
    await agent.post("/tools/charge")
    tool.does(answers(401))
    endpoint.does(answers(500))
    assert (await agent.post("/tools/charge")).status_code == 401
    assert engine.settled[1].outcome == pb.OUTCOME_REJECTED


@pytest.mark.usefixtures("with_header")
async def test_a_401_to_a_credential_that_is_no_token_is_the_agents_answer(
    agent: httpx.AsyncClient, tool: Tool
) -> None:
    tool.does(answers(401))
    assert (await agent.post("/tools/charge")).status_code == 401
    assert len(tool.received) == 1


@pytest.mark.usefixtures("with_token")
@pytest.mark.parametrize(
    ("status", "told", "reason", "retryable"),
    [(500, 503, "credential_unavailable", True), (401, 502, "credential_refused", False)],
)
async def test_without_a_token_nothing_is_sent(
    agent: httpx.AsyncClient,
    engine: ScriptedEngine,
    tool: Tool,
    endpoint: Tool,
    status: int,
    told: int,
    reason: str,
    retryable: bool,
) -> None:
    engine.tool.max_retries = 3
    endpoint.does(answers(status, b'{"error": "client-secret is wrong"}'))
    for _ in range(3):
        answer = await agent.post("/tools/charge")
        assert (answer.status_code, answer.json()["reason"], answer.json()["retryable"]) == (told, reason, retryable)
        assert "client-secret" not in answer.text
    assert answer.headers.get("Retry-After") == ("1" if retryable else None)
    assert {(settled.outcome, settled.failure) for settled in engine.settled} == {(pb.OUTCOME_NOT_SENT, reason)}
    assert (len(tool.received), len(endpoint.received)) == (0, 1)


@pytest.mark.usefixtures("with_token")
async def test_a_token_that_a_tool_repeats_is_masked_with_its_scheme_and_without(
    agent: httpx.AsyncClient, tool: Tool
) -> None:
    async def echo(request: web.Request) -> web.Response:
        shown = request.headers["Authorization"]
        return web.json_response({"headers": shown, "token": shown.removeprefix("Bearer ")})

    tool.does(echo)
    answer = await agent.post("/tools/charge")
    assert answer.json() == {"headers": "*" * 21, "token": "*" * 14}
