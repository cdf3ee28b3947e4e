"""The agent's end of an RPC."""

import asyncio
import weakref
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from grpc import aio

from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.call import Call, Forwarded, Headers
from interlock.proxy.problems import Problem, error_fields, problem_of_call, problem_of_failure, standing_fields
from interlock.proxy.rpc.framing import messages_in
from interlock.proxy.rpc.metadata import metadata_of
from interlock.proxy.rpc.status import Code, Ending, ending_in, ending_of

Context = aio.ServicerContext[bytes, bytes]


class RpcAgent:
    """The agent behind one RPC. One that takes nothing for `stall_s` is left: nothing more is written."""

    takes_pieces = True

    def __init__(self, context: Context, stall_s: float) -> None:
        self._context = context
        self._stall_s = stall_s
        self.begun = False
        self.gone = False
        self._stuck: asyncio.Future[None] | None = None
        # Not by a reference of the context's to us: a connection counts as open until all its contexts are gone.
        this = weakref.ref(self)
        context.add_done_callback(lambda _: _left(this))  # type: ignore[arg-type] # its stub asks for a class of its own

    async def begin(self, call: Call, head: Forwarded) -> None:  # noqa: ARG002 - the port's; an HTTP head needs it
        await self._begin(head.headers)

    async def pass_on(self, piece: bytes) -> None:
        await self._send(self._context.write(piece))

    async def finish(self, call: Call) -> None:
        """The rest of the answer, or all of it, now that the call is over."""
        head, messages, ending = _answer_to(call)
        if not self.begun and (head or messages):
            await self._begin(head)
        for message in messages:
            await self.pass_on(message)
        if self._stuck is not None:
            # gRPC keeps it in memory until it is taken or the agent hangs up: as long, the call counts as under way.
            await asyncio.wait([self._stuck])
            ending = ending_of(problem_of_failure("agent_gone"), call.verdict.call_id)
        self._end(ending, standing_fields(call))

    def fail(self, problem: Problem) -> None:
        """The end of a request that never became a call."""
        self._end(ending_of(problem), error_fields())

    async def _begin(self, head: Headers) -> None:
        self.begun = True
        await self._send(self._context.send_initial_metadata(metadata_of(head)))

    def _end(self, ending: Ending, fields: Headers) -> None:
        """It leaves when the handler returns."""
        self._context.set_code(ending.code)
        self._context.set_details(ending.message)
        self._context.set_trailing_metadata(metadata_of((*ending.trailers, *fields)))

    async def _send(self, writing: Coroutine[Any, Any, None]) -> None:
        """Writes, unless the agent has left or takes nothing: that is no reason to stop its call.

        In a task of its own, since gRPC cancels whoever writes to an agent that has left.
        """
        if self.gone:
            writing.close()
            return
        sending = asyncio.ensure_future(writing)
        await asyncio.wait([sending], timeout=self._stall_s)
        if not sending.done():
            self.gone, self._stuck = True, sending
            sending.add_done_callback(_seen)
        elif sending.cancelled() or sending.exception() is not None:
            self.gone = True


def _left(agent: weakref.ref[RpcAgent]) -> None:
    if (still_there := agent()) is not None:
        still_there.gone = True


def _seen(stuck: asyncio.Future[None]) -> None:
    """That it failed is no news."""
    if not stuck.cancelled():
        stuck.exception()


def _answer_to(call: Call) -> tuple[Headers, Sequence[bytes], Ending]:
    """Initial metadata, messages and ending for a call: what has not left to the agent yet."""
    forwarded, verdict = call.forwarded, call.verdict
    if call.executed and forwarded.answered:
        messages = () if forwarded.passed else [*messages_in(forwarded.body)]
        return forwarded.headers, messages, _ending_in(forwarded.trailers)
    if verdict.verdict == pb.VERDICT_REPLAY and verdict.answer.kept:
        answer = verdict.answer
        return _headers(answer.headers), [*messages_in(answer.body)], _ending_in(_headers(answer.trailers))
    may_have_acted = forwarded.outcome == pb.OUTCOME_AMBIGUOUS
    return (), (), ending_of(problem_of_call(call), verdict.call_id, may_have_acted=may_have_acted)


def _ending_in(trailers: Headers) -> Ending:
    return ending_in(trailers) or Ending(Code.UNKNOWN, "the tool's status is not known")


def _headers(fields: Iterable[pb.Header]) -> Headers:
    return tuple((field.name, field.value) for field in fields)
