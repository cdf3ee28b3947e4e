"""The Calls and Audit services."""

import json

from interlock.governance.errors import ConflictError, InvalidRequestError, NotFoundError
from interlock.governance.v1 import admin_pb2 as pb
from interlock.governance.v1 import admin_pb2_grpc
from interlock.policy import access
from interlock.policy.following import Followed, Following, Subject
from interlock.policy.knowledge import Knowledge
from interlock.policy.model import CALL_ID, CallRecord, Event, Identity, Outcome, Permit, Role, Scope
from interlock.policy.ports import Directory, Ledger, Trails
from interlock.policy.runs import Runs
from interlock.policy.services.agents import check_reason
from interlock.policy.services.messages import OUTCOME_OF, call_message, event_message, trail_message
from interlock.policy.services.paging import after_of, limit_of
from interlock.policy.services.rpc import Caller, Write, rpc, rpc_stream

MAX_LISTED = 1000
DEFAULT_LISTED = 100
PAGE = 1000
TRAILS_AT_ONCE = 500
MAX_LAST = 100
RESOLVABLE = ("unknown", "expired")
RESOLUTIONS = (Outcome.SUCCEEDED, Outcome.NOT_SENT)


class CallsService(admin_pb2_grpc.CallsServicer):
    """Calls that are not yet, or not long, over."""

    def __init__(self, directory: Directory, ledger: Ledger, knowledge: Knowledge, runs: Runs) -> None:
        self._directory = directory
        self._ledger = ledger
        self._knowledge = knowledge
        self._runs = runs

    @rpc
    async def ListCalls(self, request: pb.ListCallsRequest, caller: Caller) -> pb.ListCallsResponse:  # noqa: N802 - the contract's name
        identity = await self._knowledge.authenticate(caller.credential)
        limit = limit_of(request.limit, default=DEFAULT_LISTED, most=MAX_LISTED)
        records: list[CallRecord] = []
        for scope in await self._scopes(identity, request.agent_id):
            records += await self._ledger.open_calls(scope)
        wanted = [record for record in records if request.state in ("", record.state)]
        oldest = sorted(wanted, key=lambda record: (record.first_seen_ms, record.call_id))
        return pb.ListCallsResponse(calls=[call_message(record) for record in oldest[:limit]])

    @rpc
    async def GetCall(self, request: pb.CallRef, caller: Caller) -> pb.GetCallResponse:  # noqa: N802 - the contract's name
        identity = await self._knowledge.authenticate(caller.credential)
        scope, record, _ = await self._find(identity, request)
        events = await self._events(scope, record)
        return pb.GetCallResponse(call=call_message(record), events=[event_message(event) for event in events])

    @rpc
    async def ResolveCall(self, request: pb.ResolveCallRequest, caller: Caller) -> pb.Call:  # noqa: N802 - the contract's name
        identity = await self._knowledge.authenticate(caller.credential)
        access.require(identity, Role.OPERATOR)
        check_reason(request.note, "note")
        outcome = OUTCOME_OF.get(request.outcome)
        if outcome not in RESOLUTIONS:
            raise InvalidRequestError("invalid_request", "the outcome is SUCCEEDED or NOT_SENT", field="outcome")
        scope, record, permit = await self._find(identity, request.ref)
        if record.state not in RESOLVABLE:
            raise ConflictError("call_not_open", f"the call is {record.state}: there is nothing to resolve")
        facts = json.dumps({"key_id": identity.key_id, "note": request.note})
        settled = await self._ledger.settle(permit, outcome, None, "resolved", event="resolution", facts=facts)
        if not settled.applied:
            raise ConflictError("call_not_open", "the call was settled or taken over meanwhile")
        await self._runs.settled(permit, outcome, settled)
        found = await self._ledger.call(scope, record.call_id)
        return call_message(found[0] if found else record)

    async def _scopes(self, identity: Identity, named: str) -> list[Scope]:
        if named or identity.role is Role.AGENT:
            return [access.readable_agent(identity, named or identity.agent_id)]
        access.require(identity, Role.VIEWER)
        return [Scope(identity.namespace, agent) for agent in await self._directory.agents(identity.namespace)]

    async def _find(self, identity: Identity, ref: pb.CallRef) -> tuple[Scope, CallRecord, Permit]:
        if CALL_ID.fullmatch(ref.call_id):
            for scope in await self._scopes(identity, ref.agent_id):
                found = await self._ledger.call(scope, ref.call_id)
                if found is not None:
                    return (scope, *found)
        raise NotFoundError("call_not_found", "no call of that id is on record")

    async def _events(self, scope: Scope, record: CallRecord) -> list[Event]:
        """The call's events, from the end of the trail back to when its key was first used."""
        found: list[Event] = []
        before: int | None = None
        while True:
            page = await self._ledger.latest_events(scope, before_seq=before, limit=PAGE)
            found += [event for event in page if event.call_id == record.call_id]
            if len(page) < PAGE or page[-1].at_ms < record.first_seen_ms:
                return found[::-1]
            before = page[-1].seq


class AuditService(admin_pb2_grpc.AuditServicer):
    """The audit trail."""

    def __init__(
        self, directory: Directory, ledger: Ledger, trails: Trails, knowledge: Knowledge, following: Following
    ) -> None:
        self._directory = directory
        self._ledger = ledger
        self._trails = trails
        self._knowledge = knowledge
        self._following = following

    @rpc
    async def ListEvents(self, request: pb.ListEventsRequest, caller: Caller) -> pb.ListEventsResponse:  # noqa: N802 - the contract's name
        identity = await self._knowledge.authenticate(caller.credential)
        scope = access.readable_agent(identity, request.agent_id)
        limit = limit_of(request.limit, default=DEFAULT_LISTED, most=MAX_LISTED)
        events = await self._ledger.events(scope, after_seq=after_of(request.after_seq), limit=limit)
        return pb.ListEventsResponse(events=[event_message(event) for event in events])

    @rpc
    async def ListTrails(self, request: pb.ListTrailsRequest, caller: Caller) -> pb.ListTrailsResponse:  # noqa: N802 - the contract's name
        identity = await self._knowledge.authenticate(caller.credential)
        if request.agent_id or identity.role is Role.AGENT:
            scopes = [access.readable_agent(identity, request.agent_id or identity.agent_id)]
        else:
            access.require(identity, Role.VIEWER)
            scopes = [Scope(identity.namespace, agent) for agent in await self._directory.agents(identity.namespace)]
        trails: list[pb.Trail] = []
        for start in range(0, len(scopes), TRAILS_AT_ONCE):
            page = scopes[start : start + TRAILS_AT_ONCE]
            firsts = await self._trails.read([(scope, 0) for scope in page], 1)
            states = await self._trails.states(page)
            trails += [trail_message(state, first[0].seq) for state, first in zip(states, firsts, strict=True) if first]
        return pb.ListTrailsResponse(trails=trails)

    @rpc_stream
    async def FollowEvents(self, request: pb.FollowEventsRequest, caller: Caller, write: Write) -> None:  # type: ignore[override] # noqa: N802 - the contract's name; grpc.aio lets a stream write instead of yield
        identity = await self._knowledge.authenticate(caller.credential)
        if not 0 <= request.last <= MAX_LAST:
            raise InvalidRequestError("invalid_request", f"last is 0 to {MAX_LAST}", field="last")
        agent_id = request.agent_id or identity.agent_id
        if agent_id:
            access.readable_agent(identity, agent_id)
        access.require(identity, Role.AGENT if agent_id else Role.VIEWER)
        subject = Subject(
            identity.namespace, agent_id, request.cursor, request.last, request.until_now, identity.key_id
        )

        async def tell(followed: Followed) -> None:
            events = [event_message(event) for event in followed.events]
            await write(pb.FollowEventsResponse(events=events, cursor=followed.cursor))

        await self._following.follow(
            subject, lambda: self._knowledge.authenticate(caller.credential, counted=False), tell
        )
