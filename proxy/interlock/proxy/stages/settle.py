"""Settle: tells the engine what became of the call, or, where it cannot be told now, the disk."""

import structlog

from interlock.governance.errors import InterlockError
from interlock.governance.v1 import governance_pb2 as pb
from interlock.governance.values import replace
from interlock.proxy.call import Call
from interlock.proxy.engine import EngineClient
from interlock.proxy.metrics import Metrics
from interlock.proxy.outage import Outage
from interlock.proxy.spool import Spool

log = structlog.get_logger()


class Settle:
    """Returns once the settlement is acknowledged by the engine, or on the disk: only then may the last byte leave."""

    def __init__(self, engine: EngineClient, spool: Spool, outage: Outage, metrics: Metrics) -> None:
        self._engine = engine
        self._outage = outage
        self._spool = spool
        self._metrics = metrics

    async def __call__(self, call: Call) -> Call:
        request = settlement(call)
        if call.degraded:
            await self._outage.conclude(call, request)
            return call
        try:
            await self._engine.settle(request)
        except InterlockError as error:
            self._metrics.settle_failed(error.reason)
            log.warning("settlement.spooled", call_id=call.verdict.call_id, reason=error.reason)
            await self._spool.keep(request)
            return call
        return replace(call, settled=True)


def settlement(call: Call) -> pb.SettleRequest:
    """What the engine is told of a call that has been forwarded."""
    forwarded = call.forwarded
    return pb.SettleRequest(
        permit=call.verdict.permit,
        outcome=forwarded.outcome,
        answer=_answer(call) if forwarded.answered else None,
        failure=forwarded.failure,
        upstream_us=round(forwarded.upstream_s * 1_000_000),
    )


def _answer(call: Call) -> pb.Answer:
    """The answer as it is kept: without a body larger than the tool's `replay_max_bytes`."""
    forwarded = call.forwarded
    kept = forwarded.whole and forwarded.size <= call.tool.replay_max_bytes
    return pb.Answer(
        status=forwarded.status,
        headers=[pb.Header(name=name, value=value) for name, value in forwarded.headers],
        trailers=[pb.Header(name=name, value=value) for name, value in forwarded.trailers],
        body=forwarded.body if kept else b"",
        kept=kept,
        size=forwarded.size,
        digest=forwarded.digest,
    )
