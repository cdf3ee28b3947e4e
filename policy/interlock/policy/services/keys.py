"""The Keys service."""

import json

import structlog

from interlock.governance.errors import InternalError, InvalidRequestError, NotFoundError
from interlock.governance.ids import new_id
from interlock.governance.v1 import admin_pb2 as pb
from interlock.governance.v1 import admin_pb2_grpc
from interlock.policy import access, credentials
from interlock.policy.knowledge import Knowledge
from interlock.policy.model import ApiKey, Identity, Role
from interlock.policy.ports import Directory
from interlock.policy.services.messages import key_message, role_of
from interlock.policy.services.rpc import Caller, rpc

log = structlog.get_logger(__name__)

MAX_LABEL = 128


class KeysService(admin_pb2_grpc.KeysServicer):
    """API keys of a namespace."""

    def __init__(self, directory: Directory, knowledge: Knowledge) -> None:
        self._directory = directory
        self._knowledge = knowledge

    @rpc
    async def CreateKey(self, request: pb.CreateKeyRequest, caller: Caller) -> pb.CreateKeyResponse:  # noqa: N802 - the contract's name
        identity = await self._knowledge.authenticate(caller.credential)
        role = role_of(request.role)
        access.require(identity, max(Role.OPERATOR, role))
        bound_to = _bound_agent(role, request.agent_id)
        if len(request.label) > MAX_LABEL:
            raise InvalidRequestError("invalid_request", f"a label has at most {MAX_LABEL} characters", field="label")
        value = credentials.new_key()
        made = Identity(new_id("key"), identity.namespace, role, bound_to)
        address = credentials.address(value)
        facts = {"key_id": identity.key_id, "made": made.key_id, "role": role.name.lower(), "agent_id": bound_to}
        await self._directory.create_key(address, ApiKey(made, request.label, 0), facts=json.dumps(facts))
        stored = await self._directory.key(address)
        if stored is None:
            raise InternalError("internal", "the key was not stored")
        log.info("key.created", namespace=identity.namespace, by=identity.key_id, key_id=made.key_id, role=role.name)
        return pb.CreateKeyResponse(key=value, info=key_message(stored))

    @rpc
    async def ListKeys(self, request: pb.ListKeysRequest, caller: Caller) -> pb.ListKeysResponse:  # noqa: N802, ARG002 - the contract's name and shape
        identity = await self._knowledge.authenticate(caller.credential)
        access.require(identity, Role.OPERATOR)
        return pb.ListKeysResponse(keys=[key_message(key) for key in await self._directory.keys(identity.namespace)])

    @rpc
    async def RevokeKey(self, request: pb.RevokeKeyRequest, caller: Caller) -> pb.ApiKey:  # noqa: N802 - the contract's name
        identity = await self._knowledge.authenticate(caller.credential)
        access.require(identity, Role.OPERATOR)
        found = [key for key in await self._directory.keys(identity.namespace) if key.identity.key_id == request.key_id]
        if found:
            access.require(identity, found[0].identity.role)
        facts = json.dumps({"key_id": identity.key_id, "revoked": request.key_id})
        revoked = await self._directory.revoke_key(identity.namespace, request.key_id, facts=facts)
        self._knowledge.forget(identity.namespace)
        if revoked is None:
            raise NotFoundError("key_not_found", "no key of that id in this namespace")
        log.info("key.revoked", namespace=identity.namespace, by=identity.key_id, key_id=request.key_id)
        return key_message(revoked)


def _bound_agent(role: Role, agent_id: str) -> str:
    if role is Role.AGENT:
        return access.agent_id(agent_id)
    if agent_id:
        raise InvalidRequestError("invalid_request", "only a key with the role agent is bound to one", field="agent_id")
    return ""
