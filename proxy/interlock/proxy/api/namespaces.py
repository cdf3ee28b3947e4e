"""`/v1/namespaces` and `/v1/plans`: who shares this Interlock, and what each may use of it."""

from interlock.governance.v1 import namespaces_pb2 as pb
from interlock.proxy.api.audit import event_json
from interlock.proxy.api.models import NAMESPACE, ChangesQuery, ForceQuery, NamespaceBody, NamespacesQuery, PolicyBody
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.policies import policy_json, policy_of
from interlock.proxy.api.times import rfc3339
from interlock.proxy.api.visit import Visit


async def show_all(visit: Visit) -> object:
    asked = pb.ListNamespacesRequest(with_deleted=visit.query(NamespacesQuery).with_deleted)
    listed = await visit.ask(visit.api.namespaces.ListNamespaces, asked)
    return [namespace_json(namespace) for namespace in listed.namespaces]


async def show(visit: Visit) -> object:
    asked = pb.NamespaceRef(name=visit.path("namespace", NAMESPACE))
    return namespace_json(await visit.ask(visit.api.namespaces.GetNamespace, asked))


async def put(visit: Visit) -> object:
    name = visit.path("namespace", NAMESPACE)
    body = await visit.body(NamespaceBody)
    asked = pb.PutNamespaceRequest(
        name=name, description=body.description, plan=body.plan, default_policy=_default_of(body)
    )
    return namespace_json(await visit.ask(visit.api.namespaces.PutNamespace, asked))


async def delete(visit: Visit) -> object:
    name = visit.path("namespace", NAMESPACE)
    asked = pb.DeleteNamespaceRequest(name=name, force=visit.query(ForceQuery).force)
    return namespace_json(await visit.ask(visit.api.namespaces.DeleteNamespace, asked))


async def plans(visit: Visit) -> object:
    listed = await visit.ask(visit.api.namespaces.ListPlans, pb.ListPlansRequest())
    return [plan_json(plan) for plan in listed.plans]


async def changes(visit: Visit) -> object:
    query = visit.query(ChangesQuery)
    asked = pb.ListChangesRequest(everywhere=query.scope == "global", after_seq=query.after_seq, limit=query.limit)
    return [event_json(event) for event in (await visit.ask(visit.api.namespaces.ListChanges, asked)).events]


def namespace_json(namespace: pb.Namespace) -> dict[str, object]:
    """A namespace; `usage` is null where namespaces are listed."""
    default = namespace.default_policy
    return {
        "name": namespace.name,
        "description": namespace.description,
        "plan": namespace.plan.name,
        "limits": plan_json(namespace.plan),
        "default_policy": policy_json(default.policy) if default.rule == "policy" else default.rule,
        "usage": usage_json(namespace.usage) if namespace.HasField("usage") else None,
        "created_at": rfc3339(namespace.created_at_ms),
        "deleted_at": rfc3339(namespace.deleted_at_ms),
    }


def plan_json(plan: pb.Plan) -> dict[str, object]:
    """A plan; null is no limit, and of features all."""
    return {
        "name": plan.name,
        "tools": plan.tools if plan.HasField("tools") else None,
        "runs_per_month": plan.runs_per_month if plan.HasField("runs_per_month") else None,
        "requests_per_minute": plan.requests_per_minute if plan.HasField("requests_per_minute") else None,
        "default_ttl_s": plan.default_ttl_s,
        "max_ttl_s": plan.max_ttl_s,
        "features": list(plan.features) if plan.has_features else None,
    }


def usage_json(usage: pb.Usage) -> dict[str, object]:
    return {
        "month": usage.month,
        "runs": usage.runs,
        "tools": usage.tools,
        "month_resets_in_s": -(-usage.month_resets_in_ms // 1000),
    }


def _default_of(body: NamespaceBody) -> pb.DefaultPolicy | None:
    default = body.default_policy
    if isinstance(default, PolicyBody):
        return pb.DefaultPolicy(rule="policy", policy=policy_of(default))
    return None if default is None else pb.DefaultPolicy(rule=default)


OPERATIONS = (
    Operation("GET", "/v1/namespaces", show_all, "List namespaces", query=NamespacesQuery),
    Operation("GET", "/v1/namespaces/{namespace}", show, "Show a namespace"),
    Operation("POST", "/v1/namespaces/{namespace}", put, "Create or change a namespace", body=NamespaceBody),
    Operation("DELETE", "/v1/namespaces/{namespace}", delete, "End a namespace", query=ForceQuery),
    Operation("GET", "/v1/plans", plans, "List plans"),
    Operation("GET", "/v1/changes", changes, "List changes above the agents, in order", query=ChangesQuery),
)
