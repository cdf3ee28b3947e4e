"""The Tools service."""

import json
import time
from dataclasses import replace
from functools import partial

import structlog

from interlock.governance.errors import ConflictError, NotFoundError
from interlock.governance.v1 import admin_pb2 as pb
from interlock.governance.v1 import admin_pb2_grpc
from interlock.governance.v1.governance_pb2 import ON_AMBIGUOUS_HOLD, ON_GOVERNANCE_FAILURE_OPEN
from interlock.policy import access, tools
from interlock.policy.knowledge import Knowledge
from interlock.policy.model import Identity, Role, Snapshot, Switch, Tool
from interlock.policy.plans import Plans
from interlock.policy.ports import Directory, NoRoomError, Room
from interlock.policy.secrets import Keyring
from interlock.policy.services.messages import DEDUP_OF, given_of, tool_message
from interlock.policy.services.rpc import Caller, rpc
from interlock.policy.switching import Switching

log = structlog.get_logger(__name__)

ATTEMPTS = 5
DEFAULT = Tool(name="", scope_id="", url="")


class ToolsService(admin_pb2_grpc.ToolsServicer):
    """The registry of tools."""

    def __init__(
        self,
        directory: Directory,
        knowledge: Knowledge,
        plans: Plans,
        keyring: Keyring,
        *,
        allow_loopback: bool,
        allow_plaintext_tokens: bool = False,
    ) -> None:
        self._directory = directory
        self._knowledge = knowledge
        self._plans = plans
        self._switching = Switching(directory, knowledge, plans)
        self._keyring = keyring
        self._check = partial(tools.check, allow_loopback=allow_loopback, allow_plaintext_tokens=allow_plaintext_tokens)

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
        identity = await self._knowledge.authenticate(caller.credential)
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


def tool_of(message: pb.Tool) -> Tool:
    """The tool that a message describes, with defaults for what it leaves out."""

    def given(name: str) -> int:
        return int(getattr(message, name) if message.HasField(name) else getattr(DEFAULT, name))  # type: ignore[arg-type] # the names below are fields

    return Tool(
        name=message.name,
        scope_id=message.scope_id or tools.GLOBAL_SCOPE,
        url=message.url,
        timeout_ms=given("timeout_ms"),
        max_retries=given("max_retries"),
        enabled=message.enabled if message.HasField("enabled") else True,
        description=message.description,
        methods=tuple(message.methods) or DEFAULT.methods,
        subpaths=message.subpaths,
        dedup=DEDUP_OF.get(message.dedup_mode),
        dedup_ttl_s=given("dedup_ttl_s"),
        dedup_ignore=tuple(message.dedup_ignore),
        dedup_run_id=message.dedup_run_id,
        hold=message.on_ambiguous == ON_AMBIGUOUS_HOLD,
        read_only=message.read_only,
        risk=message.risk or DEFAULT.risk,
        replay_max_bytes=given("replay_max_bytes"),
        fails_open=message.on_governance_failure == ON_GOVERNANCE_FAILURE_OPEN,
        open_max_calls_per_minute=given("open_max_calls_per_minute"),
        reconcile_url=message.reconcile_url,
        reconcile_deadline_s=given("reconcile_deadline_s"),
        reconcile_timeout_ms=given("reconcile_timeout_ms"),
    )


def secrets_of(request: pb.PutToolRequest) -> tools.Secrets:
    """The secrets that come with a tool."""
    return tools.Secrets(
        signing=request.secret if request.HasField("secret") else None,
        grace_s=request.secret_grace_s if request.HasField("secret_grace_s") else tools.DEFAULT_GRACE_S,
        credential=given_of(request.upstream_credential) if request.HasField("upstream_credential") else None,
    )


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
