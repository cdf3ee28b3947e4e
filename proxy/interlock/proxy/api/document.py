"""The OpenAPI 3.1 document, made of the operations and of the very models that validate and answer.

`interlock openapi` prints it, `GET /openapi.json` serves it, and `deploy/openapi.json` is a copy that a test holds to
it.
"""

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

from aiohttp import web
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema

from interlock.proxy.api.error_answers import OF_A_BODY, OF_EVERY_OPERATION, REFUSALS
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.routes import OPERATIONS
from interlock.proxy.api.segments import SEGMENTS
from interlock.proxy.run_operation import RUN

PATH = "/openapi.json"
OPENAPI = "3.1.1"
REFERENCE = "#/components/schemas/{model}"
ARTICLES = frozenset({"a", "an", "the"})
ROLES = {
    "own": "An agent's key reaches what is its own; a viewer's and greater ones all of the namespace.",
    "viewer": "Takes a viewer's key or a greater one.",
    "operator": "Takes an operator's key or a greater one.",
    "admin": "Takes an admin's key.",
}
DESCRIPTION = """\
A safety interlock for AI agents: calls of tools go through only after a governance engine has said yes, they go through
signed, and they happen once however often an agent retries.

The API is the OnceOnly API's, and what Interlock has beside it. Tools are also called at `/tools/{tool}`, with any
method and body that the tool takes; that is no operation of this document.

Unknown fields and parameters are refused. Times are RFC 3339 in UTC, fields named `ts` are unix seconds."""
TAGS = {
    "Calls": "Calling tools, and what became of calls.",
    "Locks": "A key that only the first caller has.",
    "Leases": "Work that one client at a time does, and whose result all get.",
    "Timelines": "What happened in a run, in order.",
    "Tools": "The registry of what agents may call.",
    "Policies": "What each agent may do, and at what cost.",
    "Agents": "How agents stand: kill switches, logs and figures.",
    "Kill switches": "Everything off, for an agent, a tool, a namespace or all.",
    "Account": "Whose a key is, what is used, and what is told by mail and webhook.",
    "Keys": "API keys of a namespace.",
    "Namespaces": "Who shares this Interlock, and what each may use of it.",
    "Configuration": "Tools and policies as a whole, as a file has them.",
    "Audit": "What was decided and changed, by whom, provably complete.",
    "Document": "This document.",
}
TAG_OF = {
    "check-lock": "Locks",
    "ai": "Leases",
    "calls": "Calls",
    "events": "Timelines",
    "runs": "Timelines",
    "tools": "Tools",
    "policies": "Policies",
    "agents": "Agents",
    "switches": "Kill switches",
    "me": "Account",
    "usage": "Account",
    "metrics": "Account",
    "alerts": "Account",
    "keys": "Keys",
    "namespaces": "Namespaces",
    "plans": "Namespaces",
    "apply": "Configuration",
    "changes": "Audit",
    "audit": "Audit",
}
"""By the first segment of a path after `/v1`."""

REQUEST_ID = {
    "name": "X-Request-Id",
    "in": "header",
    "description": "Names the request in the log: 1-128 visible ASCII characters; made if absent or otherwise.",
    "schema": {"type": "string"},
}
ACTS_IN = {
    "name": "Interlock-Namespace",
    "in": "header",
    "description": "An admin's: act in this namespace, not in that of the key.",
    "schema": {"type": "string", "pattern": "^[a-z0-9-]{1,63}$"},
}
Json = dict[str, Any]
Named = Mapping[tuple[int, JsonSchemaMode], JsonSchemaValue]


class Schemas(GenerateJsonSchema):
    """Pydantic's schema without what says nothing: titles of fields, and null as a default of what may be left out."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        if schema.get("default", ...) is None:
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """A pattern of keys is one that every key must match."""
        made = super().dict_schema(schema)
        return made | {"additionalProperties": False} if "patternProperties" in made else made


@cache
def document() -> Json:
    """The document. It is the same for every request: do not change it."""
    operations = (RUN, *OPERATIONS)
    types = _Types()
    paths: Json = {PATH: {"get": _own_operation()}}
    for of in sorted(operations, key=lambda of: (of.path, of.method)):
        paths.setdefault(of.path, {})[of.method.lower()] = _operation(of, types)
    responses = {refusal.name: _refusal(status, types) for status, refusal in REFUSALS.items()}
    return types.resolved(
        {
            "openapi": OPENAPI,
            "info": {
                "title": "Interlock",
                "version": version("interlock"),
                "description": DESCRIPTION,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "http://localhost:8400", "description": "A sidecar beside the agent."}],
            "security": [{"key": []}],
            "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
            "paths": paths,
            "components": {
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key."}},
                "parameters": {"RequestId": REQUEST_ID, "Namespace": ACTS_IN},
                "headers": {"RequestId": _header("The request's name: the one sent, or made.", required=True)},
                "responses": responses,
            },
        }
    )


def document_route() -> web.RouteDef:
    """`GET /openapi.json`: public, for it says nothing that the source does not. Made when it is asked for first."""

    @cache
    def body() -> bytes:
        return json.dumps(document(), ensure_ascii=False).encode()

    async def show(_: web.Request) -> web.Response:
        return web.Response(body=body(), content_type="application/json", charset="utf-8")

    return web.get(PATH, show, allow_head=False)


def operation_id(of: Operation) -> str:
    """`show_agent_policy`, of the summary `Show an agent's policy`."""
    words = of.summary.partition(",")[0].lower().replace("'s", "").split()
    return "_".join(word for word in words if word not in ARTICLES)


class _Types:
    """The types that the document names. Their schemas are made at once, so that each stands there once."""

    def __init__(self) -> None:
        self._adapters: dict[int, TypeAdapter[Any]] = {}

    def schema(self, of: Any) -> Json:
        """What stands in for a type until `resolved`."""
        number = len(self._adapters)
        self._adapters[number] = TypeAdapter(of)
        return {"$type": number}

    def resolved(self, document: Json) -> Json:
        """The document with schemas in it, and all that they refer to in its components."""
        inputs = [(number, "validation", adapter) for number, adapter in self._adapters.items()]
        made, shared = TypeAdapter.json_schemas(
            inputs,  # type: ignore[arg-type] # the mode is a literal
            ref_template=REFERENCE,
            schema_generator=Schemas,
        )
        whole: Json = _with_schemas(document, made)
        whole["components"]["schemas"] = dict(sorted(shared.get("$defs", {}).items()))
        return whole


def _with_schemas(value: Any, made: Named) -> Any:
    if isinstance(value, list):
        return [_with_schemas(item, made) for item in value]
    if not isinstance(value, dict):
        return value
    if "$type" in value:
        return made[value["$type"], "validation"]
    return {name: _with_schemas(item, made) for name, item in value.items()}


def _operation(of: Operation, types: _Types) -> Json:
    statuses = sorted({*OF_EVERY_OPERATION, *of.refusals, *(OF_A_BODY if of.body else ())})
    responses = {"200": _success(of, types)}
    responses |= {str(status): {"$ref": f"#/components/responses/{REFUSALS[status].name}"} for status in statuses}
    body = {"requestBody": _request_body(of, types)} if of.body else {}
    return {
        "operationId": operation_id(of),
        "summary": of.summary,
        "description": "\n\n".join(text for text in (of.description, ROLES[of.role]) if text),
        "tags": ["Calls" if of is RUN else TAG_OF[of.path.split("/")[2]]],
        "parameters": [*_parameters(of)],
        **body,
        "responses": responses,
    }


def _own_operation() -> Json:
    told = {"type": "object", "description": "An OpenAPI 3.1 document.", "required": ["openapi", "info", "paths"]}
    return {
        "operationId": "show_document",
        "summary": "Show this document",
        "description": "Public: it takes no key.",
        "tags": ["Document"],
        "security": [],
        "parameters": [{"$ref": "#/components/parameters/RequestId"}],
        "responses": {
            "200": {
                "description": "The document.",
                "headers": {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}},
                "content": {"application/json": {"schema": told}},
            }
        },
    }


def _parameters(of: Operation) -> Iterable[Json]:
    for name in re.findall(r"\{(\w+)\}", of.path):
        segment = SEGMENTS[name]
        told = {"description": segment.description, "schema": segment.kind.json_schema(), "example": segment.example}
        yield {"name": name, "in": "path", "required": True, **told}
    if of.query is not None:
        yield from _of_query(of.query)
    for name, description in of.takes.items():
        named = {"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[!#-~]+$"}
        yield {"name": name, "in": "header", "description": description, "schema": named}
    if of is not RUN:
        yield {"$ref": "#/components/parameters/Namespace"}
    yield {"$ref": "#/components/parameters/RequestId"}


def _of_query(model: type[BaseModel]) -> Iterable[Json]:
    whole = model.model_json_schema(schema_generator=Schemas)
    for name, schema in whole["properties"].items():
        described = {"description": schema.pop("description", "")}
        yield {
            "name": name,
            "in": "query",
            **described,
            **({"required": True} if name in whole.get("required", ()) else {}),
            "schema": _without_null(schema),
        }


def _without_null(schema: Json) -> Json:
    """A query has no null: what is not there is left out."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return {**{name: value for name, value in schema.items() if name != "anyOf"}, **kinds[0]}


def _request_body(of: Operation, types: _Types) -> Json:
    example = {"example": of.example} if of.example else {}
    needed = not _may_be_empty(of.body)
    return {"required": needed, "content": {"application/json": {"schema": types.schema(of.body), **example}}}


def _may_be_empty(body: Any) -> bool:
    """An empty body is `{}`."""
    fields: Mapping[str, Any] = getattr(body, "model_fields", {"": None})
    return not any(field is None or field.is_required() for field in fields.values())


def _success(of: Operation, types: _Types) -> Json:
    lines = of.media_type != "application/json"
    return {
        "description": "A JSON object a line, each as described." if lines else "Done, or found.",
        "headers": _headers(of.headers),
        "content": {of.media_type: {"schema": types.schema(of.answer)}},
    }


def _refusal(status: int, types: _Types) -> Json:
    refusal = REFUSALS[status]
    return {
        "description": refusal.description,
        "headers": _headers(refusal.headers),
        "content": {"application/json": {"schema": types.schema(refusal.answer)}},
    }


def _headers(own: Mapping[str, str]) -> Json:
    told = {name: _header(description) for name, description in own.items()}
    return {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}, **told}


def _header(description: str, *, required: bool = False) -> Json:
    return {"description": description, "schema": {"type": "string"}, **({"required": True} if required else {})}
