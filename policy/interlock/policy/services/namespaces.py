"""The Namespaces service."""

import json
from dataclasses import replace

import structlog

from interlock.governance.errors import ConflictError, InvalidRequestError, NotFoundError
from interlock.governance.v1 import admin_pb2, namespaces_pb2_grpc
from interlock.governance.v1 import namespaces_pb2 as pb
from interlock.policy import access, policies
from interlock.policy.account_ports import Accounts
from interlock.policy.knowledge import Knowledge
from interlock.policy.model import DEFAULT_NAMESPACE, TOOL_NAME, DefaultPolicy, DefaultRule, Identity, Namespace, Role
from interlock.policy.plans import Plan, Plans
from interlock.policy.ports import Directory
from interlock.policy.runs import month_end_ms
from interlock.policy.services.messages import event_message, policy_message, policy_of
from interlock.policy.services.paging import after_of, limit_of
from interlock.policy.services.rpc import Caller, rpc

log = structlog.get_logger(__name__)

MAX_DESCRIPTION = 512
ATTEMPTS = 5
MAX_LISTED = 1000
DEFAULT_LISTED = 100


class NamespacesService(namespaces_pb2_grpc.NamespacesServicer):
    """Namespaces, and what holds in each."""

    def __init__(self, directory: Directory, knowledge: Knowledge, plans: Plans, accounts: Accounts) -> None:
        self._directory = directory
        self._accounts = accounts
        self._knowledge = knowledge
        self._plans = plans

    @rpc
    async def PutNamespace(self, request: pb.PutNamespaceRequest, caller: Caller) -> pb.Namespace:  # noqa: N802 - the contract's name
        identity = await self._admin(caller)
        name = access.namespace_name(request.name)
        self._check(request)
        for _ in range(ATTEMPTS):
            was = await self._directory.namespace(name)
            if was.deleted_at_ms:
                message = "a namespace of that name was deleted; its audit trail has the name for good"
                raise ConflictError("namespace_deleted", message)
            facts = {"plan_before": was.plan, "default_policy_before": was.default_policy.rule} if was.revision else {}
            wanted = changed(was, request)
            used = await self._accounts.month(name)
            put = await self._directory.put_namespace(
                wanted, used.month, used.runs(limited=False), facts=_facts(identity, wanted, was, **facts)
            )
            if put is not None:
                self._changed("namespace.put", identity, put)
                return await self._with_usage(put)
        raise _contended()

    @rpc
    async def GetNamespace(self, request: pb.NamespaceRef, caller: Caller) -> pb.Namespace:  # noqa: N802 - the contract's name
        identity = await self._knowledge.authenticate(caller.credential.at_home())
        access.require(identity, Role.VIEWER)
        return await self._with_usage(await self._known(access.namespace(identity, request.name)))

    @rpc
    async def ListNamespaces(self, request: pb.ListNamespacesRequest, caller: Caller) -> pb.ListNamespacesResponse:  # noqa: N802 - the contract's name
        await self._admin(caller)
        stored = {namespace.name: namespace for namespace in await self._directory.namespaces()}
        found = {DEFAULT_NAMESPACE: Namespace(DEFAULT_NAMESPACE)} | stored
        return pb.ListNamespacesResponse(
            namespaces=[
                self._shown(found[name]) for name in sorted(found) if request.with_deleted or found[name].exists
            ]
        )

    @rpc
    async def DeleteNamespace(self, request: pb.DeleteNamespaceRequest, caller: Caller) -> pb.Namespace:  # noqa: N802 - the contract's name
        identity = await self._admin(caller)
        name = access.namespace_name(request.name)
        if name in (DEFAULT_NAMESPACE, identity.namespace):
            raise ConflictError("namespace_in_use", "the namespace default and that of your own key cannot be deleted")
        for _ in range(ATTEMPTS):
            was = await self._known(name)
            if was.deleted_at_ms:
                raise _not_found()
            keys = sum(not key.revoked_at_ms for key in await self._directory.keys(name))
            if keys and not request.force:
                raise ConflictError("namespace_in_use", f"the namespace has keys that are not revoked: {keys}")
            facts = _facts(identity, was, was, keys=keys)
            deleted = await self._directory.delete_namespace(was, force=request.force, facts=facts)
            if deleted is not None:
                self._changed("namespace.deleted", identity, deleted)
                return self._shown(deleted)
        raise _contended()

    @rpc
    async def ListPlans(self, request: pb.ListPlansRequest, caller: Caller) -> pb.ListPlansResponse:  # noqa: N802, ARG002 - the contract's name and shape
        access.require(await self._knowledge.authenticate(caller.credential), Role.VIEWER)
        return pb.ListPlansResponse(plans=[plan_message(plan) for plan in self._plans])

    @rpc
    async def ListChanges(self, request: pb.ListChangesRequest, caller: Caller) -> admin_pb2.ListEventsResponse:  # noqa: N802 - the contract's name
        identity = await self._knowledge.authenticate(caller.credential)
        access.require(identity, Role.ADMIN if request.everywhere else Role.VIEWER)
        events = await self._directory.trail(
            None if request.everywhere else identity.namespace,
            after_seq=after_of(request.after_seq),
            limit=limit_of(request.limit, default=DEFAULT_LISTED, most=MAX_LISTED),
        )
        return admin_pb2.ListEventsResponse(events=[event_message(event) for event in events])

    async def _admin(self, caller: Caller) -> Identity:
        """Which namespace is meant is told by each request here, so the header is not looked at."""
        identity = await self._knowledge.authenticate(caller.credential.at_home())
        access.require(identity, Role.ADMIN)
        return identity

    async def _known(self, name: str) -> Namespace:
        namespace = await self._directory.namespace(name)
        if not namespace.exists and not namespace.revision:
            raise _not_found()
        return namespace

    def _check(self, request: pb.PutNamespaceRequest) -> None:
        if len(request.description) > MAX_DESCRIPTION:
            message = f"a description has at most {MAX_DESCRIPTION} characters"
            raise InvalidRequestError("invalid_request", message, field="description")
        if request.run_handler and not TOOL_NAME.fullmatch(request.run_handler):
            raise InvalidRequestError("invalid_request", "run_handler is no name of a tool", field="run_handler")
        if request.HasField("plan"):
            self._plans.check(request.plan)
        if request.HasField("default_policy"):
            policies.check(policy_of(request.default_policy.policy))
            default_of(request.default_policy)

    def _changed(self, event: str, identity: Identity, namespace: Namespace) -> None:
        self._knowledge.forget(namespace.name)
        log.info(event, namespace=namespace.name, key_id=identity.key_id, plan=namespace.plan)

    async def _with_usage(self, namespace: Namespace) -> pb.Namespace:
        shown = self._shown(namespace)
        used = await self._accounts.month(namespace.name)
        shown.usage.CopyFrom(
            pb.Usage(
                month=used.month,
                runs=used.runs(limited=shown.plan.HasField("runs_per_month")),
                month_resets_in_ms=month_end_ms(used.at_ms) - used.at_ms,
                tools=len((await self._knowledge.up_to_date(namespace.name)).tools),
            )
        )
        return shown

    def _shown(self, namespace: Namespace) -> pb.Namespace:
        return pb.Namespace(
            name=namespace.name,
            description=namespace.description,
            plan=plan_message(self._plans.shown(namespace)),
            default_policy=default_message(namespace.default_policy),
            created_at_ms=namespace.created_at_ms,
            deleted_at_ms=namespace.deleted_at_ms,
            revision=namespace.revision,
            run_handler=namespace.run_handler,
        )


def changed(was: Namespace, request: pb.PutNamespaceRequest) -> Namespace:
    """The namespace with what the request gives."""
    return replace(
        was,
        description=request.description if request.HasField("description") else was.description,
        plan=request.plan if request.HasField("plan") else was.plan,
        default_policy=default_of(request.default_policy) if request.HasField("default_policy") else was.default_policy,
        run_handler=request.run_handler if request.HasField("run_handler") else was.run_handler,
    )


def default_of(message: pb.DefaultPolicy) -> DefaultPolicy:
    """Errors: InvalidRequestError."""
    try:
        rule = DefaultRule(message.rule)
    except ValueError as error:
        text = "default_policy is engine, allow, deny or a policy"
        raise InvalidRequestError("invalid_policy", text, field="default_policy") from error
    return DefaultPolicy(rule, policy_of(message.policy) if rule is DefaultRule.POLICY else None)


def default_message(default: DefaultPolicy) -> pb.DefaultPolicy:
    return pb.DefaultPolicy(rule=default.rule, policy=policy_message(default.policy) if default.policy else None)


def plan_message(plan: Plan) -> pb.Plan:
    return pb.Plan(
        name=plan.name,
        tools=plan.tools,
        runs_per_month=plan.runs_per_month,
        default_ttl_s=plan.default_ttl_s,
        max_ttl_s=plan.max_ttl_s,
        has_features=plan.features is not None,
        features=sorted(plan.features or ()),
        requests_per_minute=plan.requests_per_minute,
        check_locks_per_month=plan.check_locks_per_month,
    )


def _facts(identity: Identity, namespace: Namespace, was: Namespace, **more: object) -> str:
    facts = {
        "key_id": identity.key_id,
        "before": was.revision,
        "plan": namespace.plan,
        "default_policy": namespace.default_policy.rule,
        **more,
    }
    return json.dumps(facts, separators=(",", ":"))


def _not_found() -> NotFoundError:
    return NotFoundError("namespace_not_found", "there is no namespace of that name")


def _contended() -> ConflictError:
    return ConflictError("namespace_changing", "the namespace is being changed by others; try again")
