"""Server-streaming by gRPC: messages pass as they come, the status waits for the settlement."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from grpc import StatusCode as Code
from grpc import aio

from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.app import Sidecar
from tests.interlock_dev import until
from tests.rpc_agent import PAY, RpcAgent, agent_at, told
from tests.rpc_tool import Context, Received, RpcTool, Script, says
from tests.unit.proxy.scripted_engine import ScriptedEngine, embedded_sidecar

MESSAGES = [b"one", b"", b"three"]


class Tap:
    """What a tool streams: a message whenever the test lets one out; None ends it."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.cut = asyncio.Event()

    def let_out(self, *messages: bytes | None) -> None:
        for message in messages:
            self._messages.put_nowait(message)

    @property
    def script(self) -> Script:
        async def script(_: Received, context: Context) -> None:
            try:
                while (message := await self._messages.get()) is not None:
                    await context.write(message)
            except asyncio.CancelledError:
                self.cut.set()
                raise

        return script


@pytest.fixture
def tap(rpc_tool: RpcTool) -> Tap:
    tap = Tap()
    rpc_tool.does(tap.script)
    return tap


@contextlib.asynccontextmanager
async def streaming(agent: RpcAgent) -> AsyncIterator[aio.UnaryStreamCall[bytes, bytes]]:
    call = agent.channel.unary_stream(PAY)(b"1", metadata=agent.metadata)
    try:
        yield call
    finally:
        call.cancel()


async def test_each_message_arrives_before_the_next_is_sent(
    rpc_agent: RpcAgent, tap: Tap, engine: ScriptedEngine
) -> None:
    async with streaming(rpc_agent) as call:
        for message in MESSAGES:
            tap.let_out(message)
            assert await call.read() == message
        assert engine.settled == []
        tap.let_out(None)
        assert (await told(call)).code is Code.OK
    assert engine.settled[0].answer.body == b"\0\0\0\0\3one\0\0\0\0\0\0\0\0\0\5three"
    assert len(engine.authorized) == 1


async def test_the_status_of_a_stream_is_withheld_until_it_is_settled(
    rpc_agent: RpcAgent, tap: Tap, engine: ScriptedEngine
) -> None:
    engine.before_settling.clear()
    async with streaming(rpc_agent) as call:
        tap.let_out(b"one")
        assert await call.read() == b"one"
        tap.let_out(b"two", None)
        assert await call.read() == b"two"
        await engine.settling.wait()
        ending = asyncio.create_task(told(call))
        done, _ = await asyncio.wait([ending], timeout=0.1)
        assert not done
        engine.before_settling.set()
        answer = await ending
    assert (answer.code, answer.decision) == (Code.OK, "executed")


async def test_a_stream_is_replayed_message_by_message(
    rpc_agent: RpcAgent, rpc_tool: RpcTool, engine: ScriptedEngine
) -> None:
    rpc_tool.does(says(*MESSAGES, trailing=(("count", "3"),)))
    await rpc_agent.call()
    kept = engine.settled[0].answer
    engine.verdicts.append(pb.AuthorizeResponse(verdict=pb.VERDICT_REPLAY, reason="tool_idempotency", answer=kept))
    answer = await rpc_agent.call()
    assert (answer.messages, answer.trailer("count"), answer.trailer("idempotent-replayed")) == (MESSAGES, "3", "true")


async def test_a_stream_that_ends_in_an_error_tells_it_and_is_not_repeated(
    rpc_agent: RpcAgent, rpc_tool: RpcTool, engine: ScriptedEngine
) -> None:
    engine.tool.max_retries = 3
    rpc_tool.does(says(b"one", b"two", code=Code.UNAVAILABLE, details="its words"))
    answer = await rpc_agent.call()
    assert (answer.code, answer.details, answer.messages) == (Code.UNAVAILABLE, "its words", [b"one", b"two"])
    assert engine.settled[0].outcome == pb.OUTCOME_AMBIGUOUS
    assert len(rpc_tool.received) == 1


async def test_a_switch_ends_a_stream_at_its_tool_and_at_its_agent(
    rpc_agent: RpcAgent, tap: Tap, engine: ScriptedEngine
) -> None:
    engine.renewal = pb.RenewResponse(renewed=False, reason="kill_switch")
    async with streaming(rpc_agent) as call:
        tap.let_out(b"one")
        answer = await told(call)
    assert (answer.messages, answer.code, answer.reason) == ([b"one"], Code.PERMISSION_DENIED, "kill_switch")
    assert (engine.settled[0].outcome, engine.settled[0].failure) == (pb.OUTCOME_AMBIGUOUS, "kill_switch")
    await asyncio.wait_for(tap.cut.wait(), 20)


async def test_a_stream_that_breaks_is_ambiguous_and_says_so(
    rpc_agent: RpcAgent, rpc_tool: RpcTool, tap: Tap, engine: ScriptedEngine
) -> None:
    async with streaming(rpc_agent) as call:
        tap.let_out(b"one")
        assert await call.read() == b"one"
        await rpc_tool.stop()
        answer = await told(call)
    assert (answer.code, answer.reason) == (Code.UNKNOWN, "upstream_reset")
    assert engine.settled[0].outcome == pb.OUTCOME_AMBIGUOUS


async def test_a_tool_that_falls_silent_in_a_stream_has_timed_out(
    rpc_agent: RpcAgent, tap: Tap, engine: ScriptedEngine
) -> None:
    engine.tool.timeout_ms = 250
    tap.let_out(b"one")
    answer = await rpc_agent.call()
    assert (answer.messages, answer.code, answer.reason) == ([b"one"], Code.DEADLINE_EXCEEDED, "upstream_timeout")
    await asyncio.wait_for(tap.cut.wait(), 20)


async def test_a_stream_whose_agent_hangs_up_is_read_to_its_end_and_settled(
    rpc_agent: RpcAgent, tap: Tap, engine: ScriptedEngine
) -> None:
    async with streaming(rpc_agent) as call:
        tap.let_out(b"one")
        assert await call.read() == b"one"
    await rpc_agent.call(method="/nothing.There/IsNot")  # the hang-up has arrived before this
    tap.let_out(b"two", b"three", None)
    settled = await engine.until_settled()
    assert settled.outcome == pb.OUTCOME_SUCCEEDED
    assert settled.answer.body.endswith(b"three")


async def test_an_agent_that_takes_nothing_is_left_its_call_settled_and_its_room_kept_until_it_goes(
    engine: ScriptedEngine, rpc_tool: RpcTool, tmp_path: Path
) -> None:
    rpc_tool.does(says(*[b"x" * 500_000] * 40), says(b"one"))
    limits = {"agent_stall_ms": 300, "max_connections": 1}

    async def takes_nothing(port: int) -> None:
        async with agent_at(port) as agent, streaming(agent) as call:
            assert await call.read()
            settled = await engine.until_settled()
            assert settled.outcome == pb.OUTCOME_SUCCEEDED
            assert settled.answer.size == 40 * 500_005
            second = await agent.call()
            assert (second.code, second.reason) == (Code.UNAVAILABLE, "busy")

    async def is_served() -> bool:
        async with agent_at(sidecar.grpc_port or 0) as agent:
            return (await agent.call()).code is Code.OK

    async with embedded_sidecar(engine, tmp_path / "spool", **limits) as sidecar:
        await takes_nothing(sidecar.grpc_port or 0)
        await until(is_served)


async def test_a_credential_of_the_tools_is_masked_wherever_the_tool_repeats_it(
    rpc_agent: RpcAgent, rpc_tool: RpcTool, engine: ScriptedEngine
) -> None:
    secret = "sk-of-the-tool-17"
    engine.tool.upstream_credential.MergeFrom(pb.UpstreamCredential(header="X-Api-Key", value=secret))
    raw, hidden = f"say {secret}!".encode(), b"say " + b"*" * len(secret) + b"!"
    rpc_tool.does(
        says(raw, raw, initial=(("a", secret), ("a-bin", raw)), trailing=(("b-bin", raw),)),
        says(code=Code.NOT_FOUND, details=raw.decode(), trailing=(("b-bin", raw),)),
    )
    stream, error = await rpc_agent.call(), await rpc_agent.call(b"2")
    assert rpc_tool.received[0].value("x-api-key") == secret
    assert rpc_tool.received[0].value("accept-encoding") is None
    assert stream.messages == [hidden, hidden]
    assert stream.initial == [("a", "*" * len(secret)), ("a-bin", hidden)]
    assert stream.trailer("b-bin") == hidden
    assert error.details == hidden.decode()
    assert all(secret.encode() not in settled.SerializeToString() for settled in engine.settled)


async def is_reading(sidecar: Sidecar) -> bool:
    listener = sidecar._rpc_listener
    return listener is not None and listener._handlers is not None and bool(listener._handlers._reading)


async def test_a_draining_sidecar_finishes_streams_and_takes_no_new_calls(
    sidecar: Sidecar, rpc_agent: RpcAgent, tap: Tap
) -> None:
    async with streaming(rpc_agent) as call:
        tap.let_out(b"one")
        assert await call.read() == b"one"
        half = rpc_agent.channel.stream_stream(PAY)(metadata=rpc_agent.metadata)
        await half.write(b"1")
        await until(partial(is_reading, sidecar))
        draining = asyncio.create_task(sidecar.drain())
        refused = await told(half)
        assert (refused.code, refused.reason) == (Code.UNAVAILABLE, "draining")
        assert not draining.done()
        tap.let_out(b"two", None)
        answer = await told(call)
    assert (answer.code, answer.messages) == (Code.OK, [b"two"])
    await draining


async def test_a_half_sent_request_is_left_after_a_while(engine: ScriptedEngine, tmp_path: Path) -> None:
    async with (
        embedded_sidecar(engine, tmp_path / "spool", agent_stall_ms=200) as sidecar,
        agent_at(sidecar.grpc_port or 0) as agent,
    ):
        half = agent.channel.stream_stream(PAY)(metadata=agent.metadata)
        await half.write(b"1")
        answer = await told(half)
    assert (answer.code, answer.reason) == (Code.DEADLINE_EXCEEDED, "request_timeout")
    assert engine.resolved == 0
