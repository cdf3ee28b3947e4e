"""The Policies service."""

import json
from collections.abc import Iterable, Mapping

from interlock.governance.errors import NotFoundError
from interlock.governance.v1 import admin_pb2 as pb
from interlock.governance.v1 import admin_pb2_grpc
from interlock.policy import access, policies, templates
from interlock.policy.knowledge import Knowledge
from interlock.policy.model import Identity, Policy, Role, Scope
from interlock.policy.plans import Plans
from interlock.policy.ports import Directory
from interlock.policy.services.messages import agent_policy_message, policy_of
from interlock.policy.services.rpc import Caller, rpc


async def check_plan(knowledge: Knowledge, plans: Plans, identity: Identity, wanted: Iterable[Policy]) -> None:
    """Refuses what the namespace's plan lacks; an admin is not held to it. Errors: `feature_not_available`."""
    if identity.role is Role.ADMIN:
        return
    plan = plans.shown((await knowledge.up_to_date(identity.namespace)).namespace)
    for policy in wanted:
        plan.require_for(policy)


class PoliciesService(admin_pb2_grpc.PoliciesServicer):
    """What each agent may do."""

    def __init__(self, directory: Directory, knowledge: Knowledge, plans: Plans) -> None:
        self._directory = directory
        self._plans = plans
        self._knowledge = knowledge

    @rpc
    async def PutPolicy(self, request: pb.PutPolicyRequest, caller: Caller) -> pb.AgentPolicy:  # noqa: N802 - the contract's name
        identity = await self._knowledge.authenticate(caller.credential)
        scope = access.managed_agent(identity, request.agent_id)
        return await self._put(identity, scope, policy_of(request.policy), {"key_id": identity.key_id})

    @rpc
    async def PutPolicyFromTemplate(  # noqa: N802 - the contract's name
        self, request: pb.PutPolicyFromTemplateRequest, caller: Caller
    ) -> pb.AgentPolicy:
        identity = await self._knowledge.authenticate(caller.credential)
        scope = access.managed_agent(identity, request.agent_id)
        policy = templates.policy_from(request.template, policy_of(request.overrides), request.overridden)
        return await self._put(identity, scope, policy, {"key_id": identity.key_id, "template": request.template})

    @rpc
    async def DeletePolicy(self, request: pb.AgentRef, caller: Caller) -> pb.DeletePolicyResponse:  # noqa: N802 - the contract's name
        identity = await self._knowledge.authenticate(caller.credential)
        scope = access.managed_agent(identity, request.agent_id)
        version = await self._directory.delete_policy(scope, json.dumps({"key_id": identity.key_id}))
        if not version:
            raise _not_found()
        self._knowledge.learn(scope, await self._directory.policy(scope))
        return pb.DeletePolicyResponse()

    @rpc
    async def GetPolicy(self, request: pb.AgentRef, caller: Caller) -> pb.AgentPolicy:  # noqa: N802 - the contract's name
        identity = await self._knowledge.authenticate(caller.credential)
        scope = access.readable_agent(identity, request.agent_id)
        policy = await self._directory.policy(scope)
        if policy.policy is None:
            raise _not_found()
        return agent_policy_message(scope.agent_id, policy)

    @rpc
    async def ListPolicies(self, request: pb.ListPoliciesRequest, caller: Caller) -> pb.ListPoliciesResponse:  # noqa: N802, ARG002 - the contract's name and shape
        identity = await self._knowledge.authenticate(caller.credential)
        access.require(identity, Role.VIEWER)
        scopes = [Scope(identity.namespace, agent) for agent in await self._directory.agents(identity.namespace)]
        found = zip(scopes, await self._directory.policies(scopes), strict=True)
        return pb.ListPoliciesResponse(
            policies=[agent_policy_message(scope.agent_id, policy) for scope, policy in found if policy.policy]
        )

    async def _put(self, identity: Identity, scope: Scope, policy: Policy, facts: Mapping[str, str]) -> pb.AgentPolicy:
        policies.check(policy)
        await check_plan(self._knowledge, self._plans, identity, [policy])
        await self._knowledge.see(scope)
        await self._directory.put_policy(scope, policy, json.dumps(facts))
        # Whose it is stays as it was, so the store is asked; another may have put a newer one meanwhile.
        stored = await self._directory.policy(scope)
        self._knowledge.learn(scope, stored)
        return agent_policy_message(scope.agent_id, stored)


def _not_found() -> NotFoundError:
    return NotFoundError("policy_not_found", "this agent has no policy of its own")
