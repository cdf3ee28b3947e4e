"""The routes of the REST API. Handlers translate between JSON and protobuf; the engine authenticates and judges."""

import re
from collections.abc import Awaitable, Callable
from functools import partial

from aiohttp import web

from interlock.proxy.api import agents, apply, audit, calls, following, keys, namespaces, policies, switches, tools
from interlock.proxy.api.port import Api
from interlock.proxy.api.visit import Visit
from interlock.proxy.stages.intercept import NAMESPACE_HEADER, bearer_key, named_namespace

__all__ = ["Api", "routes"]

Answering = Callable[[Visit], Awaitable[object]]
"""Answers a visit with a JSON value; raises InterlockError or AioRpcError."""

TABLE: tuple[tuple[str, str, Answering], ...] = (
    ("POST", "/v1/tools", tools.put),
    ("GET", "/v1/tools", tools.show_all),
    ("GET", "/v1/tools/{name}", tools.show),
    ("DELETE", "/v1/tools/{name}", tools.delete),
    ("POST", "/v1/tools/{name}/toggle", tools.toggle),
    ("GET", "/v1/policies", policies.show_all),
    ("GET", "/v1/policies/{agent_id}", policies.show),
    ("POST", "/v1/policies/{agent_id}", policies.put),
    ("GET", "/v1/agents", agents.show_all),
    ("GET", "/v1/agents/{agent_id}", agents.show),
    ("POST", "/v1/agents/{agent_id}/disable", agents.disable),
    ("POST", "/v1/agents/{agent_id}/enable", agents.enable),
    ("GET", "/v1/agents/{agent_id}/logs", agents.logs),
    ("GET", "/v1/agents/{agent_id}/metrics", agents.metrics),
    # Ours, beside the contract.
    ("POST", "/v1/apply", apply.apply),
    ("DELETE", "/v1/policies/{agent_id}", policies.delete),
    ("POST", "/v1/keys", keys.create),
    ("GET", "/v1/keys", keys.show_all),
    ("DELETE", "/v1/keys/{key_id}", keys.revoke),
    ("GET", "/v1/calls", calls.show_all),
    ("GET", "/v1/calls/{call_id}", calls.show),
    ("POST", "/v1/calls/{call_id}/resolve", calls.resolve),
    ("GET", "/v1/audit", audit.show_all),
    ("GET", "/v1/audit/trails", audit.trails),
    ("GET", "/v1/switches", switches.show_all),
    ("POST", "/v1/switches/{scope}", switches.throw),
    ("GET", "/v1/namespaces", namespaces.show_all),
    ("GET", "/v1/namespaces/{namespace}", namespaces.show),
    ("POST", "/v1/namespaces/{namespace}", namespaces.put),
    ("DELETE", "/v1/namespaces/{namespace}", namespaces.delete),
    ("GET", "/v1/plans", namespaces.plans),
    ("GET", "/v1/changes", namespaces.changes),
)

FOLLOW = ("GET", "/v1/audit/follow", following.follow)
"""The one route that answers with a stream, which the handler writes itself."""


def routes(api: Api) -> list[web.RouteDef]:
    """What the agent-facing listener serves under `/v1`, `/v1/ai/run` excepted. Needs the middleware `v1_errors`."""
    answered = [
        web.route(method, _with_braces(path), partial(_answer, api, answering)) for method, path, answering in TABLE
    ]
    method, path, follow = FOLLOW
    return [*answered, web.route(method, path, partial(_stream, api, follow))]


def _with_braces(path: str) -> str:
    """Lets a segment hold braces, which `{name}` does not: such a name is to be refused, not its path unknown."""
    return re.sub(r"\{(\w+)\}", r"{\1:[^/]+}", path)


async def _answer(api: Api, answering: Answering, request: web.Request) -> web.Response:
    return web.json_response(await answering(_visit(api, request)))


async def _stream(
    api: Api, follow: Callable[[Visit], Awaitable[web.StreamResponse]], request: web.Request
) -> web.StreamResponse:
    return await follow(_visit(api, request))


def _visit(api: Api, request: web.Request) -> Visit:
    credential = bearer_key(request.headers.getall("Authorization", []))
    return Visit(api, request, credential, named_namespace(request.headers.getall(NAMESPACE_HEADER, [])))
