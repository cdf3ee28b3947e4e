import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from grpc import StatusCode, aio
from multidict import CIMultiDict

from interlock.governance.v1 import admin_pb2 as pb
from interlock.governance.v1 import admin_pb2_grpc as rpc
from interlock.proxy.api.errors import v1_errors
from interlock.proxy.api.routes import Api, routes
from interlock.proxy.destinations import Destinations
from interlock.proxy.large_bodies import BodyReader

KEY = "once_live_" + "a" * 43
AUTH = {"Authorization": f"Bearer {KEY}"}
TOOL = {"name": "charge", "url": "https://pay.example/charge"}
Client = TestClient[web.Request, web.Application]


class Recorder(rpc.ToolsServicer):
    """A real gRPC service that notes what reached it: what these tests are about is what must not."""

    def __init__(self) -> None:
        self.credentials: list[str | bytes | None] = []
        self.puts: list[pb.PutToolRequest] = []

    async def PutTool(self, request: pb.PutToolRequest, context: Any) -> pb.Tool:  # noqa: N802 - the name in the proto
        self.credentials.append(dict(context.invocation_metadata()).get("authorization"))
        self.puts.append(request)
        return request.tool

    async def GetTool(self, request: object, context: Any) -> Any:  # noqa: N802 - the name in the proto
        await context.abort(StatusCode.UNIMPLEMENTED)

    ListTools = DeleteTool = ToggleTool = GetTool


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
async def client(recorder: Recorder) -> AsyncIterator[Client]:
    server = aio.server()
    rpc.add_ToolsServicer_to_server(recorder, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        own = Destinations(allow_loopback=True, own_ports=frozenset({8400}))
        app = web.Application(middlewares=[v1_errors])
        reader = BodyReader()
        app.add_routes(routes(Api.over(channel, own, reader.of_strangers, max_body_bytes=4096)))
        async with TestClient(TestServer(app)) as client:
            yield client
        await reader.close()
    await server.stop(None)


async def test_the_callers_own_key_goes_to_the_engine(client: Client, recorder: Recorder) -> None:
    response = await client.post("/v1/tools", json=TOOL, headers=AUTH)
    assert response.status == 200
    assert recorder.credentials == [f"Bearer {KEY}"]


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", f"Basic {KEY}", KEY])
async def test_without_a_bearer_key_nothing_is_asked(client: Client, recorder: Recorder, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    response = await client.post("/v1/tools", json=TOOL, headers=headers)
    assert response.status == 401
    assert await response.json() == {"detail": "Missing Authorization Bearer token"}
    assert recorder.puts == []


@pytest.mark.parametrize("key", ["two words", "a" * 513, "schlüssel"])
async def test_what_cannot_be_a_key_is_an_invalid_one(client: Client, recorder: Recorder, key: str) -> None:
    response = await client.post("/v1/tools", json=TOOL, headers={"Authorization": f"Bearer {key}"})
    assert response.status == 403
    assert await response.json() == {"detail": "Invalid API key"}
    assert recorder.puts == []


async def test_of_two_keys_none_is_believed(client: Client, recorder: Recorder) -> None:
    twice = CIMultiDict([("Authorization", f"Bearer {KEY}"), ("Authorization", "Bearer another")])
    response = await client.post("/v1/tools", json=TOOL, headers=twice)
    assert response.status == 403
    assert await response.json() == {"detail": "Invalid API key"}
    assert recorder.puts == []


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"[]",
        b"null",
        b'{"name": NaN}',
        b'{"name": "a", "name": "b"}',
        b"[" * 200 + b"]" * 200,
        b'{"name": "\xff"}',
    ],
)
async def test_a_body_that_is_no_acceptable_json_object_stores_nothing(
    client: Client, recorder: Recorder, raw: bytes
) -> None:
    response = await client.post("/v1/tools", data=raw, headers=AUTH)
    assert response.status == 422
    (problem,) = (await response.json())["detail"]
    assert problem["loc"] == ["body"]
    assert recorder.puts == []


async def test_every_problem_of_a_body_is_told_at_once_and_no_secret_repeated(
    client: Client, recorder: Recorder
) -> None:
    body = {
        "name": "a/b",
        "timeout_ms": 1,
        "auth": {"secret": "shhh"},
        "upstream_credential": "hush-hush",
        "pasword": "psst",
    }
    response = await client.post("/v1/tools", json=body, headers=AUTH)
    assert response.status == 422
    detail = (await response.json())["detail"]
    assert {tuple(problem["loc"]) for problem in detail} == {
        ("body", "name"),
        ("body", "url"),
        ("body", "timeout_ms"),
        ("body", "auth", "secret"),
        ("body", "upstream_credential"),
        ("body", "pasword"),
    }
    assert all(problem.keys() == {"type", "loc", "msg", "input"} for problem in detail)
    assert next(problem["input"] for problem in detail if problem["loc"] == ["body", "timeout_ms"]) == 1
    for secret in ("shhh", "hush", "psst"):
        assert secret not in json.dumps(detail)
    assert recorder.puts == []


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a/b",
        "/relative",
        "http://169.254.169.254/",
        "http://127.0.0.1:8400/x",
        "http://u:p@pay.example/",
        "http://0x7f.1:8400/",
    ],
)
async def test_a_tool_that_leads_where_none_may_is_refused_at_its_url(
    client: Client, recorder: Recorder, url: str
) -> None:
    response = await client.post("/v1/tools", json={**TOOL, "url": url}, headers=AUTH)
    assert response.status == 422
    (problem,) = (await response.json())["detail"]
    assert (problem["type"], problem["loc"]) == ("destination_refused", ["body", "url"])
    assert recorder.puts == []


async def test_a_body_over_the_limit_is_refused_by_its_announced_length(client: Client, recorder: Recorder) -> None:
    response = await client.post("/v1/tools", data=b" " * 4097, headers=AUTH)
    assert response.status == 413
    assert (await response.json())["detail"]["error"] == "body_too_large"
    assert recorder.puts == []


async def test_a_body_over_the_limit_is_refused_while_it_is_read_not_after(client: Client, recorder: Recorder) -> None:
    refused = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * 1024
        await refused.wait()  # the answer must come before the body ends

    async with client.post("/v1/tools", data=endless(), headers=AUTH) as response:
        assert response.status == 413
        refused.set()
    assert recorder.puts == []


@pytest.mark.parametrize(
    ("path", "loc"),
    [
        ("/v1/tools/a%2Fb", ["path", "name"]),
        ("/v1/tools/a%0A", ["path", "name"]),
        ("/v1/tools/charge?scope_id=other", ["query", "scope_id"]),
        ("/v1/tools/charge?scope=global", ["query", "scope"]),
        ("/v1/policies/a%7Bb%7D", ["path", "agent_id"]),
        ("/v1/agents/billing/logs?limit=501", ["query", "limit"]),
        ("/v1/agents/billing/metrics?period=year", ["query", "period"]),
        ("/v1/audit", ["query", "agent_id"]),
        ("/v1/ai/status?key=a&key=b", ["query", "key"]),
        ("/v1/tools/charge?scope_id=global&scope_id=global", ["query", "scope_id"]),
    ],
)
async def test_paths_and_queries_are_judged_before_the_engine_is_asked(
    client: Client, path: str, loc: list[str]
) -> None:
    response = await client.get(path, headers=AUTH)
    assert response.status == 422
    assert [problem["loc"] for problem in (await response.json())["detail"]] == [loc]


async def test_a_policys_agent_must_be_the_paths(client: Client) -> None:
    response = await client.post("/v1/policies/billing", json={"agent_id": "support"}, headers=AUTH)
    assert response.status == 422
    (problem,) = (await response.json())["detail"]
    assert (problem["loc"], problem["input"]) == (["body", "agent_id"], "support")
