"""What stands before every route of the agent-facing listener: the right Host, no Origin, and HTTP at all."""

import asyncio

import pytest

from tests.acceptance.evidence import no_trace
from tests.acceptance.scene import Scene
from tests.acceptance.wire import Answer, Arriving
from tests.tool import Tool


def paths(tool: str) -> tuple[str, ...]:
    return (f"/tools/{tool}", "/v1/ai/run", "/v1/tools", "/v1/keys", "/", "/nowhere")


async def asked(scene: Scene, path: str, *lines: str) -> Answer:
    """A POST with the agent's key and just these lines beside."""
    whose = (f"Authorization: Bearer {scene.first.key}", f"Interlock-Agent: {scene.agent}", "Content-Length: 0")
    reader, writer = await asyncio.open_connection("127.0.0.1", scene.first.port)
    writer.write("\r\n".join((f"POST {path} HTTP/1.1", *whose, *lines, "", "")).encode())
    arriving = Arriving(reader, "POST")
    async with asyncio.timeout(10):
        await arriving.head()
        answer = await arriving.rest()
    writer.close()
    return answer


def reason(path: str, answer: Answer) -> str:
    told = answer.json
    return str(told["detail"]["error"] if path.startswith("/v1") else told["reason"])


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8400",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.example#localhost",
        "user@localhost",
        "0.0.0.0",
        "2130706433",
        "127.1",
        "::1",
        "[::]",
        "localhost:http",
        "localhost, evil.example",
        "",
    ],
)
async def test_a_host_that_is_not_ours_is_misdirected(scene: Scene, tool: Tool, host: str) -> None:
    name = await scene.register(tool.url)
    async with no_trace(scene, tool):
        for path in paths(name):
            answer = await asked(scene, path, f"Host: {host}")
            assert (answer.status, reason(path, answer)) == (421, "host_not_allowed"), path


async def test_a_request_without_a_host_is_refused(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    async with no_trace(scene, tool):
        for path in paths(name):
            assert (await asked(scene, path)).status in (400, 421), path


@pytest.mark.parametrize("host", ["localhost", "LocalHost:8400", "127.0.0.1:1", "[::1]", "localhost."])
async def test_a_host_that_is_ours_is_let_in(scene: Scene, tool: Tool, host: str) -> None:
    name = await scene.register(tool.url)
    assert (await asked(scene, f"/tools/{name}", f"Host: {host}")).status == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost:8400", "http://127.0.0.1", "null", "", "file://"]
)
async def test_whatever_comes_from_a_web_page_is_refused(scene: Scene, tool: Tool, origin: str) -> None:
    name = await scene.register(tool.url)
    async with no_trace(scene, tool):
        for path in paths(name):
            answer = await asked(scene, path, "Host: localhost", f"Origin: {origin}")
            assert (answer.status, reason(path, answer)) == (403, "origin_not_allowed"), path
            assert answer.header("Access-Control-Allow-Origin") is None


async def test_a_preflight_of_a_web_page_is_refused(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url, methods=["POST", "OPTIONS"])
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    async with no_trace(scene, tool), scene.first.client("") as page:
        for path in paths(name):
            answer = await page.options(path, headers=preflight)
            assert answer.status_code == 403
            assert not [field for field in answer.headers if field.startswith("access-control")]


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /tools/charge HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /tools/charge HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1, 2\r\n\r\n",
        b"POST /tools/charge HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"POST /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /tools/charge HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        bytes(range(256)),
    ],
    ids=lambda sent: ascii(sent[:24]),
)
async def test_what_is_no_http_is_answered_and_hung_up_on(scene: Scene, tool: Tool, sent: bytes) -> None:
    logged = scene.first.log.stat().st_size
    async with no_trace(scene, tool):
        reader, writer = await asyncio.open_connection("127.0.0.1", scene.first.port)
        writer.write(sent)
        writer.write_eof()
        async with asyncio.timeout(10):
            got = await reader.read()
        assert got == b"" or got.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
        writer.close()
    assert b"Traceback" not in scene.first.log.read_bytes()[logged:]
