"""The path of a call: intercept → identify → authorize → sign → forward → settle."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import structlog

from interlock.governance.errors import InterlockError, UnavailableError
from interlock.governance.tasks import end
from interlock.governance.v1 import governance_pb2 as pb
from interlock.governance.values import replace
from interlock.proxy.abandoning import Abandoning
from interlock.proxy.call import Call, CallTrace
from interlock.proxy.credential import Credentials
from interlock.proxy.engine import EngineClient
from interlock.proxy.large_bodies import LargeBodies
from interlock.proxy.metrics import Metrics
from interlock.proxy.outage import Outage
from interlock.proxy.rpc.upstream import RpcUpstream
from interlock.proxy.spool import Spool
from interlock.proxy.stages.authorize import Authorize
from interlock.proxy.stages.forward import Forward
from interlock.proxy.stages.identify import Identify, Tools
from interlock.proxy.stages.intercept import intercept
from interlock.proxy.stages.settle import Settle
from interlock.proxy.stages.sign import sign
from interlock.proxy.upstream import Upstream

log = structlog.get_logger()

_OUTCOMES = {number: name.removeprefix("OUTCOME_").lower() for name, number in pb.Outcome.items()}

Stage = Callable[[Call], Awaitable[Call]]
"""Takes a call one step further. Raises InterlockError where it ends in an error, before anything was sent."""


class Traces(Protocol):
    """The traces of a sidecar. What is behind them, `telemetry.py`, is imported only where traces are on."""

    def begin(self, call: Call) -> CallTrace:
        """A call that has just come in."""

    async def close(self) -> None:
        """Sends what is left, for a moment."""


def stages_of(
    engine: EngineClient,
    tools: Tools,
    upstream: Upstream,
    rpc_upstream: RpcUpstream,
    credentials: Credentials,
    spool: Spool,
    abandoning: Abandoning,
    outage: Outage,
    bodies: LargeBodies,
    metrics: Metrics,
) -> Sequence[Stage]:
    """The stages in their order."""
    return (
        intercept,
        Identify(tools, outage.words),
        Authorize(engine, tools, spool, abandoning, outage, bodies, metrics),
        sign,  # drafts only: Forward signs each try as it leaves
        Forward(upstream, rpc_upstream, credentials, engine, outage, metrics),
        Settle(engine, spool, outage, metrics),
    )


class Pipeline:
    """Takes calls through the stages, each in a task of its own: an agent that hangs up does not stop its call."""

    def __init__(
        self,
        stages: Sequence[Stage],
        metrics: Metrics,
        ended: Callable[[Call], None] | None = None,
        traces: Traces | None = None,
        failed: Callable[[Call, InterlockError], Awaitable[None]] | None = None,
    ) -> None:
        """`ended` is told of each call when it is over, well or not, and `failed` before that of one that a stage ended
        in an error.
        """
        self._failed = failed
        self._traces = traces
        self._stages = stages
        self._ended = ended
        self._metrics = metrics
        self._running: set[asyncio.Task[Any]] = set()
        self._draining = False

    @property
    def running(self) -> set[asyncio.Task[Any]]:
        return set(self._running)

    async def carry(self, call: Call) -> Call:
        """The call after its last stage. Being cancelled, as when the agent hangs up, leaves it running.

        Errors: `draining`, and those of the stages.
        """
        self._check_open()
        task = asyncio.create_task(self._through_stages(call))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def carry_on(self, call: Call) -> Call:
        """The same within the task of the caller, whom nobody but `close` cancels."""
        self._check_open()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker
        self._running.add(task)
        try:
            return await self._through_stages(call)
        finally:
            self._running.discard(task)

    def _check_open(self) -> None:
        if self._draining:
            raise UnavailableError("draining", "this sidecar is shutting down")

    def drain(self) -> None:
        """No call is begun from now on, also none whose body was still coming."""
        self._draining = True

    async def close(self) -> None:
        """Abandons what still runs: their leases run out, which is how the engine learns of it."""
        await end(*self._running)

    async def _through_stages(self, call: Call) -> Call:
        if self._traces is not None:
            call = replace(call, trace=self._traces.begin(call))
        try:
            for stage in self._stages:
                call = await (stage(call) if call.trace is None else call.trace.through(stage, call))
                if not call.goes_on:
                    break
        except InterlockError as error:
            self._metrics.decided("error", error.reason, call.tool.name)
            _tell_finished(call, error.reason, failed=True)
            if self._failed is not None:
                await self._failed(call, error)
            raise
        finally:
            if self._ended is not None:
                self._ended(call)
        upstream_s = call.forwarded.upstream_s
        self._metrics.finished(call.tool.name, time.monotonic() - call.began - upstream_s, upstream_s)
        if call.forwarded.failure:
            self._metrics.decided("error", call.forwarded.failure, call.tool.name)
        _tell_finished(call, call.reason)
        return call


def _tell_finished(call: Call, reason: str, *, failed: bool = False) -> None:
    """The one line that a call writes, and the end of its trace."""
    if call.trace is not None:
        call.trace.ended(call, reason, failed=failed)
    total_s = time.monotonic() - call.began
    log.info(
        "call.finished",
        request_id=call.incoming.request_id,
        tool=call.ask.tool,
        agent_id=call.verdict.agent_id or call.ask.agent_id,
        call_id=call.verdict.call_id,
        run_id=call.ask.run_id,
        trace_id=call.trace.trace_id if call.trace is not None else "",
        decision=call.decision.value,
        reason=reason,
        outcome=_OUTCOMES[call.forwarded.outcome],
        status=call.forwarded.status,
        settled=call.settled,
        degraded=call.degraded,
        upstream_ms=round(call.forwarded.upstream_s * 1000, 3),
        added_ms=round((total_s - call.forwarded.upstream_s) * 1000, 3),
    )
