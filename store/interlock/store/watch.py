"""Agents' trails as the watcher of alerts reads them, and where it stands: the Watch port."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from interlock.policy.alert_ports import Evidence, Raised, Sighting, Watched
from interlock.policy.anomalies import Anomaly, Behaviour, Usual, usual_of
from interlock.policy.model import Scope
from interlock.store import keys
from interlock.store.connection import Connection
from interlock.store.pipe import Argument
from interlock.store.replies import text_of, unix_ms
from interlock.store.trails import RedisTrails
from interlock.store.watched import alert_to_json, watched_from_json, watched_to_json

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
NUMBERS = 1_000_000
"""More entries than these no stream gets in one ms."""


class RedisWatch:
    """Watching in Redis. Where it stands is kept in the slot of the namespace, beside the alerts it raises."""

    def __init__(self, connection: Connection, trails: RedisTrails) -> None:
        self._redis = connection
        self._trails = trails

    async def lead(self, holder: str, ttl_ms: int) -> int | None:
        (fence,) = await self._redis.run("lead", [keys.of_namespace(keys.WORLD, "watcher")], [holder, ttl_ms])
        return int(fence) or None

    async def stop_leading(self, holder: str) -> None:
        await self._redis.run("unlead", [keys.of_namespace(keys.WORLD, "watcher")], [holder])

    async def now_ms(self) -> int:
        (time_reply,) = await self._redis.ask("watch", ("TIME",))
        return unix_ms(time_reply)

    async def since_ms(self) -> int:
        at = keys.of_namespace(keys.WORLD, "watcher")
        now_ms = await self.now_ms()
        _, since = await self._redis.ask("watch", ("HSETNX", at, "since", now_ms), ("HGET", at, "since"))
        return int(since)

    async def records(self, scopes: Sequence[Scope]) -> Mapping[Scope, str]:
        reads = [("HGET", keys.of_namespace(scope.namespace, "watched"), scope.agent_id) for scope in scopes]
        found = await self._redis.ask("watch", *reads) if reads else []
        return {scope: record.decode() for scope, record in zip(scopes, found, strict=True) if record is not None}

    def watched_of(self, record: str) -> Watched:
        return watched_from_json(record) if record else Watched()

    async def past(self, scope: Scope) -> Behaviour:
        (counters,) = await self._redis.ask("watch", ("HGETALL", keys.of_agent(scope, "hours")))
        counted = text_of(counters)
        whats = [name.partition(":")[2] for name in counted]
        calls = sum(int(count) for name, count in counted.items() if name.endswith(":a"))
        tools = dict.fromkeys(what.removeprefix("t:") for what in whats if what.startswith("t:"))
        return Behaviour(calls=calls, tools=tuple(tools))

    async def news(self, after: Mapping[Scope, int], limit: int) -> Mapping[Scope, Sequence[Sighting]]:
        scopes = [*after]
        trails = [(*_after(of, after[of]), "+", "COUNT", limit) for of in scopes]
        folds = [("HGET", keys.of_agent(of, "state"), "folding") for of in scopes]
        replies = await self._redis.ask("watch", *trails, *folds) if scopes else []
        await self._trails.unfold([of for of, folding in zip(scopes, replies[len(scopes) :], strict=True) if folding])
        pages = zip(scopes, replies[: len(scopes)], strict=True)
        return {of: [_seen(of, *entry) for entry in entries] for of, entries in pages if entries}

    async def usual(self, scope: Scope, now_ms: int) -> Usual:
        (counters,) = await self._redis.ask("watch", ("HGETALL", keys.of_agent(scope, "hours")))
        by_hour = {
            int(name.removesuffix(":a")): int(count) for name, count in text_of(counters).items() if name.endswith(":a")
        }
        running = now_ms // HOUR_MS
        return usual_of({hour: calls for hour, calls in by_hour.items() if hour >= running - 168}, running)

    async def calls_today(self, scope: Scope, tools: Sequence[str], now_ms: int) -> Mapping[str, int]:
        if not tools:
            return {}
        names = [f"{now_ms // DAY_MS}:t:{tool}" for tool in tools]
        (counts,) = await self._redis.ask("watch", ("HMGET", keys.of_agent(scope, "days"), *names))
        return {tool: int(count or 0) for tool, count in zip(tools, counts, strict=True)}

    async def note_anomaly(self, scope: Scope, anomaly: Anomaly, evidence: Evidence) -> bool:
        at = [keys.of_agent(scope, part) for part in ("config", "state", "audit", "folds", "anomalies")]
        action = "disable" if evidence.disable else "alert"
        facts = {"evidence_seq": evidence.seq, "action": action, **anomaly.facts}
        args: list[Argument] = [
            anomaly.subject,
            anomaly.tool,
            anomaly.kind,
            json.dumps(facts, separators=(",", ":")),
            evidence.seq,
            evidence.quiet_ms,
            anomaly.kind.risk,
            evidence.risk_ms,
            int(evidence.disable),
            f"anomaly: {anomaly.kind}" + (f" ({anomaly.tool})" if anomaly.tool else ""),
            self._trails.backlog_cap,
        ]
        noted = bool((await self._redis.run("note_anomaly", at, args))[0])
        if noted:
            self._trails.grew(scope)
        return noted

    async def commit(self, steps: Sequence[Raised]) -> Sequence[str | None]:
        if not steps:
            return []
        records = [watched_to_json(step.after) for step in steps]
        runs = [_raising(step, record) for step, record in zip(steps, records, strict=True)]
        taken = await self._redis.run_all("raise_alerts", runs)
        return [record if took else None for record, took in zip(records, taken, strict=True)]

    async def forget(self, namespace: str, agents: Sequence[str]) -> None:
        if agents:
            await self._redis.ask("watch", ("HDEL", keys.of_namespace(namespace, "watched"), *agents))


def _raising(step: Raised, record: str) -> tuple[list[str], list[Argument]]:
    namespace = step.scope.namespace
    raised = [
        {"id": alert.alert_id, "document": alert_to_json(alert), "channels": channels}
        for alert, channels in step.alerts
    ]
    at = [keys.of_namespace(namespace, "watched"), *keys.of_alerts(namespace).values()]
    return at, [step.scope.agent_id, step.before, record, json.dumps(raised, separators=(",", ":"))]


def _after(scope: Scope, seq: int) -> tuple[str, str, str]:
    """Where an agent's events begin that are new; or, of nobody, the namespace's failures."""
    if scope.agent_id:
        return "XRANGE", keys.of_agent(scope, "audit"), f"{seq + 1}"
    at_ms, number = divmod(seq, NUMBERS)
    return "XRANGE", keys.of_namespace(scope.namespace, "failures"), f"({at_ms}-{number}"


def _seen(scope: Scope, entry_id: bytes, fields: Any) -> Sighting:
    return _sighting(entry_id, fields) if scope.agent_id else _failure(entry_id, fields)


def _failure(entry_id: bytes, fields: Any) -> Sighting:
    """A lease or a keyed run that failed. Its place in the stream, <unix ms>-<number>, is its seq."""
    at_ms, _, number = entry_id.partition(b"-")
    told = text_of(fields)
    facts = {"agent_id": told["agent"], "key": told["key"], "of": told["kind"]}
    seq = int(at_ms) * NUMBERS + int(number)
    return Sighting(seq, int(at_ms), "failure", "", "", "", told["error_code"], 0, json.dumps(facts).encode())


def _sighting(entry_id: bytes, fields: Any) -> Sighting:
    """The fields are written in one order, whatever may follow: type, tool, call, verdict, reason, charged, facts."""
    seq, _, at_ms = entry_id.partition(b"-")
    kind, tool, call, verdict, reason, charged, facts = fields[1:14:2]
    return Sighting(
        int(seq),
        int(at_ms),
        kind.decode(),
        tool.decode(),
        call.decode(),
        verdict.decode(),
        reason.decode(),
        int(charged),
        facts,
    )
