"""`/v1/tools`: the registry of what agents may call."""

from interlock.governance.tool_urls import HTTP_SCHEMES
from interlock.governance.v1 import admin_pb2 as pb
from interlock.governance.v1 import governance_pb2 as governance
from interlock.proxy.api.answer import Deleted
from interlock.proxy.api.models import TOOL_NAME, HeaderCredential, OAuth2Credential, ToggleBody, ToolBody, ToolFields
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.queries import ScopeQuery
from interlock.proxy.api.tool_shown import Tool
from interlock.proxy.api.visit import Visit
from interlock.proxy.destinations import Destinations

DEDUP = {
    "derived": governance.DEDUP_MODE_DERIVED,
    "header": governance.DEDUP_MODE_HEADER,
    "off": governance.DEDUP_MODE_OFF,
}
ON_AMBIGUOUS = {
    "retry": governance.ON_AMBIGUOUS_RETRY,
    "hold": governance.ON_AMBIGUOUS_HOLD,
}
CLIENT_AUTH = {
    "basic": governance.CLIENT_AUTH_BASIC,
    "post": governance.CLIENT_AUTH_POST,
}
ON_GOVERNANCE_FAILURE = {
    "closed": governance.ON_GOVERNANCE_FAILURE_CLOSED,
    "open": governance.ON_GOVERNANCE_FAILURE_OPEN,
}


async def put(visit: Visit) -> Tool:
    body = await visit.body(ToolBody)
    check_destinations(visit.api.destinations, body)
    return Tool.of(await visit.ask(visit.api.tools.PutTool, put_request(body)))


async def show_all(visit: Visit) -> list[Tool]:
    asked = pb.ListToolsRequest(scope_id=visit.query(ScopeQuery).scope_id or "")
    return [Tool.of(tool) for tool in (await visit.ask(visit.api.tools.ListTools, asked)).tools]


async def show(visit: Visit) -> Tool:
    return Tool.of(await visit.ask(visit.api.tools.GetTool, _ref(visit)))


async def delete(visit: Visit) -> Deleted:
    await visit.ask(visit.api.tools.DeleteTool, _ref(visit))
    return Deleted.now()


async def toggle(visit: Visit) -> Tool:
    enabled = (await visit.body(ToggleBody)).enabled
    asked = pb.ToggleToolRequest(ref=_ref(visit), enabled=enabled)
    return Tool.of(await visit.ask(visit.api.tools.ToggleTool, asked))


def check_destinations(destinations: Destinations, body: ToolFields) -> None:
    """Errors: InvalidRequestError `destination_refused`, whose `field` is one of the tool's."""
    destinations.check_url(body.url)
    if body.reconcile_url is not None:
        destinations.check_url(body.reconcile_url, field="reconcile_url", schemes=HTTP_SCHEMES)
    if isinstance(body.upstream_credential, OAuth2Credential):
        token_url = body.upstream_credential.token_url
        destinations.check_url(token_url, field="upstream_credential.token_url", schemes=HTTP_SCHEMES)


def put_request(body: ToolBody) -> pb.PutToolRequest:
    """A validated body as the engine takes it. What the body leaves out stays out: the engine has the defaults."""
    request = pb.PutToolRequest(
        tool=_tool(body),
        secret=body.auth.secret.get_secret_value() if body.auth else None,
        secret_grace_s=body.auth.grace_s if body.auth else None,
    )
    if body.upstream_credential is not None:
        request.upstream_credential.CopyFrom(_credential(body.upstream_credential))
    elif "upstream_credential" in body.model_fields_set:
        request.upstream_credential.SetInParent()  # present, without a header: removes the stored one
    return request


def _credential(given: HeaderCredential | OAuth2Credential) -> governance.UpstreamCredential:
    if isinstance(given, HeaderCredential):
        return governance.UpstreamCredential(header=given.header, value=given.value.get_secret_value())
    return governance.UpstreamCredential(
        oauth2=governance.OAuth2ClientCredentials(
            token_url=given.token_url,
            client_id=given.client_id,
            client_secret=given.client_secret.get_secret_value() if given.client_secret else "",
            scope=given.scope,
            audience=given.audience,
            client_auth=CLIENT_AUTH[given.auth_style],
            header=given.header,
            scheme=given.scheme,
            params=given.params,
        )
    )


def _tool(body: ToolBody) -> pb.Tool:
    return pb.Tool(
        name=body.name,
        scope_id=body.scope_id,
        url=body.url,
        timeout_ms=body.timeout_ms,
        max_retries=body.max_retries,
        enabled=body.enabled,
        description=body.description or "",
        methods=body.methods,
        subpaths=body.subpaths,
        dedup_mode=DEDUP[body.dedup.mode] if body.dedup.mode else governance.DEDUP_MODE_UNSPECIFIED,
        dedup_ttl_s=body.dedup.ttl_s,
        dedup_ignore=body.dedup.ignore,
        dedup_run_id=body.dedup.run_id == "argument",
        on_ambiguous=ON_AMBIGUOUS[body.on_ambiguous],
        read_only=body.read_only,
        risk=body.risk,
        replay_max_bytes=body.replay_max_bytes,
        on_governance_failure=ON_GOVERNANCE_FAILURE[body.on_governance_failure],
        open_max_calls_per_minute=body.open_max_calls_per_minute,
        reconcile_url=body.reconcile_url or "",
        reconcile_deadline_s=body.reconcile_deadline_s,
        reconcile_timeout_ms=body.reconcile_timeout_ms,
    )


def _ref(visit: Visit) -> pb.ToolRef:
    return pb.ToolRef(name=visit.path("name", TOOL_NAME), scope_id=visit.query(ScopeQuery).scope_id or "")


OPERATIONS = (
    Operation(
        "POST", "/v1/tools", put, "Create or replace a tool", Tool, body=ToolBody, role="operator", refusals=(402, 409)
    ),
    Operation("GET", "/v1/tools", show_all, "List tools", list[Tool], query=ScopeQuery),
    Operation("GET", "/v1/tools/{name}", show, "Show a tool", Tool, query=ScopeQuery),
    Operation(
        "DELETE",
        "/v1/tools/{name}",
        delete,
        "Delete a tool",
        Deleted,
        query=ScopeQuery,
        role="operator",
        refusals=(409,),
    ),
    Operation(
        "POST",
        "/v1/tools/{name}/toggle",
        toggle,
        "Switch a tool off or on",
        Tool,
        body=ToggleBody,
        query=ScopeQuery,
        role="operator",
        refusals=(409,),
    ),
)
