"""What the short way takes for plain, aiohttp must read alike: else there would be two truths about one request."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser
from aiohttp.streams import EMPTY_PAYLOAD
from hypothesis import given
from hypothesis import strategies as st

from interlock.proxy.listening import MAX_LINE_BYTES
from interlock.proxy.plain_requests import plain_head

HEAD = b"POST /tools/charge HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def as_aiohttp_reads(data: bytes, loop: asyncio.AbstractEventLoop) -> tuple[str, str, list[tuple[str, str]], bytes]:
    """Method, target, fields and body of what must be exactly one request."""
    connection = BaseProtocol(loop)
    parser: Any = HttpRequestParser(
        connection, loop, 2**16, max_line_size=MAX_LINE_BYTES, max_field_size=MAX_LINE_BYTES
    )
    connection._parser = parser
    [(message, payload)], upgraded, tail = parser.feed_data(data)
    assert (payload.is_eof(), upgraded, tail) == (True, False, b"")
    fields = [(name.lower(), value) for name, value in message.headers.items()]
    return message.method, message.path, fields, b"" if payload is EMPTY_PAYLOAD else payload.read_nowait()


names = st.sampled_from(["X-A", "x-b", "Content-Type", "Accept", "User-Agent", "Cookie", "X!#$%&'*+.^_`|~0", "Range"])
values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1).filter(str.strip)
methods = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE"])
targets = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#\\"), min_size=1)


@given(methods, targets, st.dictionaries(names, values), st.binary(max_size=50), st.sampled_from([" ", "", "\t", "  "]))
def test_a_plain_request_is_read_as_aiohttp_reads_it(
    loop: asyncio.AbstractEventLoop, method: str, target: str, fields: dict[str, str], body: bytes, space: str
) -> None:
    lines = [f"{method} /tools/{target} HTTP/1.1", f"Host:{space}localhost:8400{space}"]
    lines += [f"{name}:{space}{value}{space}" for name, value in fields.items()]
    data = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
    head = plain_head(data)
    assert head is not None
    ours = [(name.lower(), value) for name, value in head.headers]
    assert as_aiohttp_reads(data, loop) == (head.method, head.target, ours, data[head.body_at :])
    assert head.length == len(body)


@given(
    st.lists(
        st.sampled_from(
            [
                HEAD,
                b"\r\n",
                b"\n",
                b"\r",
                b" ",
                b":",
                b"\0",
                b"\x80",
                b"X: y",
                b"Content-Length: 1",
                b"x",
                b"GET /tools/a HTTP/1.1",
                b"\t",
                b"Host: localhost",
            ]
        )
    )
)
def test_whatever_is_taken_for_plain_is_one_request_to_aiohttp(
    loop: asyncio.AbstractEventLoop, parts: list[bytes]
) -> None:
    data = b"".join(parts)
    head = plain_head(data)
    if head is None or head.body_at + head.length != len(data):
        return
    read = as_aiohttp_reads(data, loop)
    assert read[0:2] == (head.method, head.target)
    assert read[3] == data[head.body_at :]


@pytest.mark.parametrize(
    "data",
    [
        HEAD,
        HEAD.replace(b"1.1", b"1.0") + b"\r\n",
        HEAD.replace(b"POST", b"HEAD") + b"\r\n",
        HEAD.replace(b"POST", b"post") + b"\r\n",
        HEAD.replace(b"/tools/", b"/v1/tools/") + b"\r\n",
        HEAD.replace(b"/tools/charge", b"http://localhost/tools/charge") + b"\r\n",
        HEAD.replace(b"charge", b"a\\b") + b"\r\n",
        HEAD.replace(b"charge", b"a#b") + b"\r\n",
        HEAD.replace(b"charge", b"\xc3\xa9") + b"\r\n",
        HEAD.replace(b"charge ", b"charge  ") + b"\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        HEAD + b"Content-Length: 01\r\n\r\nx",
        HEAD + b"Content-Length: +1\r\n\r\nx",
        HEAD + b"Content-Length: 1, 1\r\n\r\nx",
        HEAD + b"Content-Length: 9999999999\r\n\r\nx",
        HEAD + b"Expect: 100-continue\r\n\r\n",
        HEAD + b"Upgrade: h2c\r\n\r\n",
        HEAD + b"Connection: close\r\n\r\n",
        HEAD + b"Connection: keep-alive, X-A\r\n\r\n",
        HEAD + b"HOST: localhost\r\n\r\n",
        HEAD.replace(b"Host: localhost\r\n", b"") + b"\r\n",
        HEAD + b"X-A: 1\r\nx-a: 2\r\n\r\n",
        HEAD + b"Origin: null\r\n\r\n",
        HEAD + b"Sec-Fetch-Site: none\r\n\r\n",
        HEAD + b"X-A : 1\r\n\r\n",
        HEAD + b" X-A: 1\r\n\r\n",
        HEAD + b"X-A: 1\r\n folded\r\n\r\n",
        HEAD + b"X-A: 1\rX-B: 2\r\n\r\n",
        HEAD + b"X-A: 1\nX-B: 2\r\n\r\n",
        HEAD + b"X-A: \x00\r\n\r\n",
        HEAD + b"X-A: \xff\r\n\r\n",
        HEAD + b"X-A:\r\n\r\n",
        HEAD + b": 1\r\n\r\n",
        HEAD + b"no colon\r\n\r\n",
        HEAD + b"".join(b"X-%d: 1\r\n" % number for number in range(64)) + b"\r\n",
        HEAD + b"X-A: " + b"a" * 20_000 + b"\r\n\r\n",
        b"\r\n" + HEAD + b"\r\n",
    ],
)
def test_what_needs_a_second_look_is_not_plain(data: bytes) -> None:
    assert plain_head(data) is None
