import asyncio
import contextlib
import gzip
import socket
from pathlib import Path
from typing import Any

import pytest

from interlock.proxy.upstream import Upstream, UpstreamError
from tests.unit.proxy.raw_tool import answering, answering_once, read_request, self_signed
from tests.unit.proxy.upstream_calls import OK, failure, fetch, request_to

# What is sent


async def test_a_refused_connection_is_told_from_a_name_that_leads_nowhere(upstream: Upstream, tools: Any) -> None:
    tool = await tools(answering(OK))
    gone = tool.url()
    await tool.stop()
    seen = {}
    for url in (gone, "http://no-such-host.invalid/"):
        with pytest.raises(UpstreamError) as failed:
            await fetch(upstream, request_to(url))
        seen[url] = (failed.value.reason, failed.value.sent, failed.value.connecting)
    assert [*seen.values()] == [("upstream_unreachable", False, True), ("upstream_unreachable", False, False)]


async def test_a_call_stopped_while_it_connects_leaves_no_byte(upstream: Upstream, tools: Any) -> None:
    """A lease may run out while the connection is made, so it is looked at again when that stands."""
    received: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        received.append(await reader.read())

    tool = await tools(listen)
    reason, sent = await failure(upstream, request_to(tool.url(), body=b"{}", why_not=lambda: "lease_lost"))
    assert (reason, sent) == ("lease_lost", False)
    await tool.left.wait()
    assert (tool.connections, received) == (1, [b""])


async def test_a_request_is_sent_exactly_as_given(upstream: Upstream, tools: Any) -> None:
    received: list[bytes] = []
    tool = await tools(answering(OK, received))
    headers = [
        ("X-Tag", "a"),
        ("content-TYPE", "application/json"),
        ("X-Tag", "b"),
        ("X-Name", "\u00fc"),
    ]
    target = "/a%2Fb/../%7e//c;d?q=%20+&q=[1]&x={}|\"'"
    await fetch(upstream, request_to(tool.url(target), headers=headers, body=b'{"a": 1}'))
    assert received == [
        b"POST /a%2Fb/../%7e//c;d?q=%20+&q=[1]&x={}|\"' HTTP/1.1\r\n"
        + f"Host: 127.0.0.1:{tool.port}\r\n".encode()
        + b"X-Tag: a\r\ncontent-TYPE: application/json\r\nX-Tag: b\r\n"
        + "X-Name: \u00fc\r\n".encode()
        + b'Content-Length: 8\r\n\r\n{"a": 1}'
    ]


@pytest.mark.parametrize(("method", "length"), [("GET", b""), ("HEAD", b""), ("POST", b"Content-Length: 0\r\n")])
async def test_no_header_is_added_to_a_request_without_a_body(
    upstream: Upstream, tools: Any, method: str, length: bytes
) -> None:
    received: list[bytes] = []
    tool = await tools(answering(b"HTTP/1.1 204 No Content\r\n\r\n", received))
    await fetch(upstream, request_to(tool.url(), method=method))
    assert received == [f"{method} / HTTP/1.1\r\nHost: 127.0.0.1:{tool.port}\r\n".encode() + length + b"\r\n"]


async def test_a_large_request_body_arrives_whole(upstream: Upstream, tools: Any) -> None:
    received: list[bytes] = []
    tool = await tools(answering(OK, received))
    body = bytes(range(256)) * 20_000
    await fetch(upstream, request_to(tool.url(), body=body))
    assert received[0].endswith(b"\r\n\r\n" + body)


async def test_connections_are_kept_and_cookies_are_not(upstream: Upstream, tools: Any) -> None:
    received: list[bytes] = []
    tool = await tools(answering(OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=1; Path=/\r\n\r\n"), received))
    for _ in range(3):
        await fetch(upstream, request_to(tool.url().replace("127.0.0.1", "localhost")))
    assert tool.connections == 1
    assert b"cookie" not in b"".join(received).lower()


# What comes back


async def test_an_answer_comes_back_as_the_tool_gave_it(upstream: Upstream, tools: Any) -> None:
    """Each byte of a field is a character, whatever charset the tool had in mind."""
    head = b"HTTP/1.1 418 Short\r\nSet-Cookie: a=1\r\nx-Lower: \xc3\xbc\r\nSet-Cookie: b=2\r\nX-Latin: \xfc\r\n"
    tool = await tools(answering(head + b"Content-Length: 3\r\n\r\n\x00\xff!"))
    assert await fetch(upstream, request_to(tool.url())) == (
        418,
        [
            ("Set-Cookie", "a=1"),
            ("x-Lower", "\u00c3\u00bc"),
            ("Set-Cookie", "b=2"),
            ("X-Latin", "\u00fc"),
            ("Content-Length", "3"),
        ],
        b"\x00\xff!",
    )


@pytest.mark.parametrize(
    ("method", "head", "content_length"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", 1234),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", None),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: x\r\n\r\n", 99),
        ("GET", b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n", 0),
        ("GET", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 0),
    ],
)
async def test_an_answer_without_a_body_ends_at_its_head(
    upstream: Upstream, tools: Any, method: str, head: bytes, content_length: int | None
) -> None:
    tool = await tools(answering(head))
    for _ in range(2):
        async with upstream.send(request_to(tool.url(), method=method)) as answer:
            assert f" {answer.status} ".encode() in head
            assert answer.content_length == content_length
            assert [chunk async for chunk in answer.chunks()] == []
    assert tool.connections == 1


async def test_a_chunked_answer_comes_without_its_framing(upstream: Upstream, tools: Any) -> None:
    tool = await tools(
        answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    )
    for _ in range(2):
        async with upstream.send(request_to(tool.url())) as answer:
            assert answer.content_length is None
            assert b"".join([chunk async for chunk in answer.chunks()]) == b"abcde"
    assert tool.connections == 1


async def test_an_answer_that_ends_with_its_connection_is_whole(upstream: Upstream, tools: Any) -> None:
    tool = await tools(answering_once(b"HTTP/1.0 200 OK\r\nX: y\r\n\r\nall of it"))
    assert (await fetch(upstream, request_to(tool.url())))[2] == b"all of it"


async def test_a_compressed_answer_is_not_touched(upstream: Upstream, tools: Any) -> None:
    packed = gzip.compress(b"hello" * 100)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n".encode()
    tool = await tools(answering(head + packed))
    _, headers, body = await fetch(upstream, request_to(tool.url()))
    assert body == packed
    assert ("Content-Encoding", "gzip") in headers


async def test_ten_megabytes_come_whole_and_the_agents_own_pace_is_no_time_out(upstream: Upstream, tools: Any) -> None:
    body = bytes(range(250)) * 40_000
    tool = await tools(answering(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body))
    async with upstream.send(request_to(tool.url(), timeout_s=0.2)) as answer:
        chunks = answer.chunks()
        first = await anext(chunks)
        await asyncio.sleep(0.5)  # longer than the time-out: it is the passing of time that must not matter
        assert first + b"".join([chunk async for chunk in chunks]) == body


async def test_events_are_passed_on_as_they_are_sent(upstream: Upstream, tools: Any) -> None:
    heard = asyncio.Queue[None]()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            writer.write(b"9\r\ndata: %d\n\n\r\n" % number)
            await heard.get()  # the next is sent only when this one is heard
        writer.write(b"0\r\n\r\n")

    tool = await tools(play)
    events = []
    async with upstream.send(request_to(tool.url())) as answer:
        async for chunk in answer.chunks():
            events.append(chunk)
            heard.put_nowait(None)
    assert events == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n"]


async def test_an_answer_given_before_the_request_is_read_counts(upstream: Upstream, tools: Any) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        while await reader.read(65_536):
            pass

    tool = await tools(play)
    assert (await fetch(upstream, request_to(tool.url(), body=bytes(8_000_000))))[0] == 413
    await asyncio.wait_for(tool.left.wait(), 5)


# What fails before anything is sent


async def test_a_refused_connection_is_not_sent(upstream: Upstream) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        assert await failure(upstream, request_to(url)) == ("upstream_unreachable", False)


async def test_a_name_that_does_not_resolve_is_not_sent(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert await failure(upstream, request_to("http://tool.example/")) == ("upstream_unreachable", False)


async def test_a_failed_tls_handshake_is_not_sent(upstream: Upstream, tools: Any) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 This is no TLS\r\n\r\n")

    tool = await tools(play)
    request = request_to(tool.url().replace("http:", "https:"))
    assert await failure(upstream, request) == ("upstream_unreachable", False)


async def test_a_certificate_nobody_vouches_for_is_not_sent(upstream: Upstream, tools: Any, tmp_path: Path) -> None:
    received: list[bytes] = []
    tool = await tools(answering(OK, received), self_signed(tmp_path))
    request = request_to(tool.url().replace("http:", "https:"))
    assert await failure(upstream, request) == ("upstream_unreachable", False)
    assert received == []


async def test_a_connection_that_takes_too_long_is_not_sent(upstream: Upstream) -> None:
    with contextlib.ExitStack() as opened:
        full = opened.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):  # nobody accepts: once its backlog is full, Linux leaves further connections unanswered
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        request = request_to(f"http://127.0.0.1:{full.getsockname()[1]}/", timeout_s=0.2)
        assert await failure(upstream, request) == ("upstream_unreachable", False)


@pytest.mark.parametrize("header", [("X-A", "1\r\nX-B: 2"), ("X-A\r\nX-B", "1"), ("X-A", "\x00")])
async def test_a_header_that_breaks_out_of_its_line_is_not_sent(
    upstream: Upstream, tools: Any, header: tuple[str, str]
) -> None:
    received: list[bytes] = []
    tool = await tools(answering(OK, received))
    assert await failure(upstream, request_to(tool.url(), headers=[header])) == ("upstream_invalid", False)
    assert received == []


@pytest.mark.parametrize("url", ["http://169.254.169.254/", "http://2130706433/", "ftp://tool.example/", "http://a b/"])
async def test_a_url_that_is_refused_is_not_sent(upstream: Upstream, url: str) -> None:
    assert await failure(upstream, request_to(url)) == ("destination_refused", False)


async def test_a_name_is_judged_by_the_address_it_has_when_connecting(
    upstream: Upstream, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = await tools(answering(OK))

    def resolve_to(*addresses: str) -> None:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, tool.port)) for address in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    resolve_to("169.254.169.254", "127.0.0.1")
    assert (await fetch(upstream, request_to(f"http://both.example:{tool.port}/")))[0] == 200
    resolve_to("169.254.169.254")
    assert await failure(upstream, request_to(f"http://rebound.example:{tool.port}/")) == ("destination_refused", False)


# What fails after something was sent


async def test_no_head_in_time_is_a_time_out(upstream: Upstream, tools: Any) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n")  # and no more of it
        await reader.read()

    tool = await tools(play)
    assert await failure(upstream, request_to(tool.url(), timeout_s=0.1)) == ("upstream_timeout", True)
    await asyncio.wait_for(tool.left.wait(), 5)


async def test_a_pause_in_the_body_is_a_time_out(upstream: Upstream, tools: Any) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await reader.read()

    tool = await tools(play)
    async with upstream.send(request_to(tool.url(), timeout_s=0.1)) as answer:
        chunks = answer.chunks()
        assert await anext(chunks) == b"half"
        with pytest.raises(UpstreamError) as failed:
            await anext(chunks)
    assert (failed.value.reason, failed.value.sent) == ("upstream_timeout", True)


async def test_a_steady_answer_may_take_longer_than_the_time_out(upstream: Upstream, tools: Any) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):
            await asyncio.sleep(0.1)  # shorter than the time-out, and together longer: there is no event to await
            writer.write(b".")

    tool = await tools(play)
    assert (await fetch(upstream, request_to(tool.url(), timeout_s=0.4)))[2] == b"........"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nConte",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ],
)
async def test_an_answer_that_breaks_off_is_a_reset(upstream: Upstream, tools: Any, answer: bytes) -> None:
    tool = await tools(answering_once(answer))
    assert await failure(upstream, request_to(tool.url(), body=b"x")) == ("upstream_reset", True)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\n\r\nends with its connection, but not so",
    ],
)
async def test_a_connection_that_is_reset_is_a_reset(upstream: Upstream, tools: Any, answer: bytes) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()
        linger_never = b"\x01\x00\x00\x00" + bytes(4)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_never)
        writer.transport.abort()

    tool = await tools(play)
    assert await failure(upstream, request_to(tool.url())) == ("upstream_reset", True)


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"HTTP/9.9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\rInterlock-Decision: dedup\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 2_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
        b"HTTP/1.1 099 Early\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 600 Odd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\n0\n\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"a" * 400_000,
        b"HTTP/1.1 103 Early\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 103 Early\r\n\r\n" * 4_000,
        b"HTTP/1.1 110 Odd\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_an_answer_that_is_not_http_is_refused(upstream: Upstream, tools: Any, answer: bytes) -> None:
    tool = await tools(answering_once(answer))
    assert await failure(upstream, request_to(tool.url())) == ("upstream_invalid", True)


@pytest.mark.parametrize("news", [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged", b""])
async def test_a_connection_with_news_that_nobody_has_read_is_not_used_again(upstream: Upstream, news: bytes) -> None:
    """An end, or an answer that nobody asked for, may have come while the loop had other things to do."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        request = request_to(f"http://127.0.0.1:{listener.getsockname()[1]}/", body=b"{}")

        async def served(answer: bytes) -> tuple[socket.socket, bytes]:
            fetching = asyncio.create_task(fetch(upstream, request))
            line, _ = await asyncio.to_thread(listener.accept)
            await asyncio.to_thread(line.recv, 65536)
            line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
            return line, (await fetching)[2]

        listener.settimeout(5)
        first, body = await served(b"first")
        assert body == b"first"
        if news:
            first.sendall(news)
        else:
            first.close()
        second, body = await served(b"second")
        assert body == b"second"
        first.close()
        second.close()
