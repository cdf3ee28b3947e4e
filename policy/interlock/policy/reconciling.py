"""Reconciling: asks a tool what became of a call that must not be repeated, until it says, or its time is over.

Asked is only about calls whose lease, and whatever try was begun under it, must be over: so what the tool says is not
overtaken by the call itself. What it says is settled under the call's own permit, as an operator's word is: of that and
of a late settlement by the sidecar exactly one holds.
"""

import asyncio
import json
import random
from collections.abc import Callable
from typing import Protocol

import structlog

from interlock.governance.errors import InterlockError
from interlock.governance.inquiries import Finding, Inquiry, Said
from interlock.governance.tasks import end
from interlock.governance.v1 import governance_pb2 as pb
from interlock.policy.answers import answer_of
from interlock.policy.knowledge import Knowledge
from interlock.policy.model import Outcome, Tool
from interlock.policy.ports import Held, HeldCall, Ledger
from interlock.policy.runs import Runs

log = structlog.get_logger(__name__)

TICK_S = 0.5
TAKEN = 50
"""So many calls one engine looks after at a time."""
CLAIM_MS = 45_000
"""Longer than a look takes: `reconcile_timeout_ms` is at most 30 s."""
MARGIN_MS = 1_000
FIRST_PAUSE_MS, LAST_PAUSE_MS = 1_000, 300_000
UNASKED_PAUSE_MS = 60_000
"""A call that nobody can be asked about is looked at so often: its tool may be given a URL."""
REASON = "resolved"
"""What the record says of a success whose answer nobody saw, whoever said that it was one."""


OVERTAKEN = "overtaken"
"""What came of a word that came too late: the call was settled, or resolved, meanwhile."""
DEADLINE = "deadline"


class Asker(Protocol):
    """Asks a tool. Never fails: what goes wrong is a finding."""

    async def ask(self, inquiry: Inquiry, route: pb.ToolRoute, url: str, within_s: float) -> Finding: ...


class Recorder(Protocol):
    """Where figures go."""

    def reconciled(self, result: str) -> None: ...

    def calls_unknown(self, count: int) -> None: ...


class Reconciler:
    """Looks after the unknown calls of all namespaces, beside any number of other engines."""

    def __init__(
        self,
        held: Held,
        ledger: Ledger,
        knowledge: Knowledge,
        runs: Runs,
        route_of: Callable[[str, Tool], pb.ToolRoute],
        asker: Asker,
        recorder: Recorder,
    ) -> None:
        self._held = held
        self._ledger = ledger
        self._knowledge = knowledge
        self._runs = runs
        self._route_of = route_of
        self._asker = asker
        self._recorder = recorder
        self._task: asyncio.Task[None] | None = None
        self._looking: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="reconciling")

    async def close(self) -> None:
        """What is being asked is left: it is asked again, by whoever comes next."""
        await end(self._task, *self._looking)
        self._task = None

    async def look(self) -> int:
        """Looks once at what is due. Returns, when that is done, how many calls it was. Errors: UnavailableError."""
        taken = await self._take(TAKEN)
        await asyncio.gather(*self._looking)
        return taken

    async def _run(self) -> None:
        """Takes as much as there is room for: who is slow to answer holds up no other."""
        while True:
            room = TAKEN - len(self._looking)
            try:
                more = room > 0 and await self._take(room) >= room
            except InterlockError as error:
                log.debug("reconciling.waits", reason=error.reason)
                more = False
            except Exception:
                log.exception("reconciling.failed")
                more = False
            if more and self._looking:
                await asyncio.wait(self._looking, timeout=TICK_S, return_when=asyncio.FIRST_COMPLETED)
            elif not more:
                await asyncio.sleep(TICK_S)

    async def _take(self, limit: int) -> int:
        """Begins to look at what is due; how many calls that were."""
        taken = await self._held.take(limit, CLAIM_MS)
        self._recorder.calls_unknown(taken.unknown)
        await self._held.forget(taken.over)
        for call in taken.calls:
            task = asyncio.create_task(self._look_at(call), name="reconciliation")
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)
        return len(taken.calls) + len(taken.over)

    async def _look_at(self, call: HeldCall) -> None:
        """A call that makes us fail must not hold up the others: it is due again when its claim is over."""
        try:
            await self._decide(call)
        except InterlockError as error:
            log.warning("reconciliation.failed", call_id=call.permit.call_id, reason=error.reason)
        except Exception:
            log.exception("reconciliation.failed", call_id=call.permit.call_id)

    async def _decide(self, call: HeldCall) -> None:
        scope, name = call.permit.scope, call.permit.tool
        tool = (await self._knowledge.up_to_date(scope.namespace)).tool_for(scope.agent_id, name)
        # A lease is as long as the longest try, and that margin: so it tells of the tool as it was called.
        patience_ms = max((tool.timeout_ms if tool else 0) + MARGIN_MS, call.lease_ms)
        if call.lease_over_ms < patience_ms:
            return await self._again(call, patience_ms - call.lease_over_ms, unknown=False)
        if not await self._held.hold(call.permit, patience_ms):
            return await self._again(call, patience_ms, unknown=False)
        if tool is None or not tool.reconcile_url:
            return await self._again(call, UNASKED_PAUSE_MS)
        left_ms = tool.reconcile_deadline_s * 1000 - call.age_ms
        if left_ms <= 0:
            return await self._leave(call)
        await self._ask(call, tool, left_ms)
        return None

    async def _ask(self, call: HeldCall, tool: Tool, left_ms: int) -> None:
        namespace = call.permit.scope.namespace
        route, within_s = self._route_of(namespace, tool), tool.reconcile_timeout_ms / 1000
        finding = await self._asker.ask(_inquiry(call), route, tool.reconcile_url, within_s)
        if finding.said in (Said.HAPPENED, Said.NOT_HAPPENED):
            await self._settle(call, finding)
            return
        self._tell(call, finding.said, finding.problem)
        await self._again(call, min(pause_ms(call.lease_over_ms), max(left_ms, 1)))

    async def _settle(self, call: HeldCall, finding: Finding) -> None:
        happened = finding.said is Said.HAPPENED
        outcome = Outcome.SUCCEEDED if happened else Outcome.NOT_SENT
        answer = answer_of(finding.answer) if finding.answer is not None else None
        settled = await self._ledger.settle(
            call.permit,
            outcome,
            answer,
            "" if answer is not None else REASON,
            event="resolution",
            facts=json.dumps({"by": "reconcile_url", "said": finding.said}, separators=(",", ":")),
        )
        await self._runs.settled(call.permit, outcome, settled)
        self._tell(call, finding.said if settled.applied else OVERTAKEN, "")
        await self._held.schedule(call.permit.scope, call.permit.key, None, unknown=False)

    async def _leave(self, call: HeldCall) -> None:
        """The deadline has passed: it is said once, and the call stays unknown until an operator resolves it."""
        facts = json.dumps({"first_seen_ms": call.first_seen_ms}, separators=(",", ":"))
        if not call.left and await self._held.leave(call.permit, "reconcile_deadline_passed", facts):
            self._tell(call, DEADLINE, "an operator has to resolve it")
        await self._again(call, UNASKED_PAUSE_MS)

    async def _again(self, call: HeldCall, in_ms: int, *, unknown: bool = True) -> None:
        await self._held.schedule(call.permit.scope, call.permit.key, in_ms, unknown=unknown)

    def _tell(self, call: HeldCall, result: str, problem: str) -> None:
        self._recorder.reconciled(result)
        scope, permit = call.permit.scope, call.permit
        write = log.warning if result in (Said.NO_ANSWER, DEADLINE) else log.info
        write(
            "call.reconciled" if result in (Said.HAPPENED, Said.NOT_HAPPENED) else "call.not_reconciled",
            namespace=scope.namespace,
            agent_id=scope.agent_id,
            tool=permit.tool,
            call_id=permit.call_id,
            result=str(result),
            problem=problem,
        )


def pause_ms(over_ms: int) -> int:
    """Until a tool is asked again, by how long the lease has been over: each pause is about half as long again as the
    one before. Jittered, so that many calls that became unknown together are not asked about together.
    """
    pause = max(FIRST_PAUSE_MS, min(LAST_PAUSE_MS, over_ms // 2))
    return round(pause * random.uniform(0.8, 1.2))  # noqa: S311 - no secret hangs on it


def _inquiry(call: HeldCall) -> Inquiry:
    permit = call.permit
    return Inquiry(
        call_id=permit.call_id,
        key=permit.key,
        tool=permit.tool,
        agent_id=permit.scope.agent_id,
        namespace=permit.scope.namespace,
        args_hash=str(json.loads(call.facts).get("args_hash", "")) if call.facts else "",
        first_seen_ms=call.first_seen_ms,
        tries=call.tries,
        fence=permit.fence,
    )
