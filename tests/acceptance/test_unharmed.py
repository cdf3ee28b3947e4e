"""What a tool answers reaches the agent byte for byte, the first time and from the record; and so does what it is sent.

Both ends are bare sockets here: nothing is decoded, followed or set right on the way to the comparison.
"""

import asyncio
import gzip
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from tests.acceptance.scene import Scene
from tests.acceptance.wire import Answer
from tests.unit.proxy.raw_tool import RawTool, read_request

DATE = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
BYTES = bytes(range(256)) * 8
LARGE = os.urandom(1 << 20) * 10
# What Interlock says of every call, and what belongs to one connection only.
ADDED = ("interlock-", "x-request-id", "idempotent-replayed", "transfer-encoding", "content-length")


@dataclass(frozen=True, slots=True)
class Sent:
    """An answer as the tool writes it: `fields` with their line ends, and what is to be made of the body."""

    status: str
    fields: str = ""
    wire: bytes = b""
    body: bytes = b""
    length: int | None = None
    method: str = "POST"
    then_leaves: bool = False

    @property
    def raw(self) -> bytes:
        length = f"Content-Length: {self.length}\r\n" if self.length is not None else ""
        return f"HTTP/1.1 {self.status}\r\n{DATE}{self.fields}{length}\r\n".encode("latin-1") + self.wire


def whole(status: str, fields: str = "", body: bytes = b"", **more: object) -> Sent:
    return Sent(status, fields, body, body, len(body), **more)  # type: ignore[arg-type]


def chunked(status: str, fields: str, *chunks: bytes) -> Sent:
    wire = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    return Sent(status, fields + "Transfer-Encoding: chunked\r\n", wire, b"".join(chunks))


COMPRESSED = gzip.compress(b"the same words over and over, " * 100, mtime=0)
MANY_FIELDS = (
    "Content-Type: application/json; charset=UTF-8\r\n"
    "Set-Cookie: a=1; Path=/\r\n"
    "set-cookie: b=2\r\n"
    'ETag: W/"x"\r\n'
    "X-Lower-And-UPPER: a,  b ,c\r\n"
    "Warning: 299 - one\r\n"
    "Link: <https://a.example/?x=1>; rel=next\r\n"
    "Warning: 299 - two\r\n"
    "X-Empty: \r\n"
    'Content-Disposition: attachment; filename="Gr\xfc\xdfe.pdf"\r\n'
    "X-Utf8: \xc3\xbc\r\n"
)

ANSWERS = {
    "JSON": whole("200 OK", "Content-Type: application/json\r\n", b'{"b": 1,  "a": 1.0, "b": 2}\n'),
    "many fields": whole("201 Created", MANY_FIELDS, b"{}"),
    "every byte": whole("200 OK", "Content-Type: application/octet-stream\r\n", BYTES),
    "no type": whole("200 OK", "", b"<b>no type</b>"),
    "empty": whole("200 OK"),
    "204": Sent("204 No Content", "X-A: b\r\n"),
    "206": whole("206 Partial Content", "Content-Range: bytes 0-3/9\r\n", b"part"),
    "301": whole("301 Moved Permanently", "Location: http://127.0.0.1:9/other?a=b#c\r\n", b"moved"),
    "303": whole("303 See Other", "Location: ../other\r\n"),
    "304": Sent("304 Not Modified", 'ETag: "7"\r\n', length=1234),
    "HEAD": Sent("200 OK", "Content-Type: text/plain\r\n", length=10_485_760, method="HEAD"),
    "HEAD of chunks": Sent("200 OK", "Transfer-Encoding: chunked\r\n", method="HEAD"),
    "chunked": chunked("200 OK", "Content-Type: text/plain\r\n", b"one", b"\r\n0\r\n\r\n", BYTES),
    "gzip": whole("200 OK", "Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n", COMPRESSED),
    "gzip in chunks": chunked("200 OK", "Content-Encoding: gzip\r\n", COMPRESSED[:20], COMPRESSED[20:]),
    "no gzip at all": whole("200 OK", "Content-Encoding: gzip\r\n", b"not gzip"),
    "until it leaves": Sent("200 OK", "Connection: close\r\n", BYTES, BYTES, then_leaves=True),
    "404": whole("404 Not Found", "Content-Type: text/html\r\n", b"<html>no</html>"),
    "409 with problem": whole("409 Conflict", "Content-Type: application/problem+json\r\n", b'{"reason": "taken"}'),
    "500": whole("500 Internal Server Error", "Content-Type: text/html\r\n", b"<html>oh</html>"),
    "529": whole("529 Its Own", "Retry-After: 120\r\n", b""),
    "10 MB": whole("200 OK", "Content-Type: application/octet-stream\r\n", LARGE),
    "10 MB in chunks": chunked("200 OK", "", *(LARGE[at : at + 70_001] for at in range(0, len(LARGE), 70_001))),
}


class Speaking:
    """A tool that answers each request with the same bytes, and keeps what it got as it came."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.sent = whole("200 OK")
        self._socket = RawTool(self._play, None)

    @property
    def url(self) -> str:
        return self._socket.url("/tool")

    async def start(self) -> None:
        await self._socket.start()

    async def stop(self) -> None:
        await self._socket.stop()

    async def _play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not self.sent.then_leaves or not self.received:
            self.received.append(await read_request(reader))
            writer.write(self.sent.raw)
            await writer.drain()


@pytest.fixture
async def speaking() -> AsyncIterator[Speaking]:
    tool = Speaking()
    await tool.start()
    yield tool
    await tool.stop()


@pytest.mark.parametrize("sent", ANSWERS.values(), ids=ANSWERS.keys())
async def test_an_answer_reaches_the_agent_unharmed(scene: Scene, speaking: Speaking, sent: Sent) -> None:
    speaking.sent = sent
    name = await scene.register(
        speaking.url, methods=[sent.method], max_retries=0, replay_max_bytes=65_536, dedup={"mode": "derived"}
    )
    first = await scene.call(name, method=sent.method)
    assert_unharmed(first, sent)
    again = await scene.call(name, method=sent.method, at=scene.second)
    if int(sent.status[:3]) < 400 and len(sent.body) <= 65_536:
        assert again.replayed
        assert_unharmed(again, sent)
        assert len(speaking.received) == 1


def assert_unharmed(answer: Answer, sent: Sent) -> None:
    assert (answer.status, answer.whole) == (int(sent.status[:3]), True)
    assert answer.body == sent.body
    assert passed_on(answer.fields) == passed_on(fields_of(DATE + sent.fields))
    if sent.length is not None:
        assert answer.header("Content-Length") == str(sent.length)


def fields_of(lines: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines.splitlines()))


def passed_on(fields: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    """The fields that are the tool's own, in their order."""
    return [(name, value) for name, value in fields if not name.lower().startswith((*ADDED, "connection"))]


async def test_the_tool_gets_what_the_agent_sent_and_nothing_of_its_credentials(
    scene: Scene, speaking: Speaking
) -> None:
    name = await scene.register(speaking.url + "?own=1", methods=["PATCH"], subpaths=True)
    mine = {
        "Content-Type": "text/x-odd; charset=latin-1",
        "User-Agent": "agent/1",
        "X-Twice": "a,  b",
        "Accept": "*/*",
        "Cookie": "session=1",
        "Prefer": "wait=3, return=minimal",
        "Interlock-Fence": "99",
        "Interlock-Run-Id": "run-1",
        "X-OnceOnly-Signature": "forged",
        "webhook-id": "forged",
        "Signature": "forged",
        "Connection": "close, X-Hop",
        "X-Hop": "1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    answer = await scene.call(name, BYTES, method="PATCH", below="/a%20b//c;d?q=%20+&q=[1]", headers=mine)
    assert answer.status == 200
    head, _, body = speaking.received[0].partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = fields_of("\r\n".join(lines))
    assert body == BYTES
    assert first == "PATCH /tool/a%20b//c;d?own=1&q=%20+&q=[1] HTTP/1.1"
    ours = ("idempotency-key", "interlock-agent", "interlock-call-id", "interlock-fence", "host", "content-length")
    assert [field for field in fields if field[0].lower() not in ours] == [
        ("Content-Type", "text/x-odd; charset=latin-1"),
        ("User-Agent", "agent/1"),
        ("X-Twice", "a,  b"),
        ("Accept", "*/*"),
        ("Prefer", "return=minimal"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ]
    assert "99" not in [value for name, value in fields if name == "Interlock-Fence"]


async def test_nothing_of_ours_in_a_tools_answer_reaches_the_agent(scene: Scene, speaking: Speaking) -> None:
    forged = (
        "Interlock-Decision: blocked\r\nInterlock-Settled: pending\r\nIdempotent-Replayed: true\r\n"
        "X-OnceOnly-Signature: 00\r\nwebhook-id: 1\r\nSignature: sig1=:AA==:\r\nX-Hop: 1\r\nConnection: X-Hop\r\n"
    )
    speaking.sent = whole("200 OK", forged + "X-Own: 1\r\n", b"{}")
    answer = await scene.call(await scene.register(speaking.url))
    assert passed_on(answer.fields) == [("Date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("X-Own", "1")]
    assert (answer.decision, answer.replayed, answer.header("Interlock-Settled")) == ("executed", False, None)


async def test_a_credential_of_the_tools_own_is_injected_and_never_shown(scene: Scene, speaking: Speaking) -> None:
    credential = {"header": "X-Api-Key", "value": "the tool's own"}
    name = await scene.register(speaking.url, upstream_credential=credential)
    answer = await scene.call(name, headers={"X-Api-Key": "the agent's"})
    assert answer.status == 200
    keys = [line for line in speaking.received[0].split(b"\r\n") if line.lower().startswith(b"x-api-key")]
    assert keys == [b"X-Api-Key: the tool's own"]
    assert "the tool's own" not in str(await scene.ask("GET", f"/v1/tools/{name}"))
