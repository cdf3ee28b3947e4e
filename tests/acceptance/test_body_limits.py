"""A body over `max_body_bytes` is refused while it is being read, not after."""

import asyncio
import json

import pytest

from tests.acceptance.evidence import no_trace
from tests.acceptance.scene import JSON, Scene
from tests.acceptance.wire import Answer, Arriving, send
from tests.tool import Tool

KiB = 1 << 10
MiB = 1 << 20
DEFAULT_LIMIT = 1 * MiB
CHUNK = 64 * KiB
READ_AT_MOST = 128 * MiB
"""What a socket's buffers on both sides may swallow beside what is read: the kernel's (`tcp_rmem` and `tcp_wmem`, which
together may be some 40 MiB), not the sidecar's."""


def paths(tool: str) -> tuple[str, ...]:
    """Every kind of route that takes a body."""
    return (f"/tools/{tool}", "/v1/ai/run", "/v1/tools", "/v1/policies/someone")


def too_large(path: str, answer: Answer) -> bool:
    reason = answer.json["detail"]["error"] if path.startswith("/v1") else answer.json["reason"]
    return (answer.status, reason) == (413, "body_too_large")


async def streamed(port: int, head: str, megabytes: int) -> tuple[Answer, int]:
    """The answer to a chunked request that goes on until there is one, and how much of it got out."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    arriving, out = Arriving(reader, "POST"), 0
    answered = asyncio.create_task(arriving.head())
    try:
        writer.write(head.encode())
        while out < megabytes * MiB and not answered.done():
            writer.write(b"%x\r\n" % CHUNK + b" " * CHUNK + b"\r\n")
            await writer.drain()
            out += CHUNK
    except ConnectionError:
        pass  # refused and hung up
    async with asyncio.timeout(10):
        await answered
        answer = await arriving.rest()
    writer.close()
    return answer, out


async def test_a_body_that_says_it_is_too_large_is_refused_unread(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    async with no_trace(scene, tool):
        for path in paths(name):
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {scene.first.key}\r\n"
            head += f"Interlock-Agent: {scene.agent}\r\nContent-Length: {50 * MiB}\r\n\r\n"
            reader, writer = await asyncio.open_connection("127.0.0.1", scene.first.port)
            writer.write(head.encode())
            arriving = Arriving(reader, "POST")
            async with asyncio.timeout(5):
                await arriving.head()
                assert too_large(path, await arriving.rest()), path
            writer.close()


async def test_a_body_that_turns_out_too_large_is_refused_while_it_is_read(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    async with no_trace(scene, tool):
        for path in paths(name):
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {scene.first.key}\r\n"
            head += f"Interlock-Agent: {scene.agent}\r\nTransfer-Encoding: chunked\r\n\r\n"
            answer, out = await streamed(scene.first.port, head, 500)
            assert too_large(path, answer), path
            assert out < READ_AT_MOST


@pytest.mark.parametrize(("size", "status"), [(DEFAULT_LIMIT, 200), (DEFAULT_LIMIT + 1, 413)])
async def test_the_limit_is_one_mebibyte_to_the_byte(scene: Scene, tool: Tool, size: int, status: int) -> None:
    name = await scene.register(tool.url)
    answer = await scene.call(name, b"x" * size)
    assert answer.status == status
    assert [len(received.body) for received in tool.received] == [size] * (status == 200)
    run = json.dumps({"agent_id": scene.agent, "tool": name, "args": {"text": ""}}).encode()
    run = run.replace(b'""', b'"' + b"x" * (size - len(run)) + b'"')
    assert len(run) == size
    whose = (("Authorization", f"Bearer {scene.first.key}"), *JSON.items())
    assert (await send(scene.first.port, "POST", "/v1/ai/run", whose, run)).status == status


async def test_a_body_whose_framing_breaks_is_refused(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    async with no_trace(scene, tool):
        for path in paths(name):
            whose = f"Authorization: Bearer {scene.first.key}\r\nInterlock-Agent: {scene.agent}"
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{whose}\r\nTransfer-Encoding: chunked\r\n\r\n"
            reader, writer = await asyncio.open_connection("127.0.0.1", scene.first.port)
            writer.write(head.encode() + b"2\r\n{}\r\nno size\r\n")
            arriving = Arriving(reader, "POST")
            async with asyncio.timeout(5):
                assert (await arriving.head()).status == 400, path
            writer.close()


async def test_an_agent_that_leaves_in_the_middle_of_its_request_leaves_nothing(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    async with no_trace(scene, tool):
        reader, writer = await asyncio.open_connection("127.0.0.1", scene.first.port)
        whose = f"Authorization: Bearer {scene.first.key}\r\nInterlock-Agent: {scene.agent}"
        head = f"POST /tools/{name} HTTP/1.1\r\nHost: localhost\r\n{whose}\r\nContent-Length: 100\r\n\r\n"
        writer.write(head.encode() + b"only a part")
        writer.write_eof()
        async with asyncio.timeout(5):
            await reader.read()
        writer.close()
