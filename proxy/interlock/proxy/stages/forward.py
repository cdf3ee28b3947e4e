"""Forward: sends the call to its tool, under its lease, and passes the answer on as far as it may go unsettled."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import count

import structlog

from interlock.governance.timers import Timers
from interlock.governance.tool_urls import is_grpc
from interlock.governance.v1 import governance_pb2 as pb
from interlock.governance.values import dataclass, replace
from interlock.proxy.body import Body
from interlock.proxy.breaker import Breakers, CallBreakers
from interlock.proxy.call import Call, CallTrace, Forwarded
from interlock.proxy.credential import Credential, Credentials
from interlock.proxy.engine import EngineClient
from interlock.proxy.headers import returnable
from interlock.proxy.lease import HeldLease, NoLease
from interlock.proxy.masking import is_readable
from interlock.proxy.metrics import Metrics
from interlock.proxy.oauth import NoTokenError
from interlock.proxy.outage import Outage
from interlock.proxy.outcomes import (
    NEVER_RETRIED,
    backoff_s,
    call_failure,
    has_no_body,
    outcome_of,
    retry_after_s,
    settled_outcome,
)
from interlock.proxy.rpc.forwarding import RpcForward
from interlock.proxy.rpc.upstream import RpcUpstream
from interlock.proxy.settings import MiB
from interlock.proxy.stages.sign import signed
from interlock.proxy.upstream import Upstream, UpstreamAnswer, UpstreamError

log = structlog.get_logger()

MAX_WHOLE_BYTES = 1 * MiB
"""So much of an answer is collected for an agent that only takes the whole."""
MAX_UNHEARD_S = 300.0
"""So long an answer is read that nobody is given piece by piece: without an end, it would be read for ever."""
SAY_WHEN = frozenset({429, 503})
"""Statuses whose Retry-After says when to try again."""


@dataclass(frozen=True, slots=True)
class _Try:
    """What one try goes out under."""

    lease: HeldLease | NoLease
    breakers: CallBreakers
    number: int
    """From 1."""
    credential: Credential | None
    renewed: bool = False
    """Whether the credential is already the newer one."""


class Forward:
    """Tries until there is an answer to pass on, or no more tries."""

    def __init__(
        self,
        upstream: Upstream,
        rpc_upstream: RpcUpstream,
        credentials: Credentials,
        engine: EngineClient,
        outage: Outage,
        metrics: Metrics,
    ) -> None:
        self._upstream = upstream
        self._rpcs = RpcForward(rpc_upstream)
        self._credentials = credentials
        self._engine = engine
        self._outage = outage
        self._metrics = metrics
        self._breakers = Breakers()
        self._timers = Timers()

    async def __call__(self, call: Call) -> Call:
        with self._metrics.in_flight(call.tool.name):
            if call.degraded:
                await self._outage.begin(call)
            async with self._lease_of(call) as lease:
                try:
                    forwarded = await self._until_done(call, lease)
                except Exception:
                    # A bug of ours must not leave the call unsettled: what it did is then not known.
                    log.exception("call.failed", call_id=call.verdict.call_id)
                    forwarded = Forwarded(outcome=pb.OUTCOME_AMBIGUOUS, failure="internal", passed=call.agent.begun)
        return replace(call, forwarded=forwarded)

    def _lease_of(self, call: Call) -> HeldLease | NoLease:
        if call.degraded:
            return NoLease()
        return HeldLease(self._engine, self._timers, call.verdict.permit, call.lease, call.ask.credential)

    async def _until_done(self, call: Call, lease: HeldLease | NoLease) -> Forwarded:
        breakers = self._breakers.of(call.verdict.permit, call.tool)
        earlier, upstream_s = "", 0.0
        for tries in count(1):
            tried = await self._try(call, lease, breakers, tries)
            upstream_s += tried.upstream_s
            wait_s = None if tried.final else backoff_s(tried, call.tool, tries)
            if wait_s is None and tries == 1:
                return tried
            if wait_s is None:
                break
            if tried.outcome == pb.OUTCOME_AMBIGUOUS:
                earlier = tried.failure or "upstream_error"
            await asyncio.sleep(wait_s)
        outcome = settled_outcome(tried.outcome, earlier_ambiguous=bool(earlier))
        return replace(tried, outcome=outcome, failure=call_failure(tried, earlier), upstream_s=upstream_s)

    async def _try(self, call: Call, lease: HeldLease | NoLease, breakers: CallBreakers, number: int) -> Forwarded:
        """One try, unless something holds it back: its credential, a breaker, or the lease when the first byte is to
        leave.
        """
        try:
            credential = await self._credentials.of(call.tool)
        except NoTokenError as missing:
            return _held_back(missing.reason, missing.retry_after_s)
        if not breakers.allows(time.monotonic()):
            wait_s = breakers.retry_after_s(time.monotonic())
            return _held_back("upstream_circuit_open", wait_s)
        if why_not := lease.why_not():
            return _held_back(why_not)
        return await self._send(call, _Try(lease, breakers, number, credential))

    async def _send(self, call: Call, this: _Try) -> Forwarded:
        """Sends the call; where the tool does not accept its token, once more with a newer one: a 401 did nothing."""
        tried, newer = await self._send_once(call, this)
        if newer is None:
            return tried
        again, _ = await self._send_once(call, replace(this, credential=newer, renewed=True))
        return replace(again, upstream_s=tried.upstream_s + again.upstream_s)

    def _send_once(self, call: Call, this: _Try) -> Awaitable[tuple[Forwarded, Credential | None]]:
        """What became of it, and a newer credential if the tool does not accept this one any more."""
        return self._told(call, this) if call.trace is None else self._traced(call, call.trace, this)

    async def _traced(self, call: Call, trace: CallTrace, this: _Try) -> tuple[Forwarded, Credential | None]:
        """The same under a trace of this try."""
        with trace.sending(call, this.number) as sending:
            tried, newer = await self._told(replace(call, draft=sending.on(call.draft)), this)
            sending.ended(tried)
        return tried, newer

    async def _told(self, call: Call, this: _Try) -> tuple[Forwarded, Credential | None]:
        """The same; a failure is told as what became of it, and to the breakers."""
        began = time.monotonic()
        try:
            tried, newer = await self._exchange(call, this)
        except UpstreamError as error:
            if not error.sent and (why_not := this.lease.why_not()):
                return _held_back(why_not), None
            if error.sent:
                this.breakers.connected()
            if error.reason not in NEVER_RETRIED:
                this.breakers.failed(time.monotonic(), connecting=error.connecting)
            tried = Forwarded(outcome=outcome_of(0, sent=error.sent, whole=False), failure=error.reason)
            if not error.sent:
                return tried, None
            newer = None
        return replace(tried, upstream_s=time.monotonic() - began), newer

    async def _exchange(self, call: Call, this: _Try) -> tuple[Forwarded, Credential | None]:
        """One request and its answer, which is left unread where a newer credential will do better."""
        if is_grpc(call.tool.url):
            tried = await self._rpcs.once(call, this.lease, this.breakers, this.credential)
            done = this.renewed or tried.passed
            return tried, None if done else await self._newer(call, this.credential, tried.status)
        request = signed(call, this.credential, int(time.time()), this.lease.why_not)
        async with self._upstream.send(request) as answer:
            this.breakers.answered()
            newer = None if this.renewed else await self._newer(call, this.credential, answer.status)
            reading = _Reading(call, this.lease, answer, this.credential)
            return (reading.head, newer) if newer is not None else (await reading.read(this.number), None)

    async def _newer(self, call: Call, credential: Credential | None, status: int) -> Credential | None:
        """A newer credential, if this status says that this one is not accepted any more."""
        if credential is None or credential.token is None:
            return None
        if status == HTTPStatus.UNAUTHORIZED:
            return await self._credentials.instead_of(credential, call.tool)
        credential.token.accepted = True
        return None


def _held_back(why: str, retry_after_s: float | None = None) -> Forwarded:
    return Forwarded(outcome=pb.OUTCOME_NOT_SENT, failure=why, retry_after_s=retry_after_s, final=True)


class _Reading:
    """Reads one answer of a tool: whole if it is short, so that a broken one can be told as an error; else piece by
    piece, each passed on as it comes. Withheld until the call is settled is the whole, or the last piece, or, where
    nobody knows which is the last, the end.
    """

    def __init__(
        self, call: Call, lease: HeldLease | NoLease, answer: UpstreamAnswer, credential: Credential | None
    ) -> None:
        self._call = call
        self._lease = lease
        self._answer = answer
        self._mask = mask = credential.mask if credential is not None else None
        headers = tuple(returnable(answer.headers))
        if mask is not None:
            headers = mask.headers(headers)
        self.head = Forwarded(
            outcome=outcome_of(answer.status, sent=True, whole=True),
            status=answer.status,
            headers=headers,
            retry_after_s=retry_after_s(headers, datetime.now(UTC)) if answer.status in SAY_WHEN else None,
        )

    async def read(self, tries: int) -> Forwarded:
        """An answer that leads to another try is left unread, which closes its connection."""
        if backoff_s(self.head, self._call.tool, tries) is not None:
            return self.head
        if self._is_unreadable():
            return replace(self.head, status=0, failure="answer_unreadable", final=True)
        return await (self._whole() if self._is_short() else self._piecemeal())

    def _is_unreadable(self) -> bool:
        """Whether the tool's own credential may stand in the answer where it cannot be masked."""
        bare = has_no_body(self._call.draft.method, self._answer.status)
        return self._mask is not None and not bare and not is_readable(self.head.headers)

    def _pieces(self) -> AsyncIterator[bytes]:
        pieces = self._answer.chunks()
        return pieces if self._mask is None else self._mask.pieces(pieces)

    def _is_short(self) -> bool:
        if not self._call.agent.takes_pieces or has_no_body(self._call.draft.method, self._answer.status):
            return True
        length = self._answer.content_length
        return length is not None and length <= self._call.tool.replay_max_bytes

    async def _whole(self) -> Forwarded:
        most = MAX_WHOLE_BYTES if not self._call.agent.takes_pieces else 0
        body = Body(max(most, self._call.tool.replay_max_bytes))
        if (at_hand := self._answer.at_hand()) is not None:
            body.add(at_hand if self._mask is None else self._mask.whole(at_hand))
            return body.of(self.head)
        try:
            async with asyncio.timeout(MAX_UNHEARD_S):
                async for piece in self._pieces():
                    body.add(piece)
        except UpstreamError as error:
            return self._broken(body, error.reason)
        except TimeoutError:
            return self._broken(body, "upstream_timeout")
        return body.of(self.head)

    async def _piecemeal(self) -> Forwarded:
        agent, length = self._call.agent, self._answer.content_length
        body, last = Body(self._call.tool.replay_max_bytes), b""
        self.head = replace(self.head, passed=True, final=True)
        await agent.begin(self._call, self.head)
        try:
            async with self._lease.stream() as stream:
                async for piece in self._pieces():
                    body.add(piece)
                    if length is not None and body.size >= length:
                        last = piece
                    else:
                        await agent.pass_on(piece)
                    if agent.gone and stream.when() is None:
                        stream.reschedule(asyncio.get_running_loop().time() + MAX_UNHEARD_S)
        except UpstreamError as error:
            return self._broken(body, error.reason)
        except TimeoutError:
            return self._broken(body, self._lease.why_not() or "agent_gone")
        return replace(body.of(self.head), last=last)

    def _broken(self, body: Body, failure: str) -> Forwarded:
        outcome = outcome_of(self.head.status, sent=True, whole=False)
        return replace(body.of(self.head), outcome=outcome, failure=failure, whole=False)
