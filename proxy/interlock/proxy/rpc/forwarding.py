"""One try of a gRPC call: sends it, and reads what the tool answers."""

import asyncio
import time
from dataclasses import replace

from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.body import Body
from interlock.proxy.breaker import CallBreakers
from interlock.proxy.call import Call, Forwarded, Headers
from interlock.proxy.credential import Credential
from interlock.proxy.lease import HeldLease, NoLease
from interlock.proxy.rpc.framing import HEAD_BYTES, framed
from interlock.proxy.rpc.metadata import fields_of, handed_back, metadata_of
from interlock.proxy.rpc.status import HTTP_STATUS, Code, Ending, outcome_of, retry_after_s
from interlock.proxy.rpc.upstream import MAX_MESSAGE_BYTES, NoRoomError, Rpc, RpcRequest, RpcUpstream
from interlock.proxy.stages.sign import signed
from interlock.proxy.upstream import UpstreamError

STREAM_AFTER_S = 0.02
"""A tool that has sent one message and for so long neither another nor the end is passed on as a stream."""
MAX_UNHEARD_S = 300.0
"""So long a stream is read that no agent takes any more."""
MARGIN_S = 0.05
"""Taken off the agent's deadline, at most a tenth of what is left: time to settle, and to answer."""
CONNECTIONS_TRIED = 5


class RpcForward:
    """Sends gRPC calls."""

    def __init__(self, upstream: RpcUpstream) -> None:
        self._upstream = upstream

    async def once(
        self, call: Call, lease: HeldLease | NoLease, breakers: CallBreakers, credential: Credential | None
    ) -> Forwarded:
        """One try. Errors: UpstreamError, if there is nothing at all to tell of it."""
        request = _request(call, lease, credential)
        if request.deadline <= time.monotonic():
            return Forwarded(outcome=pb.OUTCOME_NOT_SENT, failure="deadline_exceeded", final=True)
        for _ in range(CONNECTIONS_TRIED):
            async with self._upstream.send(request) as rpc:
                try:
                    first = await rpc.read()
                except NoRoomError as full:
                    unsent = full
                    continue
                breakers.answered()
                return await _Reading(call, lease, rpc, credential).read(first)
        raise unsent


def _request(call: Call, lease: HeldLease | NoLease, credential: Credential | None) -> RpcRequest:
    """What is sent now; signed like a request of HTTP, whose target is the tool's URL with the method behind it."""
    now = time.monotonic()
    left_s = call.incoming.deadline - now
    request = signed(call, credential, int(time.time()), lease.why_not)
    return RpcRequest(
        url=call.tool.url,
        method=call.ask.path,
        fields=tuple(field for field in request.headers if field[0].lower() != "accept-encoding"),
        message=request.body,
        timeout_s=request.timeout_s,
        deadline=now + left_s - min(MARGIN_S, left_s / 10),
        why_not=request.why_not,
    )


class _Reading:
    """Reads one answer of a tool: whole if its end comes with its first message, as that of a unary call does; else
    message by message, each passed on as it comes. Withheld until the call is settled is the end: the status, without
    which no client takes a call for over.
    """

    def __init__(self, call: Call, lease: HeldLease | NoLease, rpc: Rpc, credential: Credential | None) -> None:
        self._call = call
        self._lease = lease
        self._rpc = rpc
        self._mask = credential.mask if credential is not None else None

    async def read(self, first: bytes | None) -> Forwarded:
        """Errors: UpstreamError, before anything was passed on."""
        head = Forwarded(status=HTTP_STATUS[Code.OK], headers=self._masked(handed_back(await self._rpc.fields())))
        if first is None:
            return self._ended(head, Body(0))
        following = asyncio.ensure_future(self._rpc.read())
        try:
            await asyncio.wait([following], timeout=STREAM_AFTER_S)
            if following.done() and following.result() is None:
                body = Body(MAX_MESSAGE_BYTES + HEAD_BYTES)
                body.add(framed(self._shown(first)))
                return self._ended(head, body)
            return await self._piecemeal(head, first, following)
        finally:
            following.cancel()

    async def _piecemeal(self, head: Forwarded, first: bytes, following: asyncio.Future[bytes | None]) -> Forwarded:
        agent, body = self._call.agent, Body(self._call.tool.replay_max_bytes)
        head = replace(head, passed=True, final=True)
        await agent.begin(self._call, head)
        try:
            async with self._lease.stream() as stream:
                message: bytes | None = first
                while message is not None:
                    shown = self._shown(message)
                    body.add(framed(shown))
                    await agent.pass_on(shown)
                    if agent.gone and stream.when() is None:
                        stream.reschedule(asyncio.get_running_loop().time() + MAX_UNHEARD_S)
                    message = await following
                    if message is not None:
                        following = asyncio.ensure_future(self._rpc.read())
        except UpstreamError as error:
            return _broken(head, body, error.reason)
        except TimeoutError:
            return _broken(head, body, self._lease.why_not() or "agent_gone")
        finally:
            following.cancel()
        return self._ended(head, body)

    def _ended(self, head: Forwarded, body: Body) -> Forwarded:
        ending = self._rpc.ending
        details = self._shown(ending.message.encode()).decode(errors="replace")
        told = Ending(ending.code, details, self._masked(handed_back(ending.trailers)))
        return replace(
            body.of(head),
            outcome=outcome_of(ending.code),
            status=HTTP_STATUS[ending.code],
            trailers=told.recorded(),
            retry_after_s=retry_after_s(told.trailers),
        )

    def _shown(self, message: bytes) -> bytes:
        """A message as the agent may see it: without the tool's own credential."""
        return message if self._mask is None else self._mask.whole(message)

    def _masked(self, fields: Headers) -> Headers:
        """Binary values are looked through as the bytes they are."""
        if self._mask is None:
            return fields
        shown: list[tuple[str, str]] = []
        for name, value in metadata_of(fields):
            if isinstance(value, bytes):
                shown += fields_of([(name, self._shown(value))])
            else:
                shown += self._mask.headers([(name, value)])
        return tuple(shown)


def _broken(head: Forwarded, body: Body, failure: str) -> Forwarded:
    return replace(body.of(head), outcome=pb.OUTCOME_AMBIGUOUS, failure=failure, whole=False)
