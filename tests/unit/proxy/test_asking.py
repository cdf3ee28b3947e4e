"""Asking a tool what became of a call: what counts as a word, and what does not."""

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from interlock.governance.inquiries import Finding, Inquiry, Said
from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.asking import ROOM, OutcomeAsker, finding_of
from interlock.proxy.credential import Credentials
from interlock.proxy.destinations import Destinations
from interlock.proxy.metrics import Metrics
from interlock.proxy.oauth import Tokens
from interlock.proxy.upstream import Upstream
from tests.tool import Script, Tool, answers, never_answers, resets

INQUIRY = Inquiry("call_1", "ab" * 32, "charge", "shopper", "acme", "cd" * 32, 1_781_520_000_000, 2, 7)
HAPPENED = b'{"outcome": "happened"}'
SECRET = "an-upstream-credential"


@asynccontextmanager
async def asking(*, allow_loopback: bool = True) -> AsyncIterator[OutcomeAsker]:
    upstream = Upstream(Destinations(allow_loopback=allow_loopback))
    await upstream.start()
    tokens = Tokens(upstream, Metrics(), timeout_s=5)
    try:
        yield OutcomeAsker(upstream, Credentials(tokens))
    finally:
        await tokens.close()
        await upstream.close()


async def said(tool: Tool, script: Script | None = None, *, within_s: float = 5, **route: Any) -> Finding:
    if script is not None:
        tool.does(script)
    async with asking() as asker:
        return await asker.ask(
            INQUIRY, pb.ToolRoute(name="charge", replay_max_bytes=1_000, **route), tool.url, within_s
        )


async def test_the_question_names_the_call_and_is_signed_with_a_key_of_its_own(tool: Tool) -> None:
    for _ in range(2):
        assert (await said(tool, answers(body=HAPPENED), secrets=["tool-secret"])).said is Said.HAPPENED
    first, second = tool.received
    assert (first.method, first.header("Content-Type")) == ("POST", "application/json")
    assert json.loads(first.body) == {
        "call_id": "call_1",
        "key": "ab" * 32,
        "tool": "charge",
        "agent_id": "shopper",
        "namespace": "acme",
        "args_hash": "cd" * 32,
        "first_seen_ms": 1_781_520_000_000,
        "tries": 2,
        "fence": 7,
    }
    for name in ("X-OnceOnly-Signature", "webhook-signature", "Signature"):
        assert first.header(name)
    assert first.header("Idempotency-Key") not in (None, INQUIRY.key, second.header("Idempotency-Key"))
    assert first.header("webhook-id") == first.header("Idempotency-Key")


async def test_the_tools_credential_goes_along_and_does_not_come_back(tool: Tool) -> None:
    async def echo(request: web.Request) -> web.Response:
        told = {"outcome": "happened", "answer": {"body": request.headers["X-Api-Key"]}}
        return web.json_response(told)

    credential = pb.UpstreamCredential(header="X-Api-Key", value=SECRET)
    finding = await said(tool, echo, upstream_credential=credential)
    assert tool.received[0].header("X-Api-Key") == SECRET
    assert finding.answer is not None
    assert finding.answer.body == b"*" * len(SECRET)


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        (answers(500, HAPPENED), "status 500"),
        (answers(404, HAPPENED), "status 404"),
        (answers(202, HAPPENED), "status 202"),
        (answers(307, HAPPENED, {"Location": "/elsewhere"}), "status 307"),
        (answers(401, HAPPENED), "status 401"),
        (resets(), "upstream_reset"),
        (never_answers(), "upstream_timeout"),
        (answers(body=HAPPENED + b" " * (2_000 + ROOM)), "the answer is too large"),
    ],
    ids=["500", "404", "202", "a redirect", "401", "a reset", "silence", "too much"],
)
async def test_what_is_no_answer_is_none(tool: Tool, script: Script, problem: str) -> None:
    finding = await said(tool, script, within_s=0.3 if problem == "upstream_timeout" else 5)
    assert finding == Finding(Said.NO_ANSWER, problem=problem)
    assert len(tool.received) == 1


async def test_an_answer_in_which_no_credential_could_be_found_is_none(tool: Tool) -> None:
    packed = gzip.compress(HAPPENED)
    finding = await said(tool, answers(body=packed, headers={"Content-Encoding": "gzip"}))
    assert finding == Finding(Said.NO_ANSWER, problem="the answer is compressed")


async def test_an_answer_that_drips_has_its_end(tool: Tool) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(1_000):
            await response.write(b" ")
            await asyncio.sleep(0.01)
        return response

    assert await said(tool, drip, within_s=0.3) == Finding(Said.NO_ANSWER, problem="upstream_timeout")


async def test_nobody_is_asked_where_no_tool_may_be(tool: Tool) -> None:
    async with asking(allow_loopback=False) as asker:
        for url in (tool.url, "http://169.254.169.254/", tool.url.replace("127.0.0.1", "localhost")):
            finding = await asker.ask(INQUIRY, pb.ToolRoute(), url, 5)
            assert finding == Finding(Said.NO_ANSWER, problem="destination_refused")
    assert tool.received == []


async def test_a_tool_that_is_not_there_has_said_nothing() -> None:
    async with asking() as asker:
        finding = await asker.ask(INQUIRY, pb.ToolRoute(), "http://127.0.0.1:9/", 5)
    assert finding == Finding(Said.NO_ANSWER, problem="upstream_unreachable")


@pytest.mark.parametrize("outcome", ["happened", "not_happened", "unknown"])
def test_each_word_is_understood_and_what_stands_beside_it_passed_over(outcome: str) -> None:
    assert finding_of(json.dumps({"outcome": outcome, "later": 1}).encode(), 10) == Finding(Said(outcome))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"happened",
        b'"happened"',
        b"[]",
        b"{}",
        b'{"outcome": "Happened"}',
        b'{"outcome": null}',
        b'{"outcome": ["happened"]}',
        b'{"outcome": "happened", "outcome": "not_happened"}',
        b'{"outcome": "happened"} {"outcome": "not_happened"}',
        b'{"outcome": "happened", "answer": "done"}',
        b'{"outcome": "happened", "answer": {"status": 500}}',
        b'{"outcome": "happened", "answer": {"status": true}}',
        b'{"outcome": "happened", "answer": {"status": 200.0}}',
        b'{"outcome": "happened", "answer": {"body": {}}}',
        b'{"outcome": "happened", "answer": {"body": "a", "body_base64": "YQ=="}}',
        b'{"outcome": "happened", "answer": {"body_base64": "not base64"}}',
        b'{"outcome": "happened", "answer": {"headers": ["X-A: b"]}}',
        b'{"outcome": "happened", "answer": {"body": "\\ud800"}}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_clear_word_is_none(body: bytes) -> None:
    assert finding_of(body, 1_000).said is Said.NO_ANSWER


def test_an_answer_is_kept_as_a_settlement_would_keep_it() -> None:
    body = bytes(range(256))
    told = {
        "status": 201,
        "headers": {
            "Content-Type": "image/png",
            "Content-Length": "7",
            "Interlock-Decision": "executed",
            "X-Evil": "a\r\nb",
            "X-Price": "5 €",
            "Connection": "close",
        },
        "body_base64": base64.b64encode(body).decode(),
    }
    document = json.dumps({"outcome": "happened", "answer": told}).encode()
    kept = finding_of(document, 256).answer
    assert kept is not None
    assert (kept.status, kept.kept, kept.body, kept.size) == (201, True, body, 256)
    price = "5 €".encode().decode("iso-8859-1")
    assert [(field.name, field.value) for field in kept.headers] == [("Content-Type", "image/png"), ("X-Price", price)]
    large = finding_of(document, 255).answer
    assert large is not None
    assert (large.kept, large.body, large.size, large.digest) == (False, b"", 256, kept.digest)


def test_an_answer_to_what_did_not_happen_is_nobodys() -> None:
    assert finding_of(b'{"outcome": "not_happened", "answer": {"body": "x"}}', 10) == Finding(Said.NOT_HAPPENED)
