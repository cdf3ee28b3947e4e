import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from grpc import StatusCode, aio

from interlock.governance.errors import (
    ConflictError,
    DeniedError,
    ExhaustedError,
    InterlockError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from interlock.governance.status import details_of
from interlock.proxy.api.errors import InvalidField, InvalidFieldsError, answer_of, v1_errors
from interlock.proxy.request_errors import BodyTooLargeError


def detail_of(response: web.Response) -> object:
    return json.loads(response.text or "")["detail"]


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (UnauthenticatedError("missing_key", "x"), 401, "Missing Authorization Bearer token"),
        (UnauthenticatedError("invalid_key", "x"), 403, "Invalid API key"),
        (DeniedError("permission_denied", "m"), 403, {"error": "permission_denied", "message": "m"}),
        (NotFoundError("tool_not_found", "m"), 404, {"error": "tool_not_found", "message": "m"}),
        (ConflictError("call_not_open", "m"), 409, {"error": "call_not_open", "message": "m"}),
        (ExhaustedError("too_many", "m"), 429, {"error": "too_many", "message": "m"}),
        (UnavailableError("governance_unavailable", "m"), 503, {"error": "governance_unavailable", "message": "m"}),
        (InternalError("internal", "m"), 500, {"error": "internal", "message": "m"}),
        (InvalidRequestError("host_not_allowed", "m"), 421, {"error": "host_not_allowed", "message": "m"}),
        (InvalidRequestError("invalid_path", "m"), 400, {"error": "invalid_path", "message": "m"}),
        (BodyTooLargeError(9), 413, {"error": "body_too_large", "message": "the body is larger than 9 bytes"}),
    ],
)
def test_each_kind_of_error_has_its_status_and_shape(error: InterlockError, status: int, detail: object) -> None:
    response = answer_of(error)
    assert response.status == status
    assert detail_of(response) == detail


@pytest.mark.parametrize(
    ("error", "retry_after"),
    [(UnavailableError("governance_unavailable", "m"), "1"), (NotFoundError("tool_not_found", "m"), None)],
)
def test_only_what_passes_says_when_to_come_back(error: InterlockError, retry_after: str | None) -> None:
    assert answer_of(error).headers.get("Retry-After") == retry_after


@pytest.mark.parametrize(
    ("field", "loc"),
    [
        ("", ["body"]),
        ("url", ["body", "url"]),
        ("auth.secret", ["body", "auth", "secret"]),
        ("query.limit", ["query", "limit"]),
    ],
)
def test_an_invalid_value_is_told_in_pydantics_shape(field: str, loc: list[str]) -> None:
    response = answer_of(InvalidRequestError("invalid_url", "no", **({"field": field} if field else {})))
    assert response.status == 422
    assert detail_of(response) == [{"type": "invalid_url", "loc": loc, "msg": "no", "input": None}]


def client_for(raised: BaseException) -> TestClient[web.Request, web.Application]:
    async def handler(_: web.Request) -> web.Response:
        raise raised

    app = web.Application(middlewares=[v1_errors])
    app.router.add_get("/v1/thing", handler)
    app.router.add_get("/tools/thing", handler)
    return TestClient(TestServer(app))


async def test_an_error_of_the_engine_keeps_its_reason() -> None:
    error = NotFoundError("policy_not_found", "no policy")
    failed = aio.AioRpcError(StatusCode.NOT_FOUND, aio.Metadata(), aio.Metadata(*details_of(error)), error.message)
    async with client_for(failed) as client:
        response = await client.get("/v1/thing")
        assert response.status == 404
        assert await response.json() == {"detail": {"error": "policy_not_found", "message": "no policy"}}


async def test_an_engine_out_of_reach_is_governance_unavailable() -> None:
    failed = aio.AioRpcError(StatusCode.UNAVAILABLE, aio.Metadata(), aio.Metadata(), "connection refused")
    async with client_for(failed) as client:
        response = await client.get("/v1/thing")
        assert response.status == 503
        assert response.headers["Retry-After"] == "1"
        assert (await response.json())["detail"]["error"] == "governance_unavailable"


async def test_a_bug_is_told_without_its_text() -> None:
    async with client_for(RuntimeError("the secret plan")) as client:
        response = await client.get("/v1/thing")
        assert response.status == 500
        assert await response.json() == {"detail": {"error": "internal", "message": "internal error"}}


async def test_wrong_path_and_method_answer_in_the_contracts_shape() -> None:
    async with client_for(RuntimeError()) as client:
        missing = await client.get("/v1/nothing")
        assert (missing.status, await missing.json()) == (404, {"detail": "Not Found"})
        wrong = await client.post("/v1/thing")
        assert (wrong.status, await wrong.json()) == (405, {"detail": "Method Not Allowed"})
        assert "GET" in wrong.headers["Allow"]


async def test_other_paths_are_none_of_its_business() -> None:
    async with client_for(web.HTTPGone(text="gone")) as client:
        assert await (await client.get("/tools/thing")).text() == "gone"


async def test_of_many_invalid_values_the_first_twenty_are_told_and_the_rest_counted() -> None:
    fields = [InvalidField("x", ["body", index], f"bad {index}") for index in range(1000)]
    async with client_for(InvalidFieldsError(fields)) as client:
        detail = (await (await client.get("/v1/thing")).json())["detail"]
    assert [item["msg"] for item in detail] == [*(f"bad {index}" for index in range(20)), "and 980 more"]
