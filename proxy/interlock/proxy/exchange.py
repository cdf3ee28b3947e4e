"""Authorize, Renew and Settle over one bidirectional stream: what is asked in one tick leaves in one message.

A unary RPC costs more than all else a call needs; on the stream its share of a message is small. A stream that breaks
is opened again and the questions still open are asked again, unchanged: each of them may be repeated.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeAlias

import grpc
from grpc import aio

from interlock.governance.errors import InterlockError, UnavailableError
from interlock.governance.status import DETAILS_KEY, error_in, error_of
from interlock.governance.tasks import end
from interlock.governance.v1 import governance_pb2 as pb
from interlock.governance.v1.governance_pb2_grpc import GovernanceStub
from interlock.proxy.settings import MiB

Stream: TypeAlias = "aio.StreamStreamCall[pb.ExchangeRequest, pb.ExchangeResponse]"

MAX_BATCH_BYTES = 1 * MiB
"""A message closes after this many bytes: gRPC servers refuse, by default, one of over 4 MiB."""


STREAM_ENDED = (aio.AioRpcError, aio.UsageError, asyncio.InvalidStateError)
"""What grpc.aio raises from a stream that is over."""

# INTERNAL ("Internal error from Core") and UNKNOWN are what gRPC makes of a line that breaks while it is written to.
GRPC_GAVE_UP = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)


class LostAnswerError(UnavailableError):
    """No answer came from the engine: whether it took the question is not known.

    `waited_out` says that there was time enough for one; else the connection broke.
    """

    def __init__(self, *, waited_out: bool = False) -> None:
        super().__init__("governance_unavailable", "the governance engine cannot be reached")
        self.waited_out = waited_out


class _Open:
    """A question without an answer yet. `broken` counts the streams that broke under it."""

    __slots__ = ("answer", "broken", "question")

    def __init__(self, question: pb.Question, answer: "asyncio.Future[pb.Reply]") -> None:
        self.question = question
        self.answer = answer
        self.broken = 0


class Exchange:
    """The questions of all calls of this process on one stream, which is opened with the first question.

    Whoever asks in one turn of the loop, or while a message is being written, is in one message: the writer wakes in
    the next turn, and takes all there is.
    """

    def __init__(self, channel: aio.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        self._stub = GovernanceStub(channel)
        self._metadata = metadata
        self._open: dict[int, _Open] = {}
        self._unsent: list[_Open] = []
        self._asked = asyncio.Event()
        self._last_id = 0
        self._running: asyncio.Task[None] | None = None

    async def authorize(self, request: pb.AuthorizeRequest, within_s: float) -> pb.AuthorizeResponse:
        return (await self._ask(pb.Question(authorize=request), within_s)).authorize

    async def renew(self, request: pb.RenewRequest, within_s: float) -> pb.RenewResponse:
        return (await self._ask(pb.Question(renew=request), within_s)).renew

    async def settle(self, request: pb.SettleRequest, within_s: float) -> pb.SettleResponse:
        return (await self._ask(pb.Question(settle=request), within_s)).settle

    async def close(self) -> None:
        await end(self._running)
        self._give_up(list(self._open.values()))

    async def _ask(self, question: pb.Question, within_s: float) -> pb.Reply:
        self._last_id += 1
        question.id = self._last_id
        asked = _Open(question, asyncio.get_running_loop().create_future())
        self._open[question.id] = asked
        self._enqueue([asked])
        try:
            async with asyncio.timeout(within_s):
                reply = await asked.answer
        except TimeoutError as late:
            raise LostAnswerError(waited_out=True) from late
        finally:
            self._open.pop(question.id, None)
        if reply.WhichOneof("tell") == "failure":
            raise error_in(reply.failure)
        return reply

    def _enqueue(self, questions: list[_Open]) -> None:
        self._unsent += questions
        self._asked.set()
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run(), name="engine-exchange")

    async def _run(self) -> None:
        """Keeps a stream while there are questions; ends when a stream broke and nothing is open."""
        while self._open:
            stream: Stream = self._stub.Exchange(metadata=self._metadata)
            refusal = await _first_to_end(self._write(stream), self._read(stream))
            stream.cancel()
            if refusal is not None:
                self._give_up(list(self._open.values()), refusal)
            elif stream.done() and await stream.code() is grpc.StatusCode.OK:
                self._ask_again(broken=0)
            else:
                self._ask_again(broken=1)

    def _ask_again(self, *, broken: int) -> None:
        """After a stream. One that an engine ended that drains does not count: another engine is asked.

        A question under which two broke is given up: its caller decides.
        """
        for asked in self._open.values():
            asked.broken += broken
        self._give_up([asked for asked in self._open.values() if asked.broken > 1])
        self._unsent = [asked for asked in self._open.values() if not asked.answer.done()]
        self._asked.set()

    def _give_up(self, questions: list[_Open], error: InterlockError | None = None) -> None:
        for asked in questions:
            self._open.pop(asked.question.id, None)
            if not asked.answer.done():
                asked.answer.set_exception(error or LostAnswerError())

    async def _write(self, stream: Stream) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            for batch in _batches(self._take_unsent()):
                await stream.write(batch)

    def _take_unsent(self) -> list[pb.Question]:
        unsent, self._unsent = self._unsent, []
        return [asked.question for asked in unsent if not asked.answer.done()]

    async def _read(self, stream: Stream) -> None:
        async for response in stream:
            for reply in response.replies:
                asked = self._open.get(reply.id)
                if asked is not None and not asked.answer.done():
                    asked.answer.set_result(reply)


def _batches(questions: list[pb.Question]) -> list[pb.ExchangeRequest]:
    """The questions in order, in as few messages as `MAX_BATCH_BYTES` allows."""
    batches: list[pb.ExchangeRequest] = []
    room = 0
    for question in questions:
        size = question.ByteSize()
        if size > room:
            batches.append(pb.ExchangeRequest())
            room = MAX_BATCH_BYTES
        batches[-1].questions.append(question)
        room -= size
    return batches


async def _first_to_end(*sides: Awaitable[None]) -> InterlockError | None:
    """Runs both sides of a stream until one ends. Returns the engine's word if it was the engine that refused it."""
    tasks = [asyncio.ensure_future(side) for side in sides]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for ended in ends:
        if isinstance(ended, aio.AioRpcError) and is_engines_word(ended):
            return error_of(ended)
        if isinstance(ended, Exception) and not isinstance(ended, STREAM_ENDED):
            raise ended
    return None


def is_engines_word(failed: aio.AioRpcError) -> bool:
    """Whether the engine itself speaks. Else gRPC does: nobody was reached in time, and what was done is not known."""
    told = any(key == DETAILS_KEY for key, _ in failed.trailing_metadata() or ())
    return told or failed.code() not in GRPC_GAVE_UP
