"""The OpenAPI document says what is served, completely, and in the words of the models."""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter

from interlock.proxy.api import document as module
from interlock.proxy.api.document import PATH, TAG_OF, document, document_route, operation_id
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.routes import OPERATIONS, routes
from interlock.proxy.api.segments import SEGMENTS
from interlock.proxy.money import exact
from interlock.proxy.run_operation import RUN
from interlock.proxy.strict_json import parse

ALL = (RUN, *OPERATIONS)
each = pytest.mark.parametrize("of", ALL, ids=lambda of: f"{of.method} {of.path}")


def test_every_route_that_is_served_is_in_the_document_and_no_other() -> None:
    api: Any = None  # the routes are only looked at
    served = [*routes(api), document_route(), web.post(RUN.path, str)]
    told = {(method.upper(), path) for path, item in document()["paths"].items() for method in item}
    assert told == {(route.method, re.sub(r"\{(\w+):[^}]*\}", r"{\1}", route.path)) for route in served}


def test_operations_have_names_of_their_own() -> None:
    names = [operation_id(of) for of in ALL]
    assert len({*names}) == len(names)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in names), names


@each
def test_what_an_operation_says_of_itself_is_there(of: Operation) -> None:
    assert of.answer is not None
    assert of is RUN or of.path.split("/")[2] in TAG_OF
    assert {*re.findall(r"\{(\w+)\}", of.path)} <= {*SEGMENTS}
    assert len(of.summary) < 70
    assert not of.summary.endswith(".")


@each
def test_an_example_is_accepted_by_the_model_that_validates(of: Operation) -> None:
    if of.body is not None and of.example is not None:
        TypeAdapter(of.body).validate_python(parse(json.dumps(of.example).encode(), parse_float=exact))


@each
def test_the_least_role_is_that_of_the_table_of_routes(of: Operation) -> None:
    page = (Path(__file__).parents[4] / "docs" / "http.md").read_text()
    assert re.search(rf"^\| {of.method} \| `{re.escape(of.path)}` \| {of.role} \|", page, re.MULTILINE)


def schemas() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, schema in document()["components"]["schemas"].items():
        for field, told in schema.get("properties", {}).items():
            yield name, field, told


def test_every_field_says_what_it_is() -> None:
    assert [(name, field) for name, field, told in schemas() if not {"description", "$ref"} & told.keys()] == []


def test_every_parameter_says_what_it_is() -> None:
    for path, item in document()["paths"].items():
        for operation in item.values():
            missing = [one for one in operation["parameters"] if "$ref" not in one and not one["description"]]
            assert missing == [], path


def test_every_schema_is_one() -> None:
    for name, schema in document()["components"]["schemas"].items():
        assert "__" not in name, f"two models have the name of {name}"
        assert Draft202012Validator.check_schema(schema) is None, name


def test_every_reference_leads_somewhere() -> None:
    text = json.dumps(document())
    for reference in {*re.findall(r'"\$ref": "([^"]+)"', text)}:
        at: Any = document()
        for step in reference.removeprefix("#/").split("/"):
            at = at[step]
        assert at, reference
    assert "$type" not in text


MODEL = re.compile(r"(?:\.(body|query)|\b(judged))\((\w+)")
API = "interlock.proxy.api."


def with_all_it_calls(function: Any, seen: set[Any]) -> str:
    """The source of a function, and of those of the API that it names."""
    seen.add(function)
    source = inspect.getsource(function)
    for name in {*re.findall(r"(?<![.\w])(\w+)(?:\(|, raw)", source)}:
        named = function.__globals__.get(name)
        if inspect.isfunction(named) and named not in seen and named.__module__.startswith(API):
            source += with_all_it_calls(named, seen)
    return source


@pytest.mark.parametrize("of", OPERATIONS, ids=lambda of: f"{of.method} {of.path}")
def test_handlers_validate_by_the_models_of_the_document(of: Operation) -> None:
    source = with_all_it_calls(of.answering, set())
    named = {kind or "body": name for kind, _, name in MODEL.findall(source) if name != "model"}
    told = {kind: model.__name__ for kind in ("body", "query") if (model := getattr(of, kind)) is not None}
    assert named == told


def test_the_document_is_made_once() -> None:
    assert module.document() is document()
    assert document()["paths"][PATH]["get"]["security"] == []
