"""Decisions and settlements: the Ledger port, each method one script."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from interlock.governance.errors import ConflictError
from interlock.policy.model import (
    Answer,
    CallRecord,
    Decision,
    Epochs,
    Event,
    Figures,
    Outcome,
    Permit,
    Remaining,
    Scope,
    Settlement,
    Verdict,
)
from interlock.policy.ports import Decided, DegradedCall, PolicyMoved, RecordedCall, Renewed, Reservation
from interlock.store import keys
from interlock.store.connection import Connection
from interlock.store.documents import policy_from_json
from interlock.store.pipe import Argument, Command
from interlock.store.replies import text_of, unix_ms
from interlock.store.trails import RedisTrails

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
# A period is the bucket that runs and this many before it.
PERIODS = {"hour": ("minutes", MINUTE_MS, 60), "day": ("hours", HOUR_MS, 24), "week": ("hours", HOUR_MS, 168)}
# A call's record without its answer.
RECORD = (
    "state",
    "call_id",
    "tool",
    "fence",
    "attempt",
    "lease_until",
    "hold",
    "charged",
    "first_seen",
    "tries",
    "status",
    "run",
)

VERDICTS = {verdict.value: verdict for verdict in Verdict}
OUTCOMES = {outcome.value.encode(): outcome for outcome in Outcome}
NO_ANSWER = Answer(status=0, kept=False)


class RedisLedger:
    """The ledger in Redis. One operation is one script on one slot."""

    def __init__(self, connection: Connection, trails: RedisTrails) -> None:
        self._redis = connection
        self._trails = trails

    async def authorize(self, reservation: Reservation) -> Decided | PolicyMoved:
        scope = reservation.scope
        # The epochs are read after the script on the same connection: they are at least as new as what it saw.
        args = [*_authorize_args(reservation), self._trails.backlog_cap, reservation.quota_reason]
        if reservation.run_id:
            args += [scope.agent_id, int(reservation.part_of_run), reservation.run_id]
        beside = [
            *keys.epoch_reads(scope.namespace),
            *_held_entry(reservation),
            *self._noted(scope, reservation.run_id),
        ]
        reply, world, namespace, *_ = await self._redis.run("authorize", _authorize_keys(reservation), args, beside)
        self._trails.grew(scope)
        if reply[0] == b"ABANDONED":
            raise ConflictError("attempt_abandoned", "this attempt was given up")
        if reply[0] == b"POLICY":
            return PolicyMoved(policy_from_json(int(reply[1]), *reply[2:]))
        return Decided(_decision(reservation, reply), _epochs(world, namespace))

    async def withdraw(self, reservation: Reservation, decision: Decision) -> None:
        if decision.permit is not None:
            await self.settle(decision.permit, Outcome.NOT_SENT, None, "superseded", event="withdrawal", facts="{}")
            return
        scope, attempt_id = reservation.scope, reservation.attempt_id
        parts = ("state", f"attempt:{attempt_id}", "audit", "folds", "minutes", "hours", "days")
        at = [keys.of_agent(scope, part) for part in parts]
        waits = decision.verdict is Verdict.IN_FLIGHT and reservation.will_wait
        args: list[Argument] = [reservation.tool, decision.call_id, decision.verdict, "{}", int(not waits)]
        of_run = keys.of_call_in_run(scope, reservation.run_id)
        await self._redis.run("withdraw", [*at, *of_run], [*args, *([attempt_id] if of_run else [])])
        self._trails.grew(scope)

    async def abandon(self, scope: Scope, attempt_id: str) -> None:
        (call_id,) = await self._redis.run("abandon", [keys.of_agent(scope, "attempt", attempt_id)], [])
        found = await self.call(scope, call_id.decode()) if call_id else None
        if found is not None:
            await self.settle(found[1], Outcome.NOT_SENT, None, "abandoned", event="withdrawal", facts="{}")

    async def renew(self, permit: Permit, lease_ms: int) -> Renewed:
        at = [keys.of_agent(permit.scope, part) for part in ("config", "state", f"call:{permit.key}", "open")]
        reply, world, namespace = await self._redis.run(
            "renew", at, [*_proof(permit), lease_ms], keys.epoch_reads(permit.scope.namespace)
        )
        word, version = reply
        return Renewed(word.decode(), int(version), _epochs(world, namespace))

    async def settle(
        self,
        permit: Permit,
        outcome: Outcome,
        answer: Answer | None,
        failure: str,
        *,
        event: str,
        facts: str,
    ) -> Settlement:
        scope = permit.scope
        _, state, opened, *rest = keys.of_decisions(scope)
        slot = keys.slot(scope)
        call, attempt = f"{slot}call:{permit.key}", f"{slot}attempt:{permit.attempt_id}"
        at = [state, call, opened, attempt, *rest, *keys.of_call_in_run(scope, permit.run_id)]
        beside = [*(_not_looked_after(permit) if event == "resolution" else ()), *self._noted(scope, permit.run_id)]
        reply = await self._redis.run(
            "settle",
            at,
            [
                *_proof(permit),
                outcome,
                event,
                failure,
                *_answer_args(answer),
                keys.SETTLED_CHANNEL,
                facts,
                permit.tool,
                self._trails.backlog_cap,
                *([scope.agent_id] if permit.run_id else []),
            ],
            beside,
        )
        self._trails.grew(scope)
        applied, now, charged = reply[0]
        return Settlement(applied == b"1", OUTCOMES[now] if now else outcome, int(charged))

    async def record_degraded(self, call: DegradedCall) -> RecordedCall:
        args = [*_degraded_args(call), self._trails.backlog_cap, *([call.scope.agent_id] if call.run_id else [])]
        reply, *_ = await self._redis.run(
            "record_degraded", _degraded_keys(call), args, self._noted(call.scope, call.run_id)
        )
        self._trails.grew(call.scope)
        return RecordedCall(bool(reply[0]), int(reply[1]))

    async def call(self, scope: Scope, call_id: str) -> tuple[CallRecord, Permit] | None:
        (key,) = await self._redis.ask("find_call", ("GET", keys.of_agent(scope, "id", call_id)))
        known = [key.decode()] if key is not None else await self._open_keys(scope)
        found = await self._records(scope, known)
        return next((pair for pair in found if pair[0].call_id == call_id), None)

    async def open_calls(self, scope: Scope) -> Sequence[CallRecord]:
        return [record for record, _ in await self._records(scope, await self._open_keys(scope))]

    async def events(self, scope: Scope, *, after_seq: int, limit: int) -> Sequence[Event]:
        return await self._trails.ranged(scope, ("XRANGE", f"{after_seq + 1}", "+"), limit)

    async def latest_events(self, scope: Scope, *, before_seq: int | None, limit: int) -> Sequence[Event]:
        newest = "+" if before_seq is None else f"({before_seq}-0"
        return await self._trails.ranged(scope, ("XREVRANGE", newest, "-"), limit)

    async def figures(self, scope: Scope, period: str) -> Figures:
        name, unit_ms, back = PERIODS[period]
        time_reply, counters = await self._redis.ask("figures", ("TIME",), ("HGETALL", keys.of_agent(scope, name)))
        return _figures(counters, unix_ms(time_reply) // unit_ms - back)

    async def running(self, scope: Scope, call_id: str) -> int:
        found = await self.call(scope, call_id)
        if found is None or found[0].state != "in_flight":
            return 0
        (time_reply,) = await self._redis.ask("running", ("TIME",))
        return max(0, found[0].lease_until_ms - unix_ms(time_reply))

    @asynccontextmanager
    async def settled(self) -> AsyncIterator[AsyncIterator[str]]:
        async with self._redis.subscription(keys.SETTLED_CHANNEL) as messages:
            yield (message.decode() async for message in messages)

    def _noted(self, scope: Scope, run_id: str) -> list[Command]:
        """Notes that the agent has something in a run, for who reads it."""
        if not run_id:
            return []
        return [
            self._redis.script(
                "note_run", keys.run_index(scope.namespace, scope.agent_id, run_id), [run_id, scope.agent_id]
            )
        ]

    async def _open_keys(self, scope: Scope) -> list[str]:
        (members,) = await self._redis.ask("open_calls", ("ZRANGE", keys.of_agent(scope, "open"), 0, -1))
        return [member.decode() for member in members]

    async def _records(self, scope: Scope, of: Sequence[str]) -> list[tuple[CallRecord, Permit]]:
        """The records of these keys, without those that are gone."""
        reads = [("HMGET", keys.of_agent(scope, "call", key), *RECORD) for key in of]
        time_reply, *rows = await self._redis.ask("calls", ("TIME",), *reads)
        now_ms = unix_ms(time_reply)
        return [_call(scope, key, row, now_ms) for key, row in zip(of, rows, strict=True) if row[0] is not None]


def _authorize_keys(reservation: Reservation) -> list[str]:
    scope = reservation.scope
    config, state, opened, *rest = keys.of_decisions(scope)
    at, run = keys.slot(scope), reservation.run_id
    call, call_id, attempt = f"call:{reservation.key}", f"id:{reservation.call_id}", f"attempt:{reservation.attempt_id}"
    return [config, state, at + call, opened, at + call_id, at + attempt, *rest, *keys.of_call_in_run(scope, run)]


def _authorize_args(reservation: Reservation) -> list[str | int]:
    limits = reservation.limits
    return [
        reservation.attempt_id,
        reservation.call_id,
        reservation.key,
        reservation.fingerprint,
        reservation.tool,
        reservation.policy_version,
        reservation.switch_reason,
        reservation.rule_reason,
        limits.cost_micros,
        limits.actions_per_hour,
        limits.calls_of_tool,
        limits.spend_micros_per_day,
        reservation.lease_ms,
        int(reservation.hold),
        reservation.ttl_ms,
        int(reservation.will_wait),
        reservation.awaited_call_id,
        f"{reservation.basis.world}.{reservation.basis.namespace}",
        reservation.facts,
        int(reservation.repeatable),
    ]


def _degraded_keys(call: DegradedCall) -> list[str]:
    parts = (
        "state",
        f"call:{call.key}",
        "open",
        f"id:{call.call_id}",
        f"attempt:{call.attempt_id}",
        f"degraded:{call.attempt_id}",
    )
    at = [keys.of_agent(call.scope, part) for part in parts]
    return [*at, *keys.windows(call.scope), *keys.trail(call.scope)[1:], *keys.of_call_in_run(call.scope, call.run_id)]


def _degraded_args(call: DegradedCall) -> list[Argument]:
    return [
        call.attempt_id,
        call.call_id,
        call.key,
        call.fingerprint,
        call.tool,
        call.outcome,
        call.cost_micros,
        call.fence,
        int(call.repeatable),
        call.ttl_ms,
        call.age_ms,
        call.reason,
        call.failure,
        *_answer_args(call.answer),
        call.facts,
        keys.SETTLED_CHANNEL,
    ]


def _answer_args(answer: Answer | None) -> list[Argument]:
    """Status, head, body, kept, size and digest: the order in which every script takes them."""
    told = answer or NO_ANSWER
    return [told.status, told.head, told.body, int(told.kept), told.size, told.digest]


def _held_entry(reservation: Reservation) -> list[Command]:
    """Puts a call that must not be repeated where it is looked after, for when its lease and its try are over.

    By this machine's clock, which need not be Redis': who looks too early sees that.
    """
    if not reservation.hold:
        return []
    due_ms = int(time.time() * 1000) + 2 * reservation.lease_ms
    return [("ZADD", keys.held()[0], "LT", due_ms, keys.held_member(reservation.scope, reservation.key))]


def _not_looked_after(permit: Permit) -> list[Command]:
    """Takes a call that is resolved out of the index of those that must not be repeated."""
    member = keys.held_member(permit.scope, permit.key)
    return [("ZREM", index, member) for index in keys.held()]


def _epochs(world: bytes | None, namespace: bytes | None) -> Epochs:
    return Epochs(int(world or 0), int(namespace or 0))


def _proof(permit: Permit) -> list[str | int]:
    return [permit.key, permit.call_id, permit.fence, permit.attempt_id]


def _decision(reservation: Reservation, reply: Sequence[Any]) -> Decision:
    verdict, reason, call_id, basis = [part.decode() for part in reply[:4]]
    fence, retry_after_ms, charged, actions, calls, spend, resets = map(int, reply[4:11])
    permit = None
    if verdict == Verdict.EXECUTE:
        scope, tool, key = reservation.scope, reservation.tool, reservation.key
        permit = Permit(
            scope, tool, key, call_id, fence, reservation.attempt_id, reservation.lease_ms, reservation.run_id
        )
    failure, answer = _told(reply[11:])
    world, namespace = basis.split(".")
    return Decision(
        verdict=VERDICTS[verdict],
        reason=reason,
        call_id=call_id,
        basis=Epochs(int(world), int(namespace)),
        permit=permit,
        answer=answer,
        failure=failure,
        retry_after_ms=retry_after_ms,
        charged_micros=charged,
        remaining=Remaining(actions, calls, spend, resets),
    )


def _told(parts: Sequence[bytes]) -> tuple[str, Answer | None]:
    if not parts:
        return "", None
    failure, status, head, body, kept, size, digest = parts
    if not status or status == b"0":
        return failure.decode(), None
    return failure.decode(), Answer(int(status), head, body, kept == b"1", int(size), digest)


def _call(scope: Scope, key: str, row: Sequence[bytes | None], now_ms: int) -> tuple[CallRecord, Permit]:
    record = {name: (value or b"").decode() for name, value in zip(RECORD, row, strict=True)}
    lease_until = int(record["lease_until"])
    state = record["state"]
    if state == "in_flight" and lease_until <= now_ms:
        state = "unknown" if record["hold"] == "1" else "expired"
    call_id, fence = record["call_id"], int(record["fence"])
    return (
        CallRecord(
            call_id=call_id,
            agent_id=scope.agent_id,
            tool=record["tool"],
            key=key,
            state=state,
            first_seen_ms=int(record["first_seen"]),
            lease_until_ms=lease_until,
            charged_micros=int(record["charged"]),
            fence=fence,
            tries=int(record["tries"]),
            status=int(record["status"] or 0),
        ),
        Permit(scope, record["tool"], key, call_id, fence, record["attempt"], 0, record["run"]),
    )


def _figures(counters: Any, oldest: int) -> Figures:
    totals: dict[str, int] = {}
    for name, value in text_of(counters).items():
        bucket, _, what = name.partition(":")
        if what and what != "seq" and int(bucket) >= oldest:
            totals[what] = totals.get(what, 0) + int(value)
    tools = [(what[2:], count) for what, count in totals.items() if what.startswith("t:") and count > 0]
    ranked = tuple(sorted(tools, key=lambda item: (-item[1], item[0])))
    return Figures(totals.get("a", 0), totals.get("b", 0), totals.get("s", 0), ranked)
