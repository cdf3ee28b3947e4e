"""Authorize: puts the call to the engine, and waits for another's outcome if the same call is running."""

import functools
import os
import time
from base64 import urlsafe_b64encode

from interlock.governance.errors import ConflictError, InterlockError, NotFoundError, UnavailableError
from interlock.governance.v1 import governance_pb2 as pb
from interlock.governance.values import replace
from interlock.proxy.abandoning import Abandoning
from interlock.proxy.call import WHOLE_DEADLINE, Ask, Call, Lease
from interlock.proxy.engine import EngineClient
from interlock.proxy.fingerprint import fingerprint
from interlock.proxy.large_bodies import LargeBodies
from interlock.proxy.metrics import Metrics
from interlock.proxy.outage import Outage
from interlock.proxy.spool import Spool
from interlock.proxy.stages.identify import Tools

_VERDICTS = {number: name.removeprefix("VERDICT_") for name, number in pb.Verdict.items()}
MAX_WAIT_S = 120.0
MAX_CHANGES = 5
"""So often may a tool change between resolving and asking before the call is given up."""


class Authorize:
    """Asks for a verdict until it is one on the tool as it is now, and, if the agent waits, not IN_FLIGHT."""

    def __init__(
        self,
        engine: EngineClient,
        tools: Tools,
        spool: Spool,
        abandoning: Abandoning,
        outage: Outage,
        bodies: LargeBodies,
        metrics: Metrics,
    ) -> None:
        self._engine = engine
        self._spool = spool
        self._abandoning = abandoning
        self._outage = outage
        self._bodies = bodies
        self._tools = tools
        self._metrics = metrics

    async def __call__(self, call: Call) -> Call:
        call = await self._with_fingerprint(call)
        judged = self._outage.runs_unjudged(call) or await self._until_decided(call)
        verdict = judged.verdict
        self._metrics.decided(_VERDICTS[verdict.verdict], verdict.reason, call.tool.name, verdict.agent_id)
        self._outage.begins(judged)
        return judged

    async def _until_decided(self, call: Call) -> Call:
        waits_until = min(time.monotonic() + wait_s(call.ask, call.tool), call.incoming.deadline)
        try:
            await self._spool.clear()
        except UnavailableError as unavailable:
            return self._outage.let_through(call, _attempt_id(), unavailable)
        judged = await self._judge(call, waits_until, "")
        while _runs_elsewhere(judged) and (left := waits_until - time.monotonic()) > 0:
            call_id = judged.verdict.call_id
            await self._engine.wait(_await_request(call.ask, call_id, left))
            judged = await self._judge(judged, waits_until, call_id)
        return judged

    async def _judge(self, call: Call, waits_until: float, awaited_call_id: str) -> Call:
        """One verdict, on the current revision of the tool."""
        for _ in range(MAX_CHANGES):
            asked_at = time.monotonic()
            request = _authorize_request(call, will_wait=waits_until > asked_at, awaited_call_id=awaited_call_id)
            try:
                verdict = await self._ask(call.ask, request)
            except UnavailableError as unavailable:
                if awaited_call_id:
                    # The engine's last word was that the same call runs.
                    raise
                return self._outage.let_through(call, request.attempt_id, unavailable)
            if verdict.verdict != pb.VERDICT_TOOL_CHANGED:
                self._outage.words.judged(call.ask, call.tool, verdict, asked_at)
                length_s = verdict.permit.lease_ms / 1000
                return replace(call, verdict=verdict, lease=Lease(until=asked_at + length_s, length_s=length_s))
            call = await self._resolved_anew(call)
        raise ConflictError("tool_changed", "the tool is being changed; try again")

    async def _ask(self, ask: Ask, request: pb.AuthorizeRequest) -> pb.AuthorizeResponse:
        try:
            return await self._engine.authorize(request)
        except UnavailableError as unavailable:
            if not unavailable.had_no_effect:
                self._abandoning.give_up(ask.credential, ask.agent_id, request.attempt_id)
            raise
        except InterlockError as error:
            self._outage.words.refused(ask, error)
            if isinstance(error, NotFoundError):
                self._tools.forget(ask)
            raise

    async def _resolved_anew(self, call: Call) -> Call:
        tool = await self._tools.resolve(call.ask, anew=True)
        if refusal := call.entrance.refusal(call.ask, tool):
            raise refusal
        return await self._with_fingerprint(replace(call, tool=tool))

    async def _with_fingerprint(self, call: Call) -> Call:
        """The call's fingerprint, as its tool wants it. Errors: `invalid_json`, `busy`."""
        ask, tool = call.ask, call.tool
        take = functools.partial(
            fingerprint,
            tool=tool.name,
            method=ask.method,
            path=ask.path,
            query=ask.query,
            content_type=ask.content_type,
            body=ask.arguments,
            ignore=tool.dedup_ignore,
            run_id_is_argument=tool.dedup_run_id or not ask.traced_by_argument,
        )
        return replace(call, fingerprint=await self._bodies.read(ask.arguments, ask.credential, take))


def _attempt_id() -> str:
    return urlsafe_b64encode(os.urandom(16))[:22].decode()


def _runs_elsewhere(judged: Call) -> bool:
    return judged.verdict.verdict == pb.VERDICT_IN_FLIGHT and not judged.degraded


def wait_s(ask: Ask, tool: pb.ToolRoute) -> float:
    """How long the agent waits for another's outcome, s."""
    whole_deadline_s = tool.timeout_ms / 1000 * (1 + tool.max_retries)
    return min(whole_deadline_s if ask.wait_s == WHOLE_DEADLINE else ask.wait_s, MAX_WAIT_S)


def _authorize_request(call: Call, *, will_wait: bool, awaited_call_id: str) -> pb.AuthorizeRequest:
    ask = call.ask
    return pb.AuthorizeRequest(
        attempt_id=_attempt_id(),
        credential=ask.credential,
        agent_id=ask.agent_id,
        tool=ask.tool,
        tool_revision=call.tool.revision,
        method=ask.method,
        fingerprint=call.fingerprint.call,
        idempotency_key=ask.idempotency_key,
        args_digest=call.fingerprint.arguments,
        declared_spend_micros=ask.spend_micros,
        run_id=ask.run_id,
        will_wait=will_wait,
        awaited_call_id=awaited_call_id,
        part_of_run=ask.part_of_run,
        run_action=ask.run_action,
        run_action_digest=ask.run_action_digest,
    )


def _await_request(ask: Ask, call_id: str, left_s: float) -> pb.AwaitRequest:
    return pb.AwaitRequest(
        credential=ask.credential, agent_id=ask.agent_id, call_id=call_id, wait_ms=max(1, int(left_s * 1000))
    )
