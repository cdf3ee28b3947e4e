"""Reservations as an engine would make them."""

import dataclasses
import hashlib
import secrets
from typing import Any

from interlock.governance.ids import new_id
from interlock.policy.model import Decision, Epochs, Limits, Permit, Scope
from interlock.policy.ports import Decided, Reservation
from interlock.store.opening import Store

AGENT = Scope("acme", "bot-1")


def reservation(call: str = "one", **changes: Any) -> Reservation:
    """A reservation of the call named `call`: the same name is the same key and fingerprint."""
    digest = hashlib.sha256(call.encode()).hexdigest()
    made = Reservation(
        scope=AGENT,
        attempt_id=secrets.token_hex(8),
        call_id=new_id("call"),
        key=digest,
        fingerprint=digest,
        tool="charge",
        policy_version=0,
        switch_reason="",
        rule_reason="",
        limits=Limits(cost_micros=1_000_000),
        lease_ms=60_000,
        hold=False,
        ttl_ms=60_000,
        will_wait=False,
        awaited_call_id="",
        basis=Epochs(),
        facts="{}",
    )
    return dataclasses.replace(made, **changes)


async def decide(store: Store, call: str = "one", **changes: Any) -> Decision:
    decided = await store.ledger.authorize(reservation(call, **changes))
    assert isinstance(decided, Decided)
    return decided.decision


async def execute(store: Store, call: str = "one", **changes: Any) -> Permit:
    decision = await decide(store, call, **changes)
    assert decision.permit is not None, decision
    return decision.permit
