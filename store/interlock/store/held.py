"""Calls that must not be repeated: the index of those that run or are unknown, and looking after them. The Held port.

The index is one of its own, above all agents: to find the few unknown calls among the open ones of every agent would
cost a round trip an agent. An entry is written beside the reservation and taken out when somebody looks and finds the
call settled, so a decision costs no round trip more, and the index is only ever a hint: what holds is the record.
"""

from collections.abc import Sequence
from typing import Any

from interlock.policy.model import Permit, Scope
from interlock.policy.ports import HeldCall, Taken
from interlock.store import keys
from interlock.store.connection import Connection
from interlock.store.pipe import Argument
from interlock.store.replies import unix_ms
from interlock.store.trails import RedisTrails

FIELDS = (
    "state",
    "call_id",
    "tool",
    "fence",
    "attempt",
    "lease_until",
    "lease",
    "hold",
    "first_seen",
    "tries",
    "facts",
    "left",
    "run",
)


class RedisHeld:
    """Held calls in Redis."""

    def __init__(self, connection: Connection, trails: RedisTrails) -> None:
        self._redis = connection
        self._trails = trails

    async def take(self, limit: int, claim_ms: int) -> Taken:
        (reply,) = await self._redis.run("take_held", keys.held(), [limit, claim_ms])
        members = [member.decode() for member in reply[1]]
        if not members:
            return Taken(int(reply[0]), (), ())
        at = [keys.held_call(member) for member in members]
        reads = [("HMGET", keys.of_agent(scope, "call", key), *FIELDS) for scope, key in at]
        time_reply, *rows = await self._redis.ask("held", ("TIME",), *reads)
        now_ms = unix_ms(time_reply)
        found = [_held(scope, key, row, now_ms) for (scope, key), row in zip(at, rows, strict=True)]
        over = [pair for pair, call in zip(at, found, strict=True) if call is None]
        return Taken(int(reply[0]), tuple(call for call in found if call is not None), tuple(over))

    async def schedule(self, scope: Scope, key: str, in_ms: int | None, *, unknown: bool) -> None:
        args: list[Argument] = [keys.held_member(scope, key), -1 if in_ms is None else in_ms, int(unknown)]
        await self._redis.run("schedule_held", keys.held(), args)

    async def forget(self, over: Sequence[tuple[Scope, str]]) -> None:
        if over:
            members = [keys.held_member(scope, key) for scope, key in over]
            await self._redis.ask("forget_held", *(("ZREM", index, *members) for index in keys.held()))

    async def hold(self, permit: Permit, patience_ms: int) -> bool:
        at = [keys.of_agent(permit.scope, part) for part in ("state", f"call:{permit.key}")]
        proof: list[Argument] = [permit.call_id, permit.fence, permit.attempt_id]
        return bool((await self._redis.run("hold", at, [*proof, patience_ms]))[0])

    async def leave(self, permit: Permit, reason: str, facts: str) -> bool:
        state, audit, folds = keys.trail(permit.scope)
        at = [state, keys.of_agent(permit.scope, "call", permit.key), audit, folds]
        args: list[Argument] = [permit.call_id, permit.fence, permit.tool, reason, facts]
        left = bool((await self._redis.run("leave_unknown", at, args))[0])
        self._trails.grew(permit.scope)
        return left


def _held(scope: Scope, key: str, row: Sequence[Any], now_ms: int) -> HeldCall | None:
    """None if there is nothing to look after any more."""
    record = {name: (value or b"").decode() for name, value in zip(FIELDS, row, strict=True)}
    if record["state"] not in ("in_flight", "unknown") or record["hold"] != "1":
        return None
    call_id, fence, attempt = record["call_id"], int(record["fence"]), record["attempt"]
    permit = Permit(scope, record["tool"], key, call_id, fence, attempt, 0, record["run"])
    return HeldCall(
        permit=permit,
        unknown=record["state"] == "unknown",
        lease_over_ms=now_ms - int(record["lease_until"]),
        lease_ms=int(record["lease"] or 0),
        age_ms=now_ms - int(record["first_seen"]),
        first_seen_ms=int(record["first_seen"]),
        tries=int(record["tries"]),
        facts=record["facts"],
        left=record["left"] == record["fence"],
    )
