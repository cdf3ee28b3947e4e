"""The Timelines service."""

import structlog

from interlock.governance.ids import new_id
from interlock.governance.v1 import timeline_pb2 as pb
from interlock.governance.v1 import timeline_pb2_grpc
from interlock.policy import access, timelines
from interlock.policy.fields import require
from interlock.policy.knowledge import Knowledge
from interlock.policy.model import ATTEMPT_ID, TOOL_NAME
from interlock.policy.services.paging import limit_of, offset_of
from interlock.policy.services.rpc import Caller, rpc, sidecars_rpc
from interlock.policy.timeline_ports import Timeline, TimelineEvent

log = structlog.get_logger(__name__)

MAX_PAGE = 200
DEFAULT_PAGE = 50
MAX_OFFSET = 100_000
MAX_RECENT_OFFSET = 10_000
TEXTS = ("event_id", "run_id", "type", "agent_id", "status", "step", "tool", "req_id", "message", "data", "extra")


class TimelinesService(timeline_pb2_grpc.TimelinesServicer):
    """What happened in runs."""

    def __init__(self, timeline: Timeline, knowledge: Knowledge, token: str) -> None:
        self._timeline = timeline
        self._knowledge = knowledge
        self.token = token

    @rpc
    async def PostEvent(self, request: pb.PostEventRequest, caller: Caller) -> pb.PostEventResponse:  # noqa: N802 - the contract's name
        identity = await self._knowledge.authenticate(caller.credential)
        event = timelines.posted(event_of(request.event), identity, request.lease_id)
        await self._timeline.append(identity.namespace, event)
        return pb.PostEventResponse(event_id=event.event_id)

    @rpc
    async def ListRunEvents(self, request: pb.ListRunEventsRequest, caller: Caller) -> pb.ListRunEventsResponse:  # noqa: N802 - the contract's name
        identity = await self._knowledge.authenticate(caller.credential)
        timelines.check_run_id(request.run_id)
        total, events = await self._timeline.of_run(
            identity.namespace,
            timelines.reader_of(identity),
            request.run_id,
            offset=offset_of(request.offset, most=MAX_OFFSET),
            limit=limit_of(request.limit, default=MAX_PAGE, most=MAX_PAGE),
        )
        return pb.ListRunEventsResponse(total=total, events=[event_message(event) for event in events])

    @rpc
    async def ListRecentEvents(  # noqa: N802 - the contract's name
        self, request: pb.ListRecentEventsRequest, caller: Caller
    ) -> pb.ListRecentEventsResponse:
        identity = await self._knowledge.authenticate(caller.credential)
        events = await self._timeline.recent(
            identity.namespace,
            timelines.reader_of(identity),
            offset=offset_of(request.offset, most=MAX_RECENT_OFFSET),
            limit=limit_of(request.limit, default=DEFAULT_PAGE, most=MAX_PAGE),
        )
        return pb.ListRecentEventsResponse(events=[event_message(event) for event in events])

    @rpc
    async def ListRuns(self, request: pb.ListRunsRequest, caller: Caller) -> pb.ListRunsResponse:  # noqa: N802 - the contract's name
        identity = await self._knowledge.authenticate(caller.credential)
        total, found = await self._timeline.runs(
            identity.namespace,
            timelines.reader_of(identity),
            request.prefix,
            offset=offset_of(request.offset, most=MAX_OFFSET),
            limit=limit_of(request.limit, default=DEFAULT_PAGE, most=MAX_PAGE),
        )
        runs = [pb.RunSummary(run_id=run.run_id, events=run.events, last=event_message(run.last)) for run in found]
        return pb.ListRunsResponse(total=total, runs=runs)

    @sidecars_rpc
    async def RecordUnknownTool(self, request: pb.RecordUnknownToolRequest) -> pb.RecordUnknownToolResponse:  # noqa: N802 - the contract's name
        scope = access.acting_agent(
            (await self._knowledge.identify(request.credential, of_run=True)).identity, request.agent_id
        )
        require("tool", TOOL_NAME.fullmatch(request.tool) is not None)
        require("attempt_id", ATTEMPT_ID.fullmatch(request.attempt_id) is not None)
        timelines.check_run_id(request.run_id)
        begun, _ = await self._timeline.of_run(scope.namespace, scope.agent_id, request.run_id, offset=0, limit=1)
        for event in timelines.of_unknown_tool(
            request.run_id, scope.agent_id, request.tool, request.attempt_id, begun=begun > 0
        ):
            await self._timeline.append(scope.namespace, event)
        return pb.RecordUnknownToolResponse()


def event_of(message: pb.TimelineEvent) -> TimelineEvent:
    """The event as it is told: without what only Interlock says of it."""
    told = {name: getattr(message, name) for name in TEXTS}
    return TimelineEvent(
        **(told | {"event_id": message.event_id or new_id("ev")}),
        ts=message.ts if message.HasField("ts") else None,
        duration_ms=message.duration_ms if message.HasField("duration_ms") else None,
    )


def event_message(event: TimelineEvent) -> pb.TimelineEvent:
    return pb.TimelineEvent(
        **{name: getattr(event, name) for name in TEXTS},
        ts=event.ts,
        duration_ms=event.duration_ms,
        lease_digest=event.lease_digest,
        posted_by=event.posted_by,
        recorded_at_ms=event.recorded_at_ms,
    )
