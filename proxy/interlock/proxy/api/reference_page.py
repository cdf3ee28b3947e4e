"""The OpenAPI document as a page for people, on the admin listener: one HTML document and no script.

It is rendered here, from the document alone. A viewer in JavaScript would be megabytes of somebody else's code on a
listener that operators' browsers reach; this page loads nothing, and its Content-Security-Policy lets it load nothing.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cache
from html import escape
from typing import Any

from aiohttp import web

from interlock.proxy.api.document import document

PATH = "/api"
STYLE = """\
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem 1.5rem }
h2 { border-bottom: 1px solid; margin-top: 2.5rem }
summary { cursor: pointer; padding: .25rem 0 }
summary b { display: inline-block; font: bold .8rem monospace; width: 4.5rem }
code, pre { font: .85rem monospace }
pre { overflow-x: auto; padding: .75rem; border: 1px solid; border-radius: .25rem }
table { border-collapse: collapse; margin: .5rem 0 1rem; width: 100% }
th, td { border: 1px solid; padding: .25rem .5rem; text-align: left; vertical-align: top }
details > details, details > :not(summary) { margin-left: 1rem }
nav a { margin-right: 1rem }
"""
POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
Json = dict[str, Any]


def page_route() -> web.RouteDef:
    """`GET /api` on the admin listener. The page is made when it is asked for first."""

    @cache
    def body() -> bytes:
        return page(document()).encode()

    async def show(_: web.Request) -> web.Response:
        return web.Response(body=body(), content_type="text/html", charset="utf-8", headers=HEADERS)

    return web.get(PATH, show)


def page(api: Json) -> str:
    """The whole page. Whatever stands in the document is text in it."""
    title = f"{api['info']['title']} {api['info']['version']}"
    head = f'<meta charset="utf-8"><title>{escape(title)}: REST API</title><style>{STYLE}</style>'
    parts = [f"<h1>{escape(title)}</h1>", *map(_paragraph, api["info"]["description"].split("\n\n"))]
    used = [tag for tag in api["tags"] if any(_of_tag(api, tag["name"]))]
    parts.append(f"<nav>{''.join(_link(tag['name']) for tag in used)}{_link('Schemas')}</nav>")
    for tag in used:
        parts.append(f'<h2 id="{_slug(tag["name"])}">{escape(tag["name"])}</h2>{_paragraph(tag["description"])}')
        parts += [_operation(api, *found) for found in _of_tag(api, tag["name"])]
    parts.append('<h2 id="schemas">Schemas</h2>')
    parts += [_schema(name, schema) for name, schema in api["components"]["schemas"].items()]
    return f'<!DOCTYPE html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>'


def _of_tag(api: Json, tag: str) -> Iterator[tuple[str, str, Json]]:
    for path, item in api["paths"].items():
        for method, operation in item.items():
            if tag in operation["tags"]:
                yield method.upper(), path, operation


def _operation(api: Json, method: str, path: str, operation: Json) -> str:
    shown = f"<b>{method}</b> <code>{escape(path)}</code> {escape(operation['summary'])}"
    parts = [_paragraph(operation["description"]), _parameters(api, operation), _body(operation), "<h4>Answers</h4>"]
    rows = [_answer(api, status, answer) for status, answer in operation["responses"].items()]
    return _folded(operation["operationId"], shown, "".join(parts) + _table(("status", "what it says", "as"), rows))


def _parameters(api: Json, operation: Json) -> str:
    rows = []
    for given in operation["parameters"]:
        one = _resolved(api, given)
        needed = " (needed)" if one.get("required") else ""
        rows.append((_code(one["name"]), one["in"] + needed, _type(one["schema"]), _text(one["description"])))
    return "<h4>Parameters</h4>" + _table(("name", "in", "type", ""), rows)


def _body(operation: Json) -> str:
    if "requestBody" not in operation:
        return ""
    (content,) = operation["requestBody"]["content"].values()
    shown = json.dumps(content["example"], indent=2, ensure_ascii=False) if "example" in content else ""
    example = f"<pre>{escape(shown)}</pre>" if shown else ""
    return f"<h4>Body</h4><p>{_type(content['schema'])}</p>{example}"


def _answer(api: Json, status: str, answer: Json) -> tuple[str, ...]:
    told = _resolved(api, answer)
    (content,) = told["content"].values()
    return status, _text(told["description"]), _type(content["schema"])


def _schema(name: str, schema: Json) -> str:
    needed = schema.get("required", ())
    rows = [
        (_code(field), _type(told) + (" (needed)" if field in needed else ""), _text(told.get("description", "")))
        for field, told in schema.get("properties", {}).items()
    ]
    inside = _paragraph(schema.get("description", "")) + (
        _table(("field", "type", ""), rows) if rows else _type(schema)
    )
    return _folded(f"schema-{name}", _code(name), inside)


def _type(schema: Json) -> str:
    """What a value may be, in a few words."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#schema-{name}">{name}</a>'
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(_type(kind) for kind in schema[several])
    if "const" in schema or "enum" in schema:
        return " or ".join(_code(json.dumps(value)) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}" if "items" in schema else "list"
    return escape(str(schema.get("type", "anything"))) + _bounds(schema)


def _bounds(schema: Json) -> str:
    known = ("minimum", "maximum", "minLength", "maxLength", "pattern", "format", "default")
    told = [f"{name} {_code(json.dumps(schema[name]))}" for name in known if name in schema]
    return f" ({', '.join(told)})" if told else ""


def _resolved(api: Json, one: Json) -> Json:
    if "$ref" not in one:
        return one
    found: Json = api
    for step in one["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return found


def _folded(name: str, shown: str, inside: str) -> str:
    return f'<details id="{escape(name)}"><summary>{shown}</summary>{inside}</details>'


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Cells are HTML already."""
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _text(markdown: str) -> str:
    """Text of the document: of Markdown it has backquotes only."""
    pieces = escape(markdown).split("`")
    return "".join(f"<code>{piece}</code>" if at % 2 else piece for at, piece in enumerate(pieces))


def _paragraph(text: str) -> str:
    return f"<p>{_text(text)}</p>"


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _link(name: str) -> str:
    return f'<a href="#{_slug(name)}">{escape(name)}</a>'


def _slug(name: str) -> str:
    return name.lower().replace(" ", "-")
