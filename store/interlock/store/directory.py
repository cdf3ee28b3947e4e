"""Tools, policies, switches, keys and agents: the Directory port."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from interlock.governance.errors import ConflictError
from interlock.policy.model import (
    DEFAULT_NAMESPACE,
    ApiKey,
    Epochs,
    Event,
    Identity,
    Namespace,
    Policy,
    Role,
    Scope,
    Snapshot,
    Switch,
    Tool,
    VersionedPolicy,
)
from interlock.policy.ports import ANY_NUMBER, NoRoomError, Room, ToolChange
from interlock.store import keys
from interlock.store.addresses import Kind
from interlock.store.connection import Connection
from interlock.store.documents import (
    default_policy_from_json,
    default_policy_to_json,
    policy_from_json,
    policy_to_json,
    tool_from_json,
    tool_to_json,
)
from interlock.store.pipe import Argument, Command
from interlock.store.replies import AGENT_SWITCH, agent_switch, pairs, text_of
from interlock.store.settings import OLDEST
from interlock.store.trails import RedisTrails, event_of

CONFIG = ("version", "policy", "managed_by", "risk", "risk_until")
_VERSION = re.compile(rb"redis_version:(\d+)\.(\d+)")


class RedisDirectory:
    """The directory in Redis. What decisions rest on changes in one script together with its epoch or version."""

    def __init__(self, connection: Connection, trails: RedisTrails) -> None:
        self._redis = connection
        self._trails = trails

    async def snapshot(self, namespace: str) -> Snapshot:
        # The epochs are read with (never after) what they stand for, so a snapshot is at least as new as its epochs.
        world = await self._redis.ask_atomically(
            "snapshot",
            ("GET", keys.of_namespace(keys.WORLD, "epoch")),
            ("HGETALL", keys.of_namespace(keys.WORLD, "switch")),
        )
        own = await self._redis.ask_atomically(
            "snapshot",
            ("GET", keys.of_namespace(namespace, "epoch")),
            ("HGETALL", keys.of_namespace(namespace, "switch")),
            ("HGETALL", keys.of_namespace(namespace, "tools")),
            ("HGETALL", keys.of_namespace(namespace, "namespace")),
            ("TIME",),
        )
        tools = _tools(pairs(own[2]))
        return Snapshot(
            epochs=Epochs(int(world[0] or 0), int(own[0] or 0)),
            world_switch=_switch(world[1]),
            namespace_switch=_switch(own[1]),
            tools={(tool.scope_id, tool.name): tool for tool in tools},
            namespace=_namespace(namespace, own[3]),
            read_at_us=int(own[4][0]) * 1_000_000 + int(own[4][1]),
        )

    async def epochs(self, namespace: str) -> Epochs:
        commands = [("GET", keys.of_namespace(name, "epoch")) for name in (keys.WORLD, namespace)]
        world, own = await self._redis.ask("epochs", *commands)
        return Epochs(int(world or 0), int(own or 0))

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[AsyncIterator[str | None]]:
        async with self._redis.subscription(keys.CHANGED_CHANNEL) as messages:
            yield (None if name == keys.WORLD.encode() else name.decode() async for name in messages)

    async def policy(self, scope: Scope) -> VersionedPolicy:
        return (await self.policies([scope]))[0]

    async def policies(self, scopes: Sequence[Scope]) -> Sequence[VersionedPolicy]:
        if not scopes:
            return []
        commands = [("HMGET", keys.of_agent(scope, "config"), *CONFIG) for scope in scopes]
        replies = await self._redis.ask("policies", *commands)
        return [
            replace(policy_from_json(int(version or 0), raw, risk, risk_until), managed_by=(owner or b"").decode())
            for version, raw, owner, risk, risk_until in replies
        ]

    async def put_policy(
        self,
        scope: Scope,
        policy: Policy,
        facts: str,
        *,
        managed_by: str | None = None,
        replaces: int | None = None,
    ) -> int:
        document, cap = policy_to_json(policy), self._trails.backlog_cap
        args: list[str | int] = [document, facts, cap, _or_any(managed_by), _or_any(replaces)]
        version = int((await self._redis.run("put_policy", _config_keys(scope), args))[0])
        self._trails.grew(scope)
        return version

    async def delete_policy(self, scope: Scope, facts: str, *, replaces: int | None = None) -> int | None:
        args: list[str | int] = [facts, self._trails.backlog_cap, _or_any(replaces)]
        version = int((await self._redis.run("delete_policy", _config_keys(scope), args))[0])
        self._trails.grew(scope)
        return None if version < 0 else version

    async def switch_agent(self, scope: Scope, switch: Switch, facts: str) -> Switch:
        args: list[Argument] = [int(switch.pulled), switch.reason, facts, self._trails.backlog_cap, switch.changed_by]
        since = int((await self._redis.run("switch_agent", _config_keys(scope), args))[0])
        self._trails.grew(scope)
        return Switch(True, switch.reason, since, switch.changed_by) if switch.pulled else Switch()

    async def agent_switch(self, scope: Scope) -> Switch:
        return (await self.agent_switches([scope]))[0]

    async def agent_switches(self, scopes: Sequence[Scope]) -> Sequence[Switch]:
        if not scopes:
            return []
        replies = await self._redis.ask(
            "agent_switches", *(("HMGET", keys.of_agent(scope, "config"), *AGENT_SWITCH) for scope in scopes)
        )
        return [agent_switch(fields) for fields in replies]

    async def put_tool(
        self, namespace: str, tool: Tool, replaces: Tool | None, *, room: Room = ANY_NUMBER, facts: str = "{}"
    ) -> Tool | None:
        revision = await self.change_tools(namespace, [ToolChange(replaces, tool)], room=room, facts=facts)
        return replace(tool, revision=revision) if revision else None

    async def change_tools(
        self, namespace: str, changes: Sequence[ToolChange], *, room: Room = ANY_NUMBER, facts: str = "{}"
    ) -> int | None:
        at = [keys.of_namespace(namespace, part) for part in ("tools", "namespace")]
        asked = json.dumps([*map(_change, changes)])
        args: list[Argument] = [asked, room.plan, room.tools, *_announced(namespace), facts]
        revision = int((await self._redis.run("change_tools", [*at, *keys.of_change(namespace)], args))[0])
        if revision < 0:
            raise NoRoomError("payment_required", "the namespace has as many tools as its plan allows")
        return revision or None

    async def delete_tool(self, namespace: str, scope_id: str, name: str, *, facts: str = "{}") -> bool:
        at = [keys.of_namespace(namespace, "tools"), *keys.of_change(namespace)]
        args = [_field(scope_id, name), name, *_announced(namespace), facts]
        return bool((await self._redis.run("delete_tool", at, args))[0])

    async def set_switch(self, namespace: str | None, switch: Switch, *, facts: str = "{}") -> Switch:
        of = namespace or keys.WORLD
        at = [keys.of_namespace(of, "switch"), *keys.of_change(of)]
        args: list[Argument] = [int(switch.pulled), switch.reason, switch.changed_by, *_announced(of), facts]
        changed_at = int((await self._redis.run("set_switch", at, args))[0])
        return replace(switch, changed_at_ms=changed_at)

    async def create_key(self, sha256_hex: str, key: ApiKey, *, facts: str = "{}") -> bool:
        if await self.key(sha256_hex) is not None:
            return False
        identity = key.identity
        args: list[str | int] = [identity.key_id, identity.namespace, int(identity.role), identity.agent_id, key.label]
        index = keys.of_namespace(identity.namespace, "keys")
        # The index first: a key that works is always one that can be found and revoked.
        await self._redis.ask(
            "create_key", _namespace_is(identity.namespace), ("HSET", index, identity.key_id, sha256_hex)
        )
        created = bool(int((await self._redis.run("create_key", [keys.of_api_key(sha256_hex)], args))[0]))
        if created:
            await self._note_keys(identity.namespace, "CREATED", facts)
        else:
            await self._redis.ask("create_key", ("HDEL", index, identity.key_id))
        return created

    async def key(self, sha256_hex: str) -> ApiKey | None:
        (fields,) = await self._redis.ask("key", ("HGETALL", keys.of_api_key(sha256_hex)))
        return _api_key(fields) if fields else None

    async def keys(self, namespace: str) -> Sequence[ApiKey]:
        (index,) = await self._redis.ask("keys", ("HVALS", keys.of_namespace(namespace, "keys")))
        if not index:
            return []
        records = await self._redis.ask("keys", *(("HGETALL", keys.of_api_key(sha.decode())) for sha in index))
        found = [_api_key(fields) for fields in records if fields]
        return sorted(found, key=lambda key: (key.created_at_ms, key.identity.key_id))

    async def revoke_key(self, namespace: str, key_id: str, *, facts: str = "{}") -> ApiKey | None:
        (sha,) = await self._redis.ask("revoke_key", ("HGET", keys.of_namespace(namespace, "keys"), key_id))
        if sha is None:
            return None
        await self._redis.run("revoke_key", [keys.of_api_key(sha.decode())], [])
        # Only now may engines that remember the key be told to forget it.
        await self._note_keys(namespace, "REVOKED", facts)
        return await self.key(sha.decode())

    async def namespace(self, name: str) -> Namespace:
        (fields,) = await self._redis.ask("namespace", ("HGETALL", keys.of_namespace(name, "namespace")))
        return _namespace(name, fields)

    async def trail(self, namespace: str | None, *, after_seq: int, limit: int) -> Sequence[Event]:
        at = keys.of_namespace(namespace or keys.WORLD, "audit")
        (entries,) = await self._redis.ask("trail", ("XRANGE", at, f"{after_seq + 1}", "+", "COUNT", limit))
        nobody = Scope(namespace or "", "")
        return [event_of(nobody, entry, fields) for entry, fields in entries]

    async def namespaces(self) -> Sequence[Namespace]:
        (members,) = await self._redis.ask("namespaces", ("SMEMBERS", keys.of_namespace(keys.WORLD, "namespaces")))
        names = sorted(member.decode() for member in members)
        if not names:
            return []
        records = await self._redis.ask(
            "namespaces", *(("HGETALL", keys.of_namespace(name, "namespace")) for name in names)
        )
        return [_namespace(name, fields) for name, fields in zip(names, records, strict=True) if fields]

    async def put_namespace(
        self, namespace: Namespace, month: str, runs: int, *, facts: str = "{}"
    ) -> Namespace | None:
        name = namespace.name
        # The index first: a namespace that works is always one that can be found.
        await self._redis.ask("put_namespace", ("SADD", keys.of_namespace(keys.WORLD, "namespaces"), name))
        at = [keys.of_namespace(name, part) for part in ("namespace", "usage")]
        args: list[Argument] = [
            namespace.revision,
            namespace.plan,
            default_policy_to_json(namespace.default_policy),
            namespace.description,
            month,
            runs,
            *_announced(name),
            facts,
            namespace.run_handler,
        ]
        put = int((await self._redis.run("put_namespace", [*at, *keys.of_change(name)], args))[0])
        return await self.namespace(name) if put else None

    async def delete_namespace(self, namespace: Namespace, *, force: bool, facts: str = "{}") -> Namespace | None:
        name = namespace.name
        at = [keys.of_namespace(name, part) for part in ("namespace", "tools")]
        args: list[Argument] = [namespace.revision, int(force), *_announced(name), facts]
        deleted = int((await self._redis.run("delete_namespace", [*at, *keys.of_change(name)], args))[0])
        if deleted < 0:
            raise ConflictError("namespace_in_use", "the namespace has tools")
        return await self.namespace(name) if deleted else None

    async def see_agent(self, scope: Scope) -> None:
        index = keys.of_namespace(scope.namespace, "agents")
        (time_reply,) = await self._redis.ask("see_agent", ("TIME",))
        now_ms = int(time_reply[0]) * 1000
        await self._redis.ask(
            "see_agent",
            # Also here: what was set up by a version without that index is found again.
            _namespace_is(scope.namespace),
            ("ZADD", index, now_ms, scope.agent_id),
            ("ZREMRANGEBYSCORE", index, "-inf", now_ms - keys.AGENT_TTL_MS),
        )

    async def agents(self, namespace: str) -> Sequence[str]:
        (members,) = await self._redis.ask("agents", ("ZRANGE", keys.of_namespace(namespace, "agents"), 0, -1))
        return sorted(member.decode() for member in members)

    async def _note_keys(self, namespace: str, verdict: str, facts: str) -> None:
        args = [verdict, *_announced(namespace), facts]
        await self._redis.run("change_keys", keys.of_change(namespace), args)

    async def check(self) -> str:
        # CONFIG would say the same, but hosted Redis does not let everybody ask.
        told = await self._redis.ask_each("check", ("INFO", "server"), ("INFO", "memory"))
        return next((wrong for replies in told if (wrong := _unfit(self._redis.kind, *replies))), "")


def _unfit(kind: Kind, server: bytes, memory: bytes) -> str:
    """What is wrong with a Redis for what the URL says that it is; nothing if it will do."""
    found = _VERSION.search(server)
    if found is None or (int(found[1]), int(found[2])) < OLDEST:
        return "Redis is older than 6.2"
    if b"redis_mode:sentinel" in server:
        return "redis.url names a sentinel: it must be redis+sentinel://HOST,HOST/SERVICE"
    if b"redis_mode:cluster" in server and kind is not Kind.CLUSTER:
        return "redis.url names a node of a cluster: it must be redis+cluster://HOST,HOST"
    if b"maxmemory_policy:noeviction" not in memory:
        return "Redis may evict records: its maxmemory-policy must be noeviction"
    return ""


def _field(scope_id: str, name: str) -> str:
    return f"{scope_id}|{name}"


def _namespace_is(namespace: str) -> Command:
    return ("SADD", keys.of_namespace(keys.WORLD, "namespaces"), namespace)


def _change(change: ToolChange) -> tuple[str, str, str]:
    """A change as the script takes it. A tool is known by its revision: its text may be an older version's."""
    named = change.after or change.before
    if named is None:
        raise ValueError("a change of a tool names none")
    after = "" if change.after is None else "=" if change.after is change.before else tool_to_json(change.after)
    return _field(named.scope_id, named.name), str(change.before.revision if change.before else 0), after


def _or_any(value: str | int | None) -> str | int:
    return "*" if value is None else value


def _announced(namespace: str) -> tuple[str, str]:
    """Where a change is made known, and as whose."""
    return keys.CHANGED_CHANNEL, namespace


def _config_keys(scope: Scope) -> list[str]:
    return [keys.of_agent(scope, "config"), *keys.trail(scope)]


def _tools(fields: dict[str, bytes]) -> list[Tool]:
    return [
        tool_from_json(raw, int(fields[f"{field}|revision"])) for field, raw in fields.items() if field.count("|") == 1
    ]


def _switch(fields: Any) -> Switch:
    if not fields:
        return Switch()
    kept = pairs(fields)
    by = kept.get("by", b"").decode()
    at_us = int(kept.get("changed_us", 0))
    return Switch(kept["pulled"] == b"1", kept["reason"].decode(), int(kept["changed_at"]), by, at_us)


def _namespace(name: str, fields: Sequence[bytes]) -> Namespace:
    kept = text_of(fields)
    standing = name == DEFAULT_NAMESPACE
    return Namespace(
        name=name,
        description=kept.get("description", ""),
        plan=kept.get("plan", ""),
        default_policy=default_policy_from_json(kept.get("default_policy", "")),
        created_at_ms=0 if standing else int(kept.get("created_at", 0)),
        deleted_at_ms=int(kept.get("deleted_at", 0)),
        revision=int(kept.get("revision", 0)),
        run_handler=kept.get("run_handler", ""),
    )


def _api_key(fields: Sequence[bytes]) -> ApiKey:
    text = text_of(fields)
    return ApiKey(
        identity=Identity(text["key_id"], text["namespace"], Role(int(text["role"])), text["agent_id"]),
        label=text["label"],
        created_at_ms=int(text["created_at"]),
        revoked_at_ms=int(text["revoked_at"]),
    )
