"""The engine behind gRPC, as a remote sidecar asks it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from grpc import StatusCode

from interlock.governance.errors import DeniedError, UnauthenticatedError, UnavailableError
from interlock.governance.local import LocalServer
from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.engine import EngineClient, dial
from interlock.proxy.metrics import Metrics
from interlock.proxy.settings import EngineLink
from tests.unit.proxy.scripted_engine import ScriptedEngine, register, route, serving


@pytest.fixture
def scripted() -> ScriptedEngine:
    return ScriptedEngine(route("http://127.0.0.1:1/"))


@asynccontextmanager
async def asking(port: int, **link: Any) -> AsyncIterator[EngineClient]:
    settings = EngineLink.model_validate({"target": f"grpc://127.0.0.1:{port}", **link})
    async with dial(settings) as channel:
        engine = EngineClient(channel, settings, Metrics())
        yield engine
        await engine.close()


def question(attempt_id: str = "a") -> pb.AuthorizeRequest:
    return pb.AuthorizeRequest(attempt_id=attempt_id, tool="charge", fingerprint=b"f" * 32)


async def test_what_is_asked_in_one_tick_leaves_in_one_message(scripted: ScriptedEngine) -> None:
    async with serving(scripted) as port, asking(port) as engine:
        await engine.authorize(question("first"))
        answers = await asyncio.gather(*(engine.authorize(question(str(n))) for n in range(200)))
    assert scripted.batches == [1, 200]
    assert [answer.permit.attempt_id for answer in answers] == [str(n) for n in range(200)]


async def test_an_answer_that_was_lost_is_asked_for_again_with_the_same_attempt(scripted: ScriptedEngine) -> None:
    scripted.answers_lost = 1
    async with serving(scripted) as port, asking(port, timeout_ms=100) as engine:
        verdict = await engine.authorize(question("same"))
    assert verdict.verdict == pb.VERDICT_EXECUTE
    assert [request.attempt_id for request in scripted.authorized] == ["same", "same"]


@pytest.mark.parametrize("code", ["OK", "UNAVAILABLE", "CANCELLED", "INTERNAL", "UNKNOWN"])
async def test_a_question_on_a_stream_that_breaks_is_asked_again_on_the_next(
    scripted: ScriptedEngine, code: str
) -> None:
    scripted.answers_lost = 1
    async with serving(scripted) as port, asking(port, timeout_ms=10_000) as engine:
        asked = asyncio.create_task(engine.authorize(question("same")))
        await scripted.until_authorized()
        scripted.break_streams(StatusCode[code])
        verdict = await asked
    assert verdict.verdict == pb.VERDICT_EXECUTE
    assert [request.attempt_id for request in scripted.authorized] == ["same", "same"]


async def test_streams_that_engines_end_in_good_order_cost_no_question(scripted: ScriptedEngine) -> None:
    scripted.answers_lost = 4
    async with serving(scripted) as port, asking(port, timeout_ms=10_000, repeats=0) as engine:
        asked = asyncio.create_task(engine.authorize(question("same")))
        for times in range(1, 5):
            await scripted.until_authorized(times)
            scripted.break_streams()
        assert (await asked).verdict == pb.VERDICT_EXECUTE
    assert [request.attempt_id for request in scripted.authorized] == ["same"] * 5


async def test_an_answered_question_is_not_asked_again_when_the_stream_breaks(scripted: ScriptedEngine) -> None:
    async with serving(scripted) as port, asking(port) as engine:
        await engine.authorize(question("first"))
        scripted.break_streams()
        await engine.authorize(question("second"))
    assert [request.attempt_id for request in scripted.authorized] == ["first", "second"]


@pytest.mark.parametrize("where", ["error", "stream_error"])
async def test_the_engines_own_word_is_handed_on(scripted: ScriptedEngine, where: str) -> None:
    setattr(scripted, where, UnauthenticatedError("invalid_sidecar_token", "who are you"))
    async with serving(scripted) as port, asking(port) as engine:
        with pytest.raises(UnauthenticatedError) as refused:
            await engine.authorize(question())
    assert refused.value.reason == "invalid_sidecar_token"


async def test_an_engine_that_is_not_there_is_unavailable_at_once(scripted: ScriptedEngine) -> None:
    async with serving(scripted) as port:
        pass
    async with asking(port, timeout_ms=10_000, breaker_open_ms=60_000) as engine:
        async with asyncio.timeout(5):
            for _ in range(10):
                with pytest.raises(UnavailableError) as refused:
                    await engine.authorize(question())
                assert refused.value.reason == "governance_unavailable"


async def test_an_engine_that_does_not_answer_is_left_alone_for_a_while(scripted: ScriptedEngine) -> None:
    scripted.answers_lost = 1_000
    async with serving(scripted) as port, asking(port, timeout_ms=20, breaker_open_ms=60_000) as engine:
        for _ in range(20):
            with pytest.raises(UnavailableError):
                await engine.authorize(question())
    assert len(scripted.authorized) == 3


async def test_an_engine_that_says_that_redis_is_down_is_asked_every_time(scripted: ScriptedEngine) -> None:
    scripted.error = UnavailableError("governance_unavailable", "Redis cannot be reached")
    async with serving(scripted) as port, asking(port, breaker_open_ms=60_000) as engine:
        for _ in range(10):
            with pytest.raises(UnavailableError):
                await engine.authorize(question())
        scripted.error = None
        assert (await engine.authorize(question())).verdict == pb.VERDICT_EXECUTE


async def test_a_refusal_is_not_repeated(scripted: ScriptedEngine) -> None:
    scripted.error = DeniedError("permission_denied", "not yours")
    async with serving(scripted) as port, asking(port) as engine:
        with pytest.raises(DeniedError):
            await engine.resolve(pb.ResolveToolRequest(tool="charge"))
    assert scripted.resolved == 1


async def test_the_embedded_engine_is_asked_by_the_same_rules(scripted: ScriptedEngine) -> None:
    scripted.answers_lost = 1
    server = LocalServer()
    register(scripted, server)
    link = EngineLink(target="embedded", timeout_ms=20)
    verdict = await EngineClient(server.channel(), link, Metrics()).authorize(question("same"))
    assert verdict.verdict == pb.VERDICT_EXECUTE
    assert [request.attempt_id for request in scripted.authorized] == ["same", "same"]
