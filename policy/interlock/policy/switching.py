"""Kill switches of every kind: pulled and lifted, with who did it, why and when."""

import json
import time

import structlog

from interlock.governance.errors import ConflictError, NotFoundError
from interlock.policy import access, tools
from interlock.policy.knowledge import Knowledge
from interlock.policy.model import Identity, Role, Scope, Switch, Tool
from interlock.policy.plans import Plans
from interlock.policy.ports import Directory, Room

log = structlog.get_logger(__name__)

ATTEMPTS = 5


class Switching:
    """Changes switches. Each change holds for the very next decision on every engine."""

    def __init__(self, directory: Directory, knowledge: Knowledge, plans: Plans) -> None:
        self._directory = directory
        self._knowledge = knowledge
        self._plans = plans

    async def world(self, identity: Identity, switch: Switch) -> Switch:
        """The global one. Errors: DeniedError."""
        access.require(identity, Role.ADMIN)
        return await self._above(identity, None, switch)

    async def namespace(self, identity: Identity, switch: Switch) -> Switch:
        """Errors: DeniedError, `feature_not_available` among them."""
        access.require(identity, Role.OPERATOR)
        await self._check_plan(identity, switch)
        return await self._above(identity, identity.namespace, switch)

    async def agent(self, identity: Identity, agent_id: str, switch: Switch) -> Switch:
        """Errors: DeniedError, `feature_not_available` among them; InvalidRequestError."""
        scope = access.managed_agent(identity, agent_id)
        await self._check_plan(identity, switch)
        await self._knowledge.see(scope)
        return await self._directory.switch_agent(scope, _by(identity, switch), _facts(identity))

    async def tool(self, identity: Identity, scope_id: str, name: str, switch: Switch) -> Tool:
        """Errors: DeniedError, NotFoundError `tool_not_found`, ConflictError `tool_changing`."""
        access.require(identity, Role.OPERATOR)
        for _ in range(ATTEMPTS):
            snapshot = await self._knowledge.up_to_date(identity.namespace)
            stored = snapshot.tools.get((scope_id or tools.GLOBAL_SCOPE, name))
            if stored is None:
                raise NotFoundError("tool_not_found", "no tool of that name is registered in that scope")
            # It takes no more room, and a kill switch must not hang on what a plan says.
            put = await self._directory.put_tool(
                identity.namespace,
                tools.switched(stored, stored, enabled=not switch.pulled, by=_by(identity, switch), now_ms=_now_ms()),
                stored,
                room=Room(snapshot.namespace.plan, -1),
                facts=json.dumps({"key_id": identity.key_id, "enabled": not switch.pulled, "why": switch.reason}),
            )
            if put is not None:
                self._knowledge.forget(identity.namespace)
                self._log("tool", identity, switch, tool=name, scope_id=put.scope_id)
                return put
        raise ConflictError("tool_changing", "the tool is being changed by others; try again")

    async def agents_switched_off(self, namespace: str) -> list[tuple[str, Switch]]:
        """By agent."""
        agents = sorted(await self._directory.agents(namespace))
        found = await self._directory.agent_switches([Scope(namespace, agent) for agent in agents])
        return [(agent, switch) for agent, switch in zip(agents, found, strict=True) if switch.pulled]

    async def _above(self, identity: Identity, namespace: str | None, switch: Switch) -> Switch:
        set_to = await self._directory.set_switch(namespace, _by(identity, switch), facts=_facts(identity))
        self._knowledge.forget(namespace)
        self._log("namespace" if namespace else "global", identity, switch, namespace=namespace)
        return set_to

    async def _check_plan(self, identity: Identity, switch: Switch) -> None:
        """Lifting is always allowed, and an admin is not held to a plan."""
        if switch.pulled and identity.role is not Role.ADMIN:
            snapshot = await self._knowledge.up_to_date(identity.namespace)
            self._plans.shown(snapshot.namespace).require("kill_switch")

    def _log(self, scope: str, identity: Identity, switch: Switch, **facts: object) -> None:
        log.info("switch.set", scope=scope, pulled=switch.pulled, key_id=identity.key_id, **facts)


def _by(identity: Identity, switch: Switch) -> Switch:
    return Switch(switch.pulled, switch.reason, changed_by=identity.key_id)


def _facts(identity: Identity) -> str:
    return json.dumps({"key_id": identity.key_id})


def _now_ms() -> int:
    return int(time.time() * 1000)
