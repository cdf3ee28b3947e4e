"""The outcome table: what a tool does to a call decides what the agent gets, what the next such call gets, and what
it costs. Each row with a tool that may be tried again and with one that must not.
"""

import asyncio
import hashlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from tests.acceptance.scene import Scene
from tests.acceptance.wire import Answer
from tests.tool import Tool
from tests.unit.proxy.raw_tool import RawTool, read_request

SPEND = 0.25
LARGE = b"0123456789abcdef" * 655_360  # 10 MB
CHARGED_AFTER = {"SUCCEEDED": (1, SPEND), "REJECTED": (1, 0), "NOT_SENT": (0, 0), "AMBIGUOUS": (1, SPEND)}

Then = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def nothing_more(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Keeps the connection, and says nothing until the other side leaves."""
    await reader.read()


async def hangs_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def resets(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table. The tool says `says`, and then goes on with the next request or does what `then` says.

    The agent gets `status` with `body` (its own words, or the reason of a problem), or, if it is `torn`, only the head
    and what there is of the body.
    """

    outcome: str
    status: int
    says: bytes = b""
    then: Then | None = None
    body: bytes = b""
    problem: str = ""
    torn: bool = False
    method: str = "POST"
    timeout_ms: int = 15_000
    kept: bool = True


def said(status: str, body: bytes = b"", *fields: str) -> bytes:
    length = (f"Content-Length: {len(body)}",)
    return "\r\n".join((f"HTTP/1.1 {status}", *length, *fields, "", "")).encode() + body


def refused(status: str, *fields: str) -> Row:
    return Row("REJECTED", int(status[:3]), said(status, b'{"error": 1}', *fields), body=b'{"error": 1}')


def failed(status: str, *fields: str) -> Row:
    return Row("AMBIGUOUS", int(status[:3]), said(status, b"<html>oh</html>", *fields), body=b"<html>oh</html>")


def timed_out(says: bytes, *, torn: bool = False) -> Row:
    row = Row("AMBIGUOUS", 504, says, nothing_more, problem="upstream_timeout", timeout_ms=500)
    return row if not torn else Row("AMBIGUOUS", 200, says, nothing_more, b"half", torn=True, timeout_ms=500)


def broken(says: bytes, then: Then, *, torn: bool = False) -> Row:
    row = Row("AMBIGUOUS", 502, says, then, problem="upstream_reset")
    return row if not torn else Row("AMBIGUOUS", 200, says, then, b"half", torn=True)


HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf"
HALF_OF_MUCH = b"HTTP/1.1 200 OK\r\nContent-Length: 80000\r\n\r\nhalf"
HALF_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"
HALF_UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nhalf"
GZIPPED = bytes.fromhex("1f8b08000000000002ffabae0500436cc7a602000000")

ROWS = {
    # The tool was reached, and nothing is known of what it did.
    "time-out before the first byte": timed_out(b""),
    "time-out in the head": timed_out(b"HTTP/1.1 200 OK\r\nContent-"),
    "time-out in the body": timed_out(HALF),
    "time-out in a large body": timed_out(HALF_OF_MUCH, torn=True),
    "time-out between chunks": timed_out(HALF_CHUNKED, torn=True),
    "reset before the first byte": broken(b"", resets),
    "hung up before the first byte": broken(b"", hangs_up),
    "hung up in the head": broken(b"HTTP/1.1 200 OK\r\nContent-", hangs_up),
    "reset in the body": broken(HALF, resets),
    "hung up in the body": broken(HALF, hangs_up),
    "reset in a large body": broken(HALF_OF_MUCH, resets, torn=True),
    "hung up in a large body": broken(HALF_OF_MUCH, hangs_up, torn=True),
    "reset between chunks": broken(HALF_CHUNKED, resets, torn=True),
    "hung up between chunks": broken(HALF_CHUNKED, hangs_up, torn=True),
    "reset in a body without length": broken(HALF_UNTIL_CLOSE, resets, torn=True),
    "no HTTP": Row("AMBIGUOUS", 502, b"220 mail.example ESMTP\r\n", hangs_up, problem="upstream_invalid"),
    "500": failed("500 Internal Server Error"),
    "503 with Retry-After": failed("503 Service Unavailable", "Retry-After: 7"),
    "408": failed("408 Request Timeout"),
    # It refused.
    "400": refused("400 Bad Request"),
    "404": refused("404 Not Found"),
    "422": refused("422 Unprocessable Content"),
    "429 with Retry-After": refused("429 Too Many Requests", "Retry-After: 7"),
    # It did it.
    "200": Row("SUCCEEDED", 200, said("200 OK", b"{}", "Content-Type: application/json"), body=b"{}"),
    "204": Row("SUCCEEDED", 204, b"HTTP/1.1 204 No Content\r\n\r\n"),
    "301": Row("SUCCEEDED", 301, said("301 Moved Permanently", b"away", "Location: /other?a=b"), body=b"away"),
    "304": Row("SUCCEEDED", 304, b'HTTP/1.1 304 Not Modified\r\nETag: "7"\r\nContent-Length: 999\r\n\r\n'),
    "HEAD": Row("SUCCEEDED", 200, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", method="HEAD"),
    "chunked": Row("SUCCEEDED", 200, HALF_CHUNKED + b"5;x=y\r\n\r\n\x00\xff!\r\n0\r\n\r\n", body=b"half\r\n\x00\xff!"),
    "without length": Row("SUCCEEDED", 200, HALF_UNTIL_CLOSE, hangs_up, body=b"half"),
    "gzip": Row("SUCCEEDED", 200, said("200 OK", GZIPPED, "Content-Encoding: gzip"), body=GZIPPED),
    "10 MB": Row("SUCCEEDED", 200, said("200 OK", LARGE), body=LARGE, kept=False),
}


class Scripted:
    """A tool on a bare socket that does the same to every request, and keeps what it got."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.row = Row("", 0)
        self._socket = RawTool(self._play, None)

    @property
    def url(self) -> str:
        return self._socket.url("/tool")

    @property
    def keys(self) -> set[bytes]:
        """The Idempotency-Keys it was sent."""
        lines = [line for request in self.received for line in request.split(b"\r\n")]
        return {line for line in lines if line.lower().startswith(b"idempotency-key:")}

    async def start(self) -> None:
        await self._socket.start()

    async def stop(self) -> None:
        await self._socket.stop()

    async def _play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            self.received.append(await read_request(reader))
            writer.write(self.row.says)
            await writer.drain()
            if self.row.then is not None:
                await self.row.then(reader, writer)
                return


@pytest.fixture
async def scripted() -> AsyncIterator[Scripted]:
    tool = Scripted()
    await tool.start()
    yield tool
    await tool.stop()


@pytest.mark.parametrize("declared", ["retry", "hold"])
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
async def test_a_row_of_the_outcome_table(scene: Scene, scripted: Scripted, row: Row, declared: str) -> None:
    scripted.row = row
    name = await scene.register(
        scripted.url,
        methods=[row.method],
        on_ambiguous=declared,
        max_retries=0,
        timeout_ms=row.timeout_ms,
        dedup={"mode": "derived"},
    )

    async def call() -> Answer:
        body = b"" if row.method == "HEAD" else b"order 17"
        return await scene.call(name, body, method=row.method, headers={"Interlock-Spend-Usd": str(SPEND)})

    first = await call()
    assert_told(first, row, declared)
    assert (first.decision, first.replayed) == ("executed", False)
    assert await scene.charged() == CHARGED_AFTER[row.outcome]
    assert [event["verdict"] for event in await scene.events("settlement")] == [row.outcome]

    second = await call()
    if row.outcome == "SUCCEEDED":
        assert (second.decision, second.replayed) == ("dedup", True)
        assert_replayed(second, row)
        assert (len(scripted.received), await scene.charged()) == (1, (1, SPEND))
    elif row.outcome == "AMBIGUOUS" and declared == "hold":
        assert (second.status, second.decision) == (409, "unknown")
        assert (second.json["reason"], second.json["retryable"]) == ("outcome_unknown", False)
        assert (len(scripted.received), await scene.charged()) == (1, (1, SPEND))
    else:
        assert_told(second, row, declared)
        spent = SPEND if row.outcome == "AMBIGUOUS" else 0
        assert (len(scripted.received), await scene.charged()) == (2, (2, spent))
    assert len(scripted.keys) == 1


def assert_told(answer: Answer, row: Row, declared: str = "retry") -> None:
    """The agent got the tool's own answer, or a problem in its place, or can tell that the answer broke off."""
    assert (answer.status, answer.whole) == (row.status, not row.torn)
    if row.problem:
        assert (answer.json["reason"], answer.header("Content-Type")) == (row.problem, "application/problem+json")
        assert answer.json["retryable"] is (declared == "retry" and row.problem != "upstream_invalid")
    else:
        assert answer.body == row.body
        assert answer.header("Content-Type") != "application/problem+json"


def assert_replayed(answer: Answer, row: Row) -> None:
    if row.kept:
        assert_told(answer, row)
        return
    assert (answer.status, answer.json["reason"], answer.json["retryable"]) == (409, "answer_not_kept", False)
    assert answer.json["original"] == {
        "status": row.status,
        "size": len(row.body),
        "sha256": hashlib.sha256(row.body).hexdigest(),
    }


@pytest.mark.parametrize("declared", ["retry", "hold"])
async def test_a_call_that_could_not_be_sent_costs_nothing_and_may_be_made_again(
    scene: Scene, tool: Tool, declared: str
) -> None:
    await tool.stop()
    name = await scene.register(tool.url, on_ambiguous=declared, max_retries=0)
    refused = await scene.call(name, b"order 17", headers={"Interlock-Spend-Usd": str(SPEND)})
    assert (refused.status, refused.decision, refused.json["reason"]) == (502, "error", "upstream_unreachable")
    assert await scene.charged() == CHARGED_AFTER["NOT_SENT"]
    assert [event["verdict"] for event in await scene.events("settlement")] == ["NOT_SENT"]
    await tool.start()
    answer = await scene.call(name, b"order 17", headers={"Interlock-Spend-Usd": str(SPEND)})
    assert (answer.status, answer.decision) == (200, "executed")
    assert (len(tool.received), await scene.charged()) == (1, (1, SPEND))


RUN_ERRORS = {
    "time-out before the first byte": "upstream_timeout",
    "reset between chunks": "upstream_reset",
    "500": "tool_error",
    "404": "tool_error",
    "429 with Retry-After": "tool_error",
    "204": "result_not_json",
    "301": "tool_error",
    "gzip": "result_not_json",
    "10 MB": "result_too_large",
}


@pytest.mark.parametrize("declared", ["retry", "hold"])
@pytest.mark.parametrize("row", RUN_ERRORS)
async def test_a_row_of_the_outcome_table_through_a_run(
    scene: Scene, scripted: Scripted, row: str, declared: str
) -> None:
    scripted.row = ROWS[row]
    name = await scene.register(scripted.url, on_ambiguous=declared, max_retries=0, timeout_ms=ROWS[row].timeout_ms)
    outcome = ROWS[row].outcome
    first = await scene.run(name, {"order": 17}, spend_usd=SPEND)
    assert (first.status, first.decision) == (200, "executed")
    assert (first.json["ok"], first.json["allowed"], first.json["policy_reason"]) == (False, True, "tool_error")
    assert first.json["result"]["error"] == RUN_ERRORS[row]
    assert await scene.charged() == CHARGED_AFTER[outcome]
    second = await scene.run(name, {"order": 17}, spend_usd=SPEND)
    executed = 1 if outcome == "SUCCEEDED" or (outcome, declared) == ("AMBIGUOUS", "hold") else 2
    assert len(scripted.received) == executed
    if outcome == "AMBIGUOUS" and declared == "hold":
        assert (second.json["decision"], second.json["policy_reason"]) == ("blocked", "outcome_unknown")
    assert (await scene.charged())[1] == CHARGED_AFTER[outcome][1]


@pytest.mark.parametrize("retries", [0, 2])
async def test_a_call_that_fails_at_its_tool_is_counted_once_as_an_error_with_its_reason(
    scene: Scene, tool: Tool, retries: int
) -> None:
    name = await scene.register(tool.url, max_retries=retries)
    await tool.stop()
    answer = await scene.call(name, {"order": 1})
    assert (answer.status, json.loads(answer.body)["reason"]) == (502, "upstream_unreachable")
    labels = f'agent="",reason="{{}}",tool="{name}",verdict="{{}}"'
    series = [labels.format("ok", "EXECUTE"), labels.format("upstream_unreachable", "error")]
    assert [await scene.counted(f"interlock_decisions_total{{{each}}}") for each in series] == [1, 1]
