"""The Configuration service."""

from dataclasses import replace

from interlock.governance.errors import InvalidRequestError
from interlock.governance.v1 import configuration_pb2 as pb
from interlock.governance.v1 import configuration_pb2_grpc
from interlock.policy import access
from interlock.policy.applying import Action, Applier, Desired, Facts, Step, ToolStep, WantedTool
from interlock.policy.knowledge import Knowledge
from interlock.policy.model import Policy, Role, Tool
from interlock.policy.plans import Plans
from interlock.policy.services.messages import agent_policy_message, policy_of, secrets_of, tool_message, tool_of
from interlock.policy.services.policies import check_plan
from interlock.policy.services.rpc import Caller, rpc


class ConfigurationService(configuration_pb2_grpc.ConfigurationServicer):
    """Tools and policies as a whole."""

    def __init__(self, applier: Applier, knowledge: Knowledge, plans: Plans) -> None:
        self._applier = applier
        self._plans = plans
        self._knowledge = knowledge

    @rpc
    async def Apply(self, request: pb.ApplyRequest, caller: Caller) -> pb.ApplyResponse:  # noqa: N802 - the contract's name
        credential = caller.credential
        if request.namespace and credential.namespace not in ("", request.namespace):
            message = f"the files are for {request.namespace}, and not for {credential.namespace}"
            raise InvalidRequestError("invalid_request", message, field="namespace")
        if request.namespace:
            credential = replace(credential, namespace=request.namespace)
        identity = await self._knowledge.authenticate(credential)
        access.require(identity, Role.OPERATOR)
        wanted = [policy_of(put.policy) for put in request.policies]
        await check_plan(self._knowledge, self._plans, identity, wanted)
        return await self.apply(request, identity.namespace, {"key_id": identity.key_id})

    async def apply(self, request: pb.ApplyRequest, namespace: str, facts: Facts) -> pb.ApplyResponse:
        """The same for who needs no key. `facts` says who it is."""
        steps = await self._applier.apply(namespace, desired_of(request), facts, dry_run=request.dry_run)
        return pb.ApplyResponse(changes=[change_message(step) for step in steps])


def desired_of(request: pb.ApplyRequest) -> Desired:
    """What a message asks for. Errors: InvalidRequestError if an agent stands in it twice, or by no name."""
    agents: dict[str, Policy] = {}
    for put in request.policies:
        if access.agent_id(put.agent_id) in agents:
            raise InvalidRequestError("invalid_policy", f"the agent {put.agent_id} stands here twice", field="policies")
        agents[put.agent_id] = policy_of(put.policy)
    wanted = [
        WantedTool(
            tool_of(put.tool),
            secrets_of(put),
            put.tool.enabled if put.tool.HasField("enabled") else None,
            says_ttl=put.tool.HasField("dedup_ttl_s"),
        )
        for put in request.tools
    ]
    return Desired(request.owner, tuple(wanted), agents, prune=request.prune, force=request.force)


def change_message(step: Step) -> pb.Change:
    action = pb.ChangeAction.Value(f"CHANGE_ACTION_{step.action}")
    if isinstance(step, ToolStep):
        return _tool_change(action, step)
    change = pb.Change(action=action)
    if step.before.policy is not None:
        change.policy_before.CopyFrom(agent_policy_message(step.agent_id, step.before))
    if step.after.policy is not None:
        change.policy_after.CopyFrom(agent_policy_message(step.agent_id, step.after))
    return change


def _tool_change(action: pb.ChangeAction.ValueType, step: ToolStep) -> pb.Change:
    change = pb.Change(action=action, held_off=step.held_off, secret_changed=_secret_changed(step))
    for side, tool in ((change.tool_before, step.before), (change.tool_after, step.after)):
        if tool is not None:
            side.CopyFrom(tool_message(tool))
            side.ClearField("secret_id")
            side.ClearField("secret_mask")
            side.ClearField("upstream_mask")
    return change


def _secret_changed(step: ToolStep) -> bool:
    if step.action is Action.DELETE or step.after is None:
        return False
    return _secrets_of(step.before) != _secrets_of(step.after)


def _secrets_of(tool: Tool | None) -> tuple[object, ...]:
    if tool is None:
        return ((), None, None)
    return (tool.secrets, tool.upstream_value, tool.upstream_oauth2.secret if tool.upstream_oauth2 else None)
