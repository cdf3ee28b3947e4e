"""One connection to Redis on which everybody's commands travel together.

What is asked in one turn of the event loop leaves in one write, and answers come back in the order of the questions
(RESP2, pipelining), so concurrent calls share system calls instead of queueing for connections. Parsing and packing are
hiredis'. A connection on which nothing is heard for too long is closed: every question on it fails.
"""

import asyncio
import collections
import math
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import hiredis
from redis.asyncio.connection import parse_url

from interlock.store.settings import RedisSettings

Argument = str | bytes | int
Command = Sequence[Argument]
_packed = cast("Callable[[Command], bytes]", hiredis.pack_command)  # its stub knows one argument only


class PipeLostError(ConnectionError):
    """The connection broke; what was asked may or may not have happened."""


class PipeTimeoutError(TimeoutError):
    """Redis did not answer in time; what was asked may or may not have happened."""


@dataclass(slots=True)
class _Question:
    """Some commands of one asker: their answers are collected until all are there. Due is none before it is written."""

    awaited: int
    replies: list[Any]
    future: asyncio.Future[list[Any]]
    due: float = math.inf


class Pipe(asyncio.Protocol):
    """An open connection. `ask` never fails at once: what goes wrong comes by the future."""

    def __init__(self, answer_within_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._answer_within_s = answer_within_s
        self._reader = hiredis.Reader(replyError=hiredis.ReplyError)
        self._questions: collections.deque[_Question] = collections.deque()
        self._outgoing: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._writing = False
        self._heard_at = 0.0

    @property
    def open(self) -> bool:
        return self._transport is not None

    def ask(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """One reply a command, in order; an error reply stands in its place as a hiredis.ReplyError."""
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        if self._transport is None:
            future.set_exception(PipeLostError("closed"))
            return future
        self._outgoing += [_packed(tuple(command)) for command in commands]  # a list would be one argument
        self._questions.append(_Question(len(commands), [], future))
        if not self._writing:
            self._writing = True
            self._loop.call_soon(self._write)
        return future

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._fail(PipeLostError("closed"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                self._take(reply)
        except hiredis.ProtocolError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(PipeLostError(str(exc) if exc else "closed by Redis"))

    def _take(self, reply: Any) -> None:
        question = self._questions[0]
        question.replies.append(reply)
        if len(question.replies) == question.awaited:
            self._questions.popleft()
            if not question.future.done():
                question.future.set_result(question.replies)

    def _write(self) -> None:
        """Only now does Redis' time begin: when many calls come at once, this process may take long to come to it."""
        self._writing = False
        if self._transport is not None:
            self._transport.write(b"".join(self._outgoing))
            due = self._loop.time() + self._answer_within_s
            for question in reversed(self._questions):
                if question.due != math.inf:
                    break
                question.due = due
            if self._watch is None:
                self._watch = self._loop.call_at(due, self._look)
        self._outgoing.clear()

    def _look(self) -> None:
        """Looks whether Redis hangs: the oldest question is overdue and nothing has been heard for as long.

        There is one timer for all, since the oldest is always due first. As long as answers come, large ones of others
        before one's own are no reason to give all of them up. asyncio has read what there is before it runs a timer.
        """
        self._watch = None
        if not self._questions or self._questions[0].due == math.inf:
            return
        due = max(self._questions[0].due, self._heard_at + self._answer_within_s)
        if due > self._loop.time():
            self._watch = self._loop.call_at(due, self._look)
            return
        if self._transport is not None:
            self._transport.abort()
        self._fail(PipeTimeoutError("no answer in time"))

    def _fail(self, error: Exception) -> None:
        self._transport = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        questions, self._questions = self._questions, collections.deque()
        for question in questions:
            if not question.future.done():
                question.future.set_exception(error)


async def open_pipe(settings: RedisSettings) -> Pipe:
    """Connects, authenticates and selects the database. Raises OSError, TimeoutError or hiredis.ReplyError."""
    if settings.url is None:
        raise ValueError("redis.url is not set")
    place = cast("dict[str, Any]", parse_url(settings.url.get_secret_value()))
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(settings.connect_timeout_ms / 1000):
        pipe = await _connect(loop, place, settings)
        try:
            _check_greeting(await pipe.ask(_greeting(place)))
        except BaseException:
            pipe.close()
            raise
    return pipe


async def _connect(loop: asyncio.AbstractEventLoop, place: dict[str, Any], settings: RedisSettings) -> Pipe:
    def protocol() -> Pipe:
        return Pipe(settings.timeout_ms / 1000)

    if "path" in place:
        return (await loop.create_unix_connection(protocol, place["path"]))[1]
    host, port = place.get("host", "localhost"), int(place.get("port", 6379))
    secure = _tls(settings) if _is_tls(settings) else None
    return (await loop.create_connection(protocol, host, port, ssl=secure))[1]


def _check_greeting(replies: list[Any]) -> None:
    for reply in replies:
        if isinstance(reply, hiredis.ReplyError):
            raise reply


def _greeting(place: dict[str, Any]) -> list[Command]:
    commands: list[Command] = []
    if place.get("password"):
        user = [place["username"]] if place.get("username") else []
        commands.append(("AUTH", *user, place["password"]))
    if place.get("db"):
        commands.append(("SELECT", int(place["db"])))
    # A Redis that hangs still takes connections; one that answers is there.
    return [*commands, ("PING",)]


def _is_tls(settings: RedisSettings) -> bool:
    return settings.url is not None and settings.url.get_secret_value().startswith("rediss://")


def _tls(settings: RedisSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.tls_ca_file)
    if settings.tls_cert_file:
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    return context
