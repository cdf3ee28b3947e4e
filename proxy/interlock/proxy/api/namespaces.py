"""`/v1/namespaces` and `/v1/plans`: who shares this Interlock, and what each may use of it."""

from typing import Literal, Self

from interlock.governance.v1 import namespaces_pb2 as pb
from interlock.proxy.api.answer import Answer, Time
from interlock.proxy.api.audit import Event
from interlock.proxy.api.models import NAMESPACE, NamespaceBody, PolicyBody
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.policies import Policy, policy_of
from interlock.proxy.api.queries import ChangesQuery, ForceQuery, NamespacesQuery
from interlock.proxy.api.times import rfc3339
from interlock.proxy.api.visit import Visit


class Plan(Answer):
    """What a namespace may use. Null is no limit, and of features all."""

    name: str
    """Its name."""
    tools: int | None
    """Tools that may be registered."""
    runs_per_month: int | None
    """Calls let through, leases and runs in a calendar month (UTC)."""
    check_locks_per_month: int | None
    """Check-locks that lock, in a UTC month."""
    requests_per_minute: int | None
    """Requests in any 60 seconds, of all keys."""
    default_ttl_s: int
    """How long a lock or lease holds that names no time, s."""
    max_ttl_s: int
    """How long one may hold, s."""
    features: list[str] | None
    """What may be used."""

    @classmethod
    def of(cls, plan: pb.Plan) -> Self:
        return cls(
            name=plan.name,
            tools=plan.tools if plan.HasField("tools") else None,
            runs_per_month=plan.runs_per_month if plan.HasField("runs_per_month") else None,
            check_locks_per_month=plan.check_locks_per_month if plan.HasField("check_locks_per_month") else None,
            requests_per_minute=plan.requests_per_minute if plan.HasField("requests_per_minute") else None,
            default_ttl_s=plan.default_ttl_s,
            max_ttl_s=plan.max_ttl_s,
            features=list(plan.features) if plan.has_features else None,
        )


class NamespaceUsage(Answer):
    """What a namespace has used of its plan."""

    month: str
    """The calendar month (UTC), `YYYY-MM`."""
    runs: int
    """What counts against `runs_per_month`."""
    tools: int
    """Tools that are registered."""
    month_resets_in_s: int
    """When the next month begins, s."""

    @classmethod
    def of(cls, usage: pb.Usage) -> Self:
        resets_in_s = -(-usage.month_resets_in_ms // 1000)
        return cls(month=usage.month, runs=usage.runs, tools=usage.tools, month_resets_in_s=resets_in_s)


class Namespace(Answer):
    """A namespace: agents, tools, policies and keys that no other sees."""

    name: str
    """Its name."""
    description: str
    """For people."""
    plan: str
    """The name of its plan."""
    limits: Plan
    """What that plan gives."""
    default_policy: Literal["engine", "allow", "deny"] | Policy
    """What holds for agents without a policy: the engine's default, a rule, or a policy."""
    run_handler: str
    """The tool that keyed runs without actions are given to; empty for none."""
    usage: NamespaceUsage | None
    """What it has used; null where namespaces are listed."""
    created_at: Time | None
    """When it was made."""
    deleted_at: Time | None
    """When it was ended."""

    @classmethod
    def of(cls, namespace: pb.Namespace) -> Self:
        default = namespace.default_policy
        return cls(
            name=namespace.name,
            description=namespace.description,
            plan=namespace.plan.name,
            limits=Plan.of(namespace.plan),
            default_policy=Policy.of(default.policy) if default.rule == "policy" else default.rule,
            run_handler=namespace.run_handler,
            usage=NamespaceUsage.of(namespace.usage) if namespace.HasField("usage") else None,
            created_at=rfc3339(namespace.created_at_ms),
            deleted_at=rfc3339(namespace.deleted_at_ms),
        )


async def show_all(visit: Visit) -> list[Namespace]:
    asked = pb.ListNamespacesRequest(with_deleted=visit.query(NamespacesQuery).with_deleted)
    listed = await visit.ask(visit.api.namespaces.ListNamespaces, asked)
    return [Namespace.of(namespace) for namespace in listed.namespaces]


async def show(visit: Visit) -> Namespace:
    asked = pb.NamespaceRef(name=visit.path("namespace", NAMESPACE))
    return Namespace.of(await visit.ask(visit.api.namespaces.GetNamespace, asked))


async def put(visit: Visit) -> Namespace:
    name = visit.path("namespace", NAMESPACE)
    body = await visit.body(NamespaceBody)
    asked = pb.PutNamespaceRequest(
        name=name,
        description=body.description,
        plan=body.plan,
        default_policy=_default_of(body),
        run_handler=body.run_handler,
    )
    return Namespace.of(await visit.ask(visit.api.namespaces.PutNamespace, asked))


async def delete(visit: Visit) -> Namespace:
    name = visit.path("namespace", NAMESPACE)
    asked = pb.DeleteNamespaceRequest(name=name, force=visit.query(ForceQuery).force)
    return Namespace.of(await visit.ask(visit.api.namespaces.DeleteNamespace, asked))


async def plans(visit: Visit) -> list[Plan]:
    listed = await visit.ask(visit.api.namespaces.ListPlans, pb.ListPlansRequest())
    return [Plan.of(plan) for plan in listed.plans]


async def changes(visit: Visit) -> list[Event]:
    query = visit.query(ChangesQuery)
    asked = pb.ListChangesRequest(everywhere=query.scope == "global", after_seq=query.after_seq, limit=query.limit)
    return [Event.of(event) for event in (await visit.ask(visit.api.namespaces.ListChanges, asked)).events]


def _default_of(body: NamespaceBody) -> pb.DefaultPolicy | None:
    default = body.default_policy
    if isinstance(default, PolicyBody):
        return pb.DefaultPolicy(rule="policy", policy=policy_of(default))
    return None if default is None else pb.DefaultPolicy(rule=default)


OPERATIONS = (
    Operation(
        "GET", "/v1/namespaces", show_all, "List namespaces", list[Namespace], query=NamespacesQuery, role="admin"
    ),
    Operation("GET", "/v1/namespaces/{namespace}", show, "Show a namespace", Namespace, role="viewer"),
    Operation(
        "POST",
        "/v1/namespaces/{namespace}",
        put,
        "Create or change a namespace",
        Namespace,
        body=NamespaceBody,
        role="admin",
        refusals=(409,),
    ),
    Operation(
        "DELETE",
        "/v1/namespaces/{namespace}",
        delete,
        "End a namespace",
        Namespace,
        query=ForceQuery,
        role="admin",
        refusals=(409,),
    ),
    Operation("GET", "/v1/plans", plans, "List plans", list[Plan], role="viewer"),
    Operation(
        "GET",
        "/v1/changes",
        changes,
        "List changes, those above the agents in their order",
        list[Event],
        query=ChangesQuery,
        role="viewer",
    ),
)
