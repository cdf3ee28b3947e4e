"""Renew: whether a call that is under way may go on."""

from dataclasses import dataclass

from interlock.policy import rules
from interlock.policy.knowledge import Knowledge
from interlock.policy.model import Permit, Policy, Snapshot
from interlock.policy.ports import Ledger

LEDGER_SAYS = {"LOST": "lease_lost", "DISABLED": "agent_disabled"}


@dataclass(frozen=True, slots=True)
class Renewal:
    """An empty reason is a lease of `lease_ms` more, from before Renew was sent; else why the call must stop."""

    reason: str
    lease_ms: int


class Renewer:
    """Prolongs leases, as long as switches and lists would still let the call through."""

    def __init__(self, ledger: Ledger, knowledge: Knowledge, *, allow_without_policy: bool) -> None:
        self._ledger = ledger
        self._knowledge = knowledge
        self._allow_without_policy = allow_without_policy

    async def renew(self, permit: Permit) -> Renewal:
        namespace = permit.scope.namespace
        known = await self._knowledge.snapshot(namespace)
        tool = known.tool_for(permit.scope.agent_id, permit.tool)
        lease_ms = rules.lease_ms(tool) if tool else permit.lease_ms
        renewed = await self._ledger.renew(permit, lease_ms)
        snapshot = await self._knowledge.current(namespace, renewed.epochs)
        policy = await self._knowledge.policy_of(permit.scope, renewed.policy_version)
        reason = LEDGER_SAYS.get(renewed.word) or self._objection(permit, snapshot, policy.policy)
        return Renewal(reason, 0 if reason else lease_ms)

    def _objection(self, permit: Permit, snapshot: Snapshot, policy: Policy | None) -> str:
        """Why a new call would be refused by switches or lists; empty if it would not."""
        switch = rules.switches(snapshot).reason if snapshot.namespace.exists else "invalid_key"
        tool = snapshot.tool_for(permit.scope.agent_id, permit.tool)
        if switch or tool is None:
            return switch or "tool_disabled"
        held = rules.terms(policy, snapshot.namespace, allow_without_policy=self._allow_without_policy)
        return rules.lists(tool, held).reason
