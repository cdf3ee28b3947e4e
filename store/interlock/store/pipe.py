"""One connection to Redis on which everybody's commands travel together.

What is asked in one turn of the event loop leaves in one write, and answers come back in the order of the questions
(RESP2, pipelining), so concurrent calls share system calls instead of queueing for connections. Parsing and packing are
hiredis'. A connection on which nothing is heard for too long is closed: every question on it fails.

Where replicas have to acknowledge, each write ends with one WAIT, which holds back the answers to all that is in it.
"""

import asyncio
import collections
import math
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import hiredis

from interlock.store.addresses import Address, Kind, Node
from interlock.store.settings import RedisSettings

Argument = str | bytes | int
Command = Sequence[Argument]
_packed = cast("Callable[[Command], bytes]", hiredis.pack_command)  # its stub knows one argument only


class PipeLostError(ConnectionError):
    """The connection broke; what was asked may or may not have happened."""


class PipeTimeoutError(TimeoutError):
    """Redis did not answer in time; what was asked may or may not have happened."""


class PipeUnacknowledgedError(ConnectionError):
    """Redis did what was asked, and too few replicas have it: it may be undone by a fail-over."""


@dataclass(slots=True)
class _Question:
    """Some commands of one asker: their answers are collected until all are there. Due is none before it is written.

    The one without a future is the WAIT behind the others.
    """

    awaited: int
    replies: list[Any]
    future: asyncio.Future[list[Any]] | None
    due: float = math.inf

    def answer(self) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_result(self.replies)

    def fail(self, error: Exception) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_exception(error)


class Pipe(asyncio.Protocol):
    """An open connection. `ask` never fails at once: what goes wrong comes by the future."""

    def __init__(self, answer_within_s: float, replicas: int = 0, replicas_within_ms: int = 0) -> None:
        self._replicas = replicas
        self._wait = _packed(("WAIT", replicas, replicas_within_ms))
        self._answered: list[_Question] = []  # and not acknowledged yet
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
        if not self._questions:  # closed over an answer before this one
            return
        question = self._questions[0]
        question.replies.append(reply)
        if len(question.replies) == question.awaited:
            self._questions.popleft()
            if question.future is None:
                self._acknowledge(reply)
            elif self._replicas:
                self._answered.append(question)
            else:
                question.answer()

    def _acknowledge(self, replicas: Any) -> None:
        """What WAIT said. Where too few have it, the connection goes, too: the next one is opened once they answer."""
        answered, self._answered = self._answered, []
        if isinstance(replicas, int) and replicas >= self._replicas:
            for question in answered:
                question.answer()
            return
        for question in answered:
            question.fail(PipeUnacknowledgedError(f"{replicas} of {self._replicas} replicas have it"))
        self.close()

    def _write(self) -> None:
        """Only now does Redis' time begin: when many calls come at once, this process may take long to come to it."""
        self._writing = False
        if self._transport is not None:
            if self._replicas:
                self._outgoing.append(self._wait)
                self._questions.append(_Question(1, [], None))
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
        questions, self._questions = [*self._answered, *self._questions], collections.deque()
        self._answered = []
        for question in questions:
            question.fail(error)


async def open_pipe(settings: RedisSettings, node: Node | None = None) -> Pipe:
    """Connects to a node (by default the URL's first), authenticates and selects the database.

    What sentinels named has to be a master. Raises OSError, TimeoutError or hiredis.ReplyError.
    """
    address = settings.address
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(settings.connect_timeout_ms / 1000):
        pipe = await _connect(loop, node or address.nodes[0], settings)
        try:
            _check_greeting(await pipe.ask(_greeting(address)))
        except BaseException:
            pipe.close()
            raise
    return pipe


async def _connect(loop: asyncio.AbstractEventLoop, node: Node, settings: RedisSettings) -> Pipe:
    def protocol() -> Pipe:
        return Pipe(settings.timeout_ms / 1000, settings.wait_replicas, settings.wait_timeout_ms)

    if node.path:
        return (await loop.create_unix_connection(protocol, node.path))[1]
    secure = _tls(settings) if settings.address.tls else None
    return (await loop.create_connection(protocol, node.host, node.port, ssl=secure))[1]


def _check_greeting(replies: list[Any]) -> None:
    for reply in replies:
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        if isinstance(reply, list) and reply[0] != b"master":
            raise ConnectionError("it is no master any more")


def _greeting(address: Address) -> list[Command]:
    commands: list[Command] = []
    if address.password:
        user = [address.username] if address.username else []
        commands.append(("AUTH", *user, address.password))
    if address.database:
        commands.append(("SELECT", address.database))
    # A Redis that hangs still takes connections; one that answers is there. Sentinels may name a master of yesterday:
    # https://redis.io/docs/latest/develop/reference/sentinel-clients/ has clients ask for the role.
    return [*commands, ("ROLE",) if address.kind is Kind.SENTINELS else ("PING",)]


def _tls(settings: RedisSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.tls_ca_file)
    if settings.tls_cert_file:
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    return context
