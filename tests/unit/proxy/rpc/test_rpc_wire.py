"""Bytes on the wire: what other languages' gRPC sends, and what nobody should."""

import asyncio
import gzip
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import pytest
from grpc import StatusCode as Code
from h2.connection import H2Connection
from h2.errors import ErrorCodes

from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.app import Sidecar
from tests.h2_wire import Wire, WireTool, framed, responds, wire
from tests.interlock_dev import until
from tests.rpc_agent import PAY, RpcAgent
from tests.rpc_tool import RpcTool, says
from tests.unit.proxy.scripted_engine import ScriptedEngine

KEY = ("authorization", "Bearer once_live_key")


def line_to(sidecar: Sidecar) -> AbstractAsyncContextManager[Wire]:
    return wire(sidecar.grpc_port or 0)


# An agent of another language.


async def test_a_message_in_many_frames_is_one_message(sidecar: Sidecar, rpc_tool: RpcTool) -> None:
    message = bytes(range(256)) * 3
    async with line_to(sidecar) as line:
        stream = line.open(PAY, KEY, ("grpc-timeout", "5S"), ("x-raw-bin", "AAH/"))
        for byte in framed(message)[:40]:
            line.data(stream, bytes([byte]))
        line.data(stream, framed(message)[40:])
        line.data(stream, b"", end=True)
        answer = await line.answer(stream)
    [received] = rpc_tool.received
    assert (received.message, received.value("x-raw-bin")) == (message, b"\0\1\xff")
    assert received.left_s is not None
    assert received.left_s < 5
    assert (answer.status, answer.body) == (0, framed(b"calls: 1"))
    assert ("interlock-decision", "executed") in answer.trailers


async def test_two_messages_in_one_frame_are_two(sidecar: Sidecar, engine: ScriptedEngine) -> None:
    async with line_to(sidecar) as line:
        stream = line.open(PAY, KEY)
        line.data(stream, framed(b"1") + framed(b"2"), end=True)
        answer = await line.answer(stream)
    assert answer.status == 12
    assert engine.resolved == 0


async def test_a_codec_behind_a_plus_is_the_agents_own_affair(sidecar: Sidecar, rpc_tool: RpcTool) -> None:
    async with line_to(sidecar) as line:
        stream = line.open(PAY, KEY, content_type="application/grpc+json")
        line.data(stream, framed(b'{"a":1,"a":2}'), end=True)
        answer = await line.answer(stream)
    assert answer.status == 0
    assert rpc_tool.received[0].message == b'{"a":1,"a":2}'


async def test_a_compressed_message_is_known_by_what_it_says(
    sidecar: Sidecar, rpc_agent: RpcAgent, rpc_tool: RpcTool, engine: ScriptedEngine
) -> None:
    async with line_to(sidecar) as line:
        stream = line.open(PAY, KEY, ("grpc-encoding", "gzip"), ("grpc-accept-encoding", "identity"))
        line.data(stream, framed(gzip.compress(b"amount"), 1), end=True)
        answer = await line.answer(stream)
    await rpc_agent.call(b"amount")
    assert answer.status == 0
    assert [received.message for received in rpc_tool.received] == [b"amount", b"amount"]
    assert engine.authorized[0].fingerprint == engine.authorized[1].fingerprint


async def test_fields_that_nobody_here_has_heard_of_survive(rpc_agent: RpcAgent, rpc_tool: RpcTool) -> None:
    unknown = b"\x08\x05" + b"\xfa\xff\xff\xff\x0f\x03new" + b"\xa1\x06" + bytes(8) + b"\x08\x07"
    rpc_tool.does(says(unknown))
    assert (await rpc_agent.call(unknown)).messages == [unknown]
    assert rpc_tool.received[0].message == unknown


async def test_an_answer_without_a_message_is_trailers_alone(sidecar: Sidecar) -> None:
    async with line_to(sidecar) as line:
        stream = line.open("/pay.v1.Payments/Unknown", KEY)
        line.data(stream, framed(b"1"), end=True)
        answer = await line.answer(stream)
    assert (answer.status, answer.trailers, answer.body) == (12, [], b"")


# What nobody should send.


async def test_metadata_that_grpc_would_not_send_on_is_refused_before_the_call_is_judged(
    sidecar: Sidecar, engine: ScriptedEngine
) -> None:
    async with line_to(sidecar) as line:
        stream = line.open(PAY, KEY, ("x-name", "é"))
        line.data(stream, framed(b"1"), end=True)
        answer = await line.answer(stream)
    assert answer.status == 3
    assert engine.authorized == []


async def test_a_deadline_of_11000_years_is_none(sidecar: Sidecar, rpc_tool: RpcTool) -> None:
    async with line_to(sidecar) as line:
        stream = line.open(PAY, KEY, ("grpc-timeout", "99999999H"))
        line.data(stream, framed(b"1"), end=True)
        answer = await line.answer(stream)
    assert (answer.status, answer.body) == (0, framed(b"calls: 1"))
    assert rpc_tool.received[0].left_s is None


@pytest.mark.parametrize("half", [b"\0", b"\0\0\0\0\5abc", b"\1\0\0\0\1x", b"\0\xff\xff\xff\xff"], ids=repr)
async def test_a_message_that_is_none_reaches_nobody(sidecar: Sidecar, engine: ScriptedEngine, half: bytes) -> None:
    async with line_to(sidecar) as line:
        stream = line.open(PAY, KEY)
        line.data(stream, half, end=True)
        answer = await line.answer(stream)
        assert answer.reset is not None or answer.status not in (0, 2)
    assert engine.resolved == 0


async def test_padding_which_no_grpc_sends_is_refused_and_reaches_nobody(
    sidecar: Sidecar, engine: ScriptedEngine
) -> None:
    async with line_to(sidecar) as line:
        stream = line.open(PAY, KEY)
        line.data(stream, framed(b"1"), padding=3, end=True)
        answer = await line.answer(stream)
    assert answer.reset is not None or line.goaway is not None
    assert engine.resolved == 0


async def test_an_oversize_message_is_refused_and_says_why(
    sidecar: Sidecar, rpc_agent: RpcAgent, engine: ScriptedEngine
) -> None:
    over, far_over = await rpc_agent.call(b"x" * 1_100_000), await rpc_agent.call(b"x" * 5_000_000)
    assert (over.code.name, over.reason) == ("RESOURCE_EXHAUSTED", "body_too_large")
    assert far_over.code.name == "RESOURCE_EXHAUSTED"
    assert "larger than max" in far_over.details
    assert engine.resolved == 0


async def has_room(line: Wire, stream: int) -> bool:
    return line.h2.local_flow_control_window(stream) >= 16_000


async def test_what_unpacks_to_more_than_is_read_is_not_unpacked(sidecar: Sidecar, engine: ScriptedEngine) -> None:
    bomb = gzip.compress(bytes(300_000_000))
    async with line_to(sidecar) as line:
        stream = line.open(PAY, KEY, ("grpc-encoding", "gzip"))
        for at in range(0, len(framed(bomb, 1)), 16_000):
            await until(partial(has_room, line, stream))
            line.data(stream, framed(bomb, 1)[at : at + 16_000])
        answer = await line.answer(stream)
    assert answer.status == 8
    assert engine.resolved == 0


@pytest.mark.parametrize(
    "bytes_",
    [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64],
    ids=["http1", "zeros", "frames"],
)
async def test_what_is_no_grpc_at_all_ends_its_own_connection_only(
    sidecar: Sidecar, rpc_agent: RpcAgent, bytes_: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.grpc_port)
    writer.write(bytes_)
    async with asyncio.timeout(20):
        while await reader.read(65536):
            pass
    writer.close()
    assert (await rpc_agent.call()).code.name == "OK"


async def test_a_flood_of_streams_that_say_nothing_holds_up_nobody(sidecar: Sidecar, rpc_agent: RpcAgent) -> None:
    async with line_to(sidecar) as line:
        await asyncio.sleep(0.1)  # the server's settings
        for _ in range(10):
            for _ in range(100):
                line.open(PAY, KEY)
            await line.writer.drain()
        assert (await rpc_agent.call()).code.name == "OK"
        for stream in line.streams:
            line.h2.reset_stream(stream, ErrorCodes.CANCEL)
        line.flush()
    assert (await rpc_agent.call()).code.name == "OK"


# A tool of another language.


async def calls_of(engine: ScriptedEngine, rpc_agent: RpcAgent, tool: WireTool) -> Any:
    engine.tool.url = tool.url
    return await rpc_agent.call()


async def test_a_tool_is_told_its_name_and_no_compression_and_sent_the_message_once(
    engine: ScriptedEngine, rpc_agent: RpcAgent
) -> None:
    async with WireTool(responds(framed(b"done"))).running() as tool:
        answer = await calls_of(engine, rpc_agent, tool)
    head = dict(tool.heads[0])
    assert (head[":authority"], head[":path"]) == (f"127.0.0.1:{tool.port}", PAY)
    assert "grpc-encoding" not in head
    assert tool.bodies == [framed(b"\x08\x05")]
    assert answer.messages == [b"done"]


async def test_an_answer_in_many_frames_is_one_message(engine: ScriptedEngine, rpc_agent: RpcAgent) -> None:
    pieces = [bytes([byte]) for byte in framed(b"done")]
    async with WireTool(responds(*pieces)).running() as tool:
        assert (await calls_of(engine, rpc_agent, tool)).messages == [b"done"]


def resets(code: ErrorCodes) -> Any:
    def answer(connection: H2Connection, stream: int) -> None:
        connection.reset_stream(stream, code)

    return answer


async def test_a_success_is_told_though_its_tool_sends_metadata_that_grpc_would_not(
    engine: ScriptedEngine, rpc_agent: RpcAgent
) -> None:
    tool = WireTool(responds(framed(b"done"), trailers=[("grpc-status", "0"), ("x-name", "é"), ("x-kept", "e")]))
    async with tool.running():
        engine.tool.url = tool.url
        answer = await rpc_agent.call()
    assert (answer.code, answer.messages) == (Code.OK, [b"done"])
    assert (answer.trailer("x-name"), answer.trailer("x-kept")) == (None, "e")
    assert engine.settled[0].outcome == pb.OUTCOME_SUCCEEDED


@pytest.mark.parametrize(
    "code",
    [ErrorCodes.REFUSED_STREAM, ErrorCodes.INTERNAL_ERROR, ErrorCodes.CANCEL, ErrorCodes.ENHANCE_YOUR_CALM,
     ErrorCodes.INADEQUATE_SECURITY, ErrorCodes.NO_ERROR],
    ids=lambda code: code.name,
)  # fmt: skip
async def test_a_stream_that_the_tool_resets_is_ambiguous_and_not_sent_again(
    engine: ScriptedEngine, rpc_agent: RpcAgent, code: ErrorCodes
) -> None:
    async with WireTool(resets(code)).running() as tool:
        answer = await calls_of(engine, rpc_agent, tool)
    assert (answer.code.name, answer.reason) == ("UNKNOWN", "upstream_reset")
    assert engine.settled[0].outcome == pb.OUTCOME_AMBIGUOUS
    assert len(tool.heads) == 1


@pytest.mark.parametrize(
    ("trailers", "name"),
    [([("grpc-status", "99")], "UNKNOWN"), ([("x", "y")], "UNKNOWN"), ([("grpc-status", "5")], "NOT_FOUND")],
)
async def test_a_status_is_what_grpc_makes_of_it(
    engine: ScriptedEngine, rpc_agent: RpcAgent, trailers: Any, name: str
) -> None:
    async with WireTool(responds(trailers=trailers)).running() as tool:
        assert (await calls_of(engine, rpc_agent, tool)).code.name == name
    assert (engine.settled[0].outcome == pb.OUTCOME_REJECTED) == (name == "NOT_FOUND")


async def test_a_message_of_100_mb_is_not_read(engine: ScriptedEngine, rpc_agent: RpcAgent) -> None:
    async with WireTool(responds(b"\0" + (100_000_000).to_bytes(4, "big") + bytes(1000))).running() as tool:
        answer = await calls_of(engine, rpc_agent, tool)
    assert (answer.code.name, answer.reason) == ("UNKNOWN", "upstream_invalid")
    assert engine.settled[0].outcome == pb.OUTCOME_AMBIGUOUS


async def test_an_answer_of_http_is_no_success(engine: ScriptedEngine, rpc_agent: RpcAgent) -> None:
    def answer(connection: H2Connection, stream: int) -> None:
        connection.send_headers(stream, [(":status", "200"), ("content-type", "text/html")])
        connection.send_data(stream, b"<html>", end_stream=True)

    async with WireTool(answer).running() as tool:
        assert (await calls_of(engine, rpc_agent, tool)).code.name == "UNKNOWN"
    assert engine.settled[0].outcome == pb.OUTCOME_AMBIGUOUS
