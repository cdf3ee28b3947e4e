"""Runs: the calls that a namespace's plan lets through in a UTC month.

A run is reserved in the namespace's slot before the call is judged in its agent's, and given back if the call is not
let through, or never left. So a limit is never exceeded; what an engine that dies in between has reserved stays
counted. A plan without a limit asks nothing here.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from interlock.policy.knowledge import Knowledge
from interlock.policy.model import Outcome, Permit, Scope, Settlement
from interlock.policy.plans import Plan, Plans
from interlock.policy.ports import Quotas

EXCEEDED = "max_runs_per_month_exceeded"


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit of a plan and how it stands after a decision. Not `granted`: there was nothing left of it."""

    plan: str
    limit: int
    used: int
    granted: bool
    resets_in_ms: int

    @property
    def reason(self) -> str:
        return "" if self.granted else EXCEEDED

    @property
    def retry_after_ms(self) -> int:
        """When the same call may be let through; 0 if no month leaves room for it."""
        return self.resets_in_ms if self.limit else 0

    @property
    def matched_rule(self) -> str:
        return f"plan {self.plan}: runs_per_month: {self.limit}"


class Runs:
    """Reserves runs and gives them back."""

    def __init__(self, quotas: Quotas, knowledge: Knowledge, plans: Plans) -> None:
        self._quotas = quotas
        self._knowledge = knowledge
        self._plans = plans

    async def reserve(self, scope: Scope, attempt_id: str, plan: Plan) -> Quota | None:
        """The attempt's run, or that there is none left; None if the plan does not limit them."""
        limit = plan.runs_per_month
        if limit is None:
            return None
        reserved = await self._quotas.reserve_run(scope, attempt_id, limit)
        resets_in_ms = month_end_ms(reserved.at_ms) - reserved.at_ms
        return Quota(plan.name, limit, reserved.used, reserved.granted, resets_in_ms)

    async def would_exceed(self, scope: Scope, plan: Plan, assumed: int) -> bool:
        """Whether there would be no run left, were so many more used."""
        if plan.runs_per_month is None:
            return False
        return await self._quotas.used_runs(scope.namespace) + assumed >= plan.runs_per_month

    async def release(self, scope: Scope, attempt_id: str) -> None:
        """The attempt was not let through after all."""
        if await self._limited(scope.namespace):
            await self._quotas.release_run(scope, attempt_id)

    async def settled(self, permit: Permit, outcome: Outcome, settlement: Settlement) -> None:
        """What nothing left for is given back. What may have happened may yet turn out not to have."""
        if outcome is Outcome.AMBIGUOUS or not settlement.applied or not await self._limited(permit.scope.namespace):
            return
        if outcome is Outcome.NOT_SENT:
            await self._quotas.release_run(permit.scope, permit.attempt_id)
        else:
            await self._quotas.use_run(permit.scope, permit.attempt_id)

    async def went_unjudged(self, scope: Scope, attempt_id: str, outcome: Outcome) -> None:
        """A call that went through while nobody could be asked is counted even where nothing is left; if it came to
        nothing, what its own Authorize may have reserved unheard is given back.
        """
        if outcome is Outcome.NOT_SENT:
            await self.release(scope, attempt_id)
        elif await self._limited(scope.namespace):
            await self._quotas.reserve_run(scope, attempt_id, -1)
            await self._quotas.use_run(scope, attempt_id)

    async def _limited(self, namespace: str) -> bool:
        """As far as is remembered: a run that outlives its limit is not missed."""
        return self._plans.shown((await self._knowledge.snapshot(namespace)).namespace).runs_per_month is not None


def month_end_ms(at_ms: int) -> int:
    """When the UTC month of a time ends, both unix ms."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    first = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    after = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    return int(after.timestamp()) * 1000
