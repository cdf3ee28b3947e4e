"""Renew: whether a call that is under way may go on."""

from dataclasses import dataclass

from interlock.policy import rules
from interlock.policy.knowledge import Knowledge
from interlock.policy.model import Permit, Scope, Snapshot
from interlock.policy.ports import Ledger

LEDGER_SAYS = {"LOST": "lease_lost", "DISABLED": "agent_disabled"}


@dataclass(frozen=True, slots=True)
class Renewal:
    """An empty reason is a lease of `lease_ms` more, from before Renew was sent; else why the call must stop."""

    reason: str
    lease_ms: int


class Renewer:
    """Prolongs leases, as long as no switch has been pulled since."""

    def __init__(self, ledger: Ledger, knowledge: Knowledge) -> None:
        self._ledger = ledger
        self._knowledge = knowledge

    async def renew(self, permit: Permit) -> Renewal:
        namespace = permit.scope.namespace
        known = await self._knowledge.snapshot(namespace)
        tool = known.tool_for(permit.scope.agent_id, permit.tool)
        lease_ms = rules.lease_ms(tool) if tool else permit.lease_ms
        word, epochs = await self._ledger.renew(permit, lease_ms)
        reason = objection(word, await self._knowledge.current(namespace, epochs), permit.scope, permit.tool)
        return Renewal(reason, 0 if reason else lease_ms)


def objection(word: str, snapshot: Snapshot, scope: Scope, tool: str) -> str:
    """Why a call may not go on, by the ledger's word and then the switches; empty if it may."""
    reason = LEDGER_SAYS.get(word) or rules.switches(snapshot).reason
    if reason:
        return reason
    found = snapshot.tool_for(scope.agent_id, tool)
    return "" if found is not None and found.enabled else "tool_disabled"
