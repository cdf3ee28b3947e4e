"""Connections to tools: which are used again, which are closed, and that none carries a request twice."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from interlock.proxy import upstream as upstream_module
from interlock.proxy.destinations import Destinations
from interlock.proxy.upstream import Upstream
from tests.unit.proxy.raw_tool import answering, read_request, self_signed
from tests.unit.proxy.upstream_calls import OK, failure, fetch, request_to


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("GET", OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"),
        ("GET", OK + b"x"),
        ("HEAD", OK),  # no body may follow
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\nx"),
        ("GET", OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")),
        ("GET", OK.replace(b"1.1", b"1.0")),
        (
            "GET",
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
    ],
)
async def test_a_connection_whose_next_answer_could_be_another_is_not_used_again(
    upstream: Upstream, tools: Any, method: str, answer: bytes
) -> None:
    """What a tool sends beyond an answer must never be taken for the answer to another call."""
    tool = await tools(answering(answer))
    for _ in range(2):
        status, _, body = await fetch(upstream, request_to(tool.url(), method=method))
        assert (status, body) in [(200, b"ok"), (200, b""), (204, b"")]
    assert tool.connections == 2


async def test_what_comes_on_an_idle_connection_is_not_the_next_answer(upstream: Upstream, tools: Any) -> None:
    told = asyncio.Event()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await told.wait()
        writer.write(OK.replace(b"ok", b"no"))
        await reader.read()

    tool = await tools(play)
    assert (await fetch(upstream, request_to(tool.url())))[2] == b"ok"
    told.set()
    await asyncio.wait_for(tool.left.wait(), 5)
    assert (await fetch(upstream, request_to(tool.url())))[2] == b"ok"
    assert tool.connections == 2


async def test_calls_at_one_time_have_connections_of_their_own_which_later_ones_share(
    upstream: Upstream, tools: Any
) -> None:
    tool = await tools(answering(OK))
    for _ in range(3):
        answers = await asyncio.gather(*(fetch(upstream, request_to(tool.url())) for _ in range(8)))
        assert [body for _, _, body in answers] == [b"ok"] * 8
    assert tool.connections == 8


async def test_a_connection_nobody_uses_is_closed(
    upstream: Upstream, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interlock.proxy.upstream.KEEP_ALIVE_S", 0.05)
    tool = await tools(answering(OK))
    await fetch(upstream, request_to(tool.url()))
    await asyncio.wait_for(tool.left.wait(), 5)


async def test_an_answer_after_one_to_head_is_read_with_its_body(upstream: Upstream, tools: Any) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            request = await read_request(reader)
            writer.write(OK[:-2] if request.startswith(b"HEAD") else OK)

    tool = await tools(play)
    assert (await fetch(upstream, request_to(tool.url(), method="HEAD")))[2] == b""
    assert (await fetch(upstream, request_to(tool.url())))[2] == b"ok"
    assert tool.connections == 1


async def test_a_tool_with_a_certificate_of_the_systems_authorities_is_reached_by_tls(
    tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = self_signed(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
    upstream_module._tls.cache_clear()
    upstream = Upstream(Destinations(allow_loopback=True))
    await upstream.start()
    try:
        tool = await tools(answering(OK), context)
        url = tool.url().replace("http:", "https:")
        for _ in range(2):
            assert (await fetch(upstream, request_to(url)))[2] == b"ok"
        assert tool.connections == 1
        wrong_name = await failure(upstream, request_to(url.replace("127.0.0.1", "localhost")))
        assert wrong_name == ("upstream_unreachable", False)
    finally:
        upstream_module._tls.cache_clear()
        await upstream.close()


# At most once


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
async def test_a_request_is_never_sent_again_when_a_kept_connection_breaks(
    upstream: Upstream, tools: Any, method: str
) -> None:
    received: list[bytes] = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await read_request(reader))
        writer.write(OK)
        received.append(await read_request(reader))  # and hangs up on this one, unanswered

    tool = await tools(play)
    assert (await fetch(upstream, request_to(tool.url("/1"), method=method)))[0] == 200
    assert await failure(upstream, request_to(tool.url("/2"), method=method)) == ("upstream_reset", True)
    assert tool.connections == 1
    assert [request.split()[1] for request in received] == [b"/1", b"/2"]


async def test_a_cancelled_caller_closes_its_connection(upstream: Upstream, tools: Any) -> None:
    arrived = asyncio.Event()

    async def play(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        arrived.set()
        await reader.read()

    tool = await tools(play)
    call = asyncio.create_task(fetch(upstream, request_to(tool.url())))
    await arrived.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(tool.left.wait(), 5)


async def test_leaving_in_the_middle_of_an_answer_closes_its_connection(upstream: Upstream, tools: Any) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await reader.read()

    tool = await tools(play)
    async with upstream.send(request_to(tool.url())) as answer:
        assert await anext(answer.chunks()) == b"half"
    await asyncio.wait_for(tool.left.wait(), 5)
