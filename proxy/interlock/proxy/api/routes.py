"""The routes of the REST API. Handlers translate between JSON and protobuf; the engine authenticates and judges."""

import re
from functools import partial

from aiohttp import web
from pydantic import TypeAdapter

from interlock.proxy.api import (
    account,
    agents,
    alerts,
    apply,
    audit,
    calls,
    figures,
    following,
    keys,
    leases,
    locks,
    namespaces,
    policies,
    runs,
    switches,
    timelines,
    tools,
)
from interlock.proxy.api.operation import Answering, Operation
from interlock.proxy.api.port import Api
from interlock.proxy.api.visit import Visit
from interlock.proxy.stages.intercept import NAMESPACE_HEADER, bearer_key, named_namespace

__all__ = ["OPERATIONS", "Api", "routes"]

ANSWER: TypeAdapter[object] = TypeAdapter(object)
"""Whatever handlers answer with. What a model was not given is absent."""

OPERATIONS: tuple[Operation, ...] = (
    *account.OPERATIONS,
    *locks.OPERATIONS,
    *leases.OPERATIONS,
    *runs.OPERATIONS,
    *tools.OPERATIONS,
    *policies.OPERATIONS,
    *agents.OPERATIONS,
    *alerts.OPERATIONS,
    *apply.OPERATIONS,
    *keys.OPERATIONS,
    *calls.OPERATIONS,
    *audit.OPERATIONS,
    *following.OPERATIONS,
    *figures.OPERATIONS,
    *switches.OPERATIONS,
    *namespaces.OPERATIONS,
    *timelines.OPERATIONS,
)


def routes(api: Api) -> list[web.RouteDef]:
    """What the agent-facing listener serves under `/v1`, `/v1/ai/run` excepted. Needs the middleware `v1_errors`."""
    return [
        web.route(of.method, _with_braces(of.path), partial(_answer, api, of.answering))
        for of in OPERATIONS
        if of.answering is not None
    ]


def _with_braces(path: str) -> str:
    """Lets a segment hold braces, which `{name}` does not: such a name is to be refused, not its path unknown."""
    return re.sub(r"\{(\w+)\}", r"{\1:[^/]+}", path)


async def _answer(api: Api, answering: Answering, request: web.Request) -> web.StreamResponse:
    answer = await answering(_visit(api, request))
    if isinstance(answer, web.StreamResponse):
        return answer
    return web.Response(
        body=ANSWER.dump_json(answer, exclude_unset=True), content_type="application/json", charset="utf-8"
    )


def _visit(api: Api, request: web.Request) -> Visit:
    credential = bearer_key(request.headers.getall("Authorization", []))
    return Visit(api, request, credential, named_namespace(request.headers.getall(NAMESPACE_HEADER, [])))
