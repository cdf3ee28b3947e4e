"""Calls that name a tool which nobody registered: nothing is judged, and yet their run is to show how they ended."""

import secrets

import structlog

from interlock.governance.errors import InterlockError
from interlock.governance.v1 import timeline_pb2 as pb
from interlock.proxy.call import Call
from interlock.proxy.engine import EngineClient

log = structlog.get_logger()

REASON = "tool_not_found"


class UnknownTools:
    """Tells the engine of them."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine

    async def tell(self, call: Call, error: InterlockError) -> None:
        """Of a call of a run that failed for it, and of no other; that it cannot be told does not change the answer."""
        ask = call.ask
        if error.reason != REASON or not ask.run_id:
            return
        request = pb.RecordUnknownToolRequest(
            credential=ask.credential,
            agent_id=ask.agent_id,
            run_id=ask.run_id,
            tool=ask.tool,
            attempt_id=secrets.token_urlsafe(16),
        )
        try:
            await self._engine.record_unknown_tool(request)
        except InterlockError as failed:
            log.warning("unknown_tool.not_told", run_id=ask.run_id, tool=ask.tool, reason=failed.reason)
