"""The Tools service."""

import json
import time
from dataclasses import replace

import structlog

from interlock.governance.errors import ConflictError, NotFoundError
from interlock.governance.v1 import admin_pb2 as pb
from interlock.governance.v1 import admin_pb2_grpc
from interlock.policy import access, tools
from interlock.policy.knowledge import Knowledge
from interlock.policy.model import Identity, Role, Snapshot, Switch, Tool
from interlock.policy.plans import Plans
from interlock.policy.ports import Directory, NoRoomError, Room
from interlock.policy.secrets import Keyring
from interlock.policy.services.messages import secrets_of, tool_message, tool_of
from interlock.policy.services.rpc import Caller, rpc
from interlock.policy.switching import Switching

log = structlog.get_logger(__name__)

ATTEMPTS = 5


class ToolsService(admin_pb2_grpc.ToolsServicer):
    """The registry of tools."""

    def __init__(
        self,
        directory: Directory,
        knowledge: Knowledge,
        plans: Plans,
        keyring: Keyring,
        switching: Switching,
        check: tools.Check,
    ) -> None:
        self._directory = directory
        self._knowledge = knowledge
        self._plans = plans
        self._keyring = keyring
        self._switching = switching
        self._check = check

    @rpc
    async def PutTool(self, request: pb.PutToolRequest, caller: Caller) -> pb.Tool:  # noqa: N802 - the contract's name
        identity = await self._knowledge.authenticate(caller.credential)
        access.require(identity, Role.OPERATOR)
        secrets = secrets_of(request)
        wanted = tool_of(request.tool)
        self._check(wanted, secrets)
        put = await self._put(identity, wanted, secrets, request)
        self._changed("tool.put", identity, put.scope_id, put.name, url=put.url)
        return tool_message(put)

    @rpc
    async def GetTool(self, request: pb.ToolRef, caller: Caller) -> pb.Tool:  # noqa: N802 - the contract's name
        identity = await self._knowledge.authenticate(caller.credential)
        return _shown(identity, self._find(await self._snapshot(identity), identity, request))

    @rpc
    async def ListTools(self, request: pb.ListToolsRequest, caller: Caller) -> pb.ListToolsResponse:  # noqa: N802 - the contract's name
        identity = await self._knowledge.authenticate(caller.credential)
        snapshot = await self._snapshot(identity)
        found = [
            tool
            for tool in snapshot.tools.values()
            if request.scope_id in ("", tool.scope_id) and _may_see(identity, tool.scope_id)
        ]
        return pb.ListToolsResponse(
            tools=[_shown(identity, tool) for tool in sorted(found, key=lambda tool: (tool.scope_id, tool.name))]
        )

    @rpc
    async def DeleteTool(self, request: pb.ToolRef, caller: Caller) -> pb.DeleteToolResponse:  # noqa: N802 - the contract's name
        identity = await self._knowledge.authenticate(caller.credential)
        access.require(identity, Role.OPERATOR)
        self._find(await self._snapshot(identity), identity, request)
        scope_id = request.scope_id or tools.GLOBAL_SCOPE
        facts = json.dumps({"key_id": identity.key_id, "scope_id": scope_id})
        await self._directory.delete_tool(identity.namespace, scope_id, request.name, facts=facts)
        self._changed("tool.deleted", identity, scope_id, request.name)
        return pb.DeleteToolResponse()

    @rpc
    async def ToggleTool(self, request: pb.ToggleToolRequest, caller: Caller) -> pb.Tool:  # noqa: N802 - the contract's name
        identity = await self._knowledge.authenticate(caller.credential, counted=False)
        access.require(identity, Role.OPERATOR)
        switch = Switch(not request.enabled)
        return tool_message(await self._switching.tool(identity, request.ref.scope_id, request.ref.name, switch))

    async def _put(self, identity: Identity, wanted: Tool, secrets: tools.Secrets, request: pb.PutToolRequest) -> Tool:
        namespace, asked = identity.namespace, request.tool
        by, enabled = Switch(changed_by=identity.key_id), asked.enabled if asked.HasField("enabled") else None
        ttl_s = wanted.dedup_ttl_s if asked.HasField("dedup_ttl_s") else None
        for _ in range(ATTEMPTS):
            snapshot = await self._knowledge.up_to_date(namespace)
            stored = snapshot.tools.get((wanted.scope_id, wanted.name))
            plan = self._plans.of(snapshot.namespace)
            sealed = tools.with_secrets(
                replace(wanted, dedup_ttl_s=plan.ttl_s(ttl_s)),
                secrets,
                stored,
                namespace=namespace,
                keyring=self._keyring,
                now_ms=_now_ms(),
            )
            owned = replace(sealed, managed_by=stored.managed_by if stored else "")
            switched = tools.switched(owned, stored, enabled=enabled, by=by, now_ms=_now_ms())
            put = await self._stored(identity, snapshot, switched, stored)
            if put is not None:
                return put
        raise _contended()

    async def _stored(self, identity: Identity, snapshot: Snapshot, tool: Tool, replaces: Tool | None) -> Tool | None:
        """The tool as it was put, or None if another change came first. Errors: ExhaustedError `payment_required`."""
        facts = {"key_id": identity.key_id}
        # What is there already takes no more room.
        room = Room(snapshot.namespace.plan, -1) if replaces else self._plans.room(snapshot.namespace)
        try:
            return await self._directory.put_tool(
                identity.namespace, tool, replaces, room=room, facts=json.dumps(facts)
            )
        except NoRoomError as full:
            raise self._plans.no_room(snapshot.namespace, len(snapshot.tools)) from full

    def _changed(self, event: str, identity: Identity, scope_id: str, name: str, **facts: object) -> None:
        self._knowledge.forget(identity.namespace)
        log.info(event, namespace=identity.namespace, key_id=identity.key_id, scope_id=scope_id, tool=name, **facts)

    async def _snapshot(self, identity: Identity) -> Snapshot:
        return await self._knowledge.up_to_date(identity.namespace)

    def _find(self, snapshot: Snapshot, identity: Identity, ref: pb.ToolRef) -> Tool:
        scope_id = ref.scope_id or tools.GLOBAL_SCOPE
        tool = snapshot.tools.get((scope_id, ref.name))
        if tool is None or not _may_see(identity, scope_id):
            raise NotFoundError("tool_not_found", "no tool of that name is registered in that scope")
        return tool


def _now_ms() -> int:
    return int(time.time() * 1000)


def _shown(identity: Identity, tool: Tool) -> pb.Tool:
    """The tool as its caller may see it: to an agent, not where it is or how its calls are signed."""
    message = tool_message(tool)
    if identity.role is Role.AGENT:
        for field in (
            "url",
            "secret_id",
            "secret_mask",
            "upstream_header",
            "upstream_oauth2",
            "upstream_mask",
            "reconcile_url",
            "managed_by",
        ):
            message.ClearField(field)
    return message


def _may_see(identity: Identity, scope_id: str) -> bool:
    if identity.role is not Role.AGENT:
        return True
    return scope_id in (tools.GLOBAL_SCOPE, f"agent:{identity.agent_id}")


def _contended() -> ConflictError:
    return ConflictError("tool_changing", "the tool is being changed by others; try again")
