import asyncio
import json
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.app import Sidecar
from tests.tool import Tool, answers, never_answers, waits_for
from tests.unit.proxy.agents import body_of, client, reason_of, request_bytes, spoken, status_of
from tests.unit.proxy.scripted_engine import (
    ScriptedEngine,
    embedded_sidecar,
)


@pytest.mark.parametrize(
    ("headers", "body", "reason"),
    [
        ("Idempotency-Key: a\r\nIdempotency-Key: b\r\n", b"", "invalid_idempotency_key"),
        ("Idempotency-Key: " + "k" * 257 + "\r\n", b"", "invalid_idempotency_key"),
        ("Interlock-Spend-Usd: -1\r\n", b"", "invalid_spend"),
        ("Interlock-Spend-Usd: NaN\r\n", b"", "invalid_spend"),
        ("Interlock-Agent: a}b\r\n", b"", "invalid_header"),
        ("X-Latin: \xff\r\n", b"", "invalid_header"),
        ("X-Bad: a\x01b\r\n", b"", "malformed_request"),
        ("X-Bad\r\n", b"", "malformed_request"),
        ("Content-Type: text/plain\r\nContent-Type: application/json\r\n", b"{}", "malformed_request"),
        ("Content-Type: application/json\r\n", b"nope", "invalid_json"),
        ("Content-Type: application/json\r\n", b'{"a":NaN}', "invalid_json"),
        ("Content-Type: application/json\r\n", b'{"a":1,"a":2}', "invalid_json"),
        ("Content-Type: application/json\r\n", b'"\xff"', "invalid_json"),
        ("Content-Type: application/problem+json; charset=utf-8\r\n", b"[" * 200 + b"]" * 200, "invalid_json"),
    ],
)
async def test_bad_input_is_refused_with_a_reason(
    sidecar: Sidecar, engine: ScriptedEngine, tool: Tool, headers: str, body: bytes, reason: str
) -> None:
    answer = await spoken(sidecar, request_bytes(headers=headers, body=body))
    assert (status_of(answer), reason_of(answer)) == (400, reason)
    assert b"Content-Type: application/problem+json" in answer
    assert engine.authorized == []
    assert tool.received == []


@pytest.mark.parametrize(
    "target",
    [
        "/tools/charge/../refund",
        "/tools/%2e%2e/refund",
        "/tools/charge%2frefund",
        "/tools/charge/%5c..",
        "/tools/charge/%00",
        "/tools/char\\ge",
        "http://localhost/tools/charge",
        "/tools/",
        "/tools/a{b}",
    ],
)
async def test_a_path_that_could_lead_elsewhere_is_refused(
    sidecar: Sidecar, engine: ScriptedEngine, target: str
) -> None:
    answer = await spoken(sidecar, request_bytes(target))
    assert (status_of(answer), reason_of(answer)) == (400, "invalid_path")
    assert engine.resolved == 0


async def test_what_a_tool_does_not_take_is_refused(agent: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    put = await agent.put("/tools/charge")
    below = await agent.post("/tools/charge/below")
    engine.tool.dedup_mode = pb.DEDUP_MODE_HEADER
    keyless = await agent.post("/tools/charge")
    unknown = await agent.post("/tools/unknown")
    assert (put.status_code, put.headers["Allow"], put.json()["reason"]) == (405, "POST", "method_not_allowed")
    assert (below.status_code, below.json()["reason"]) == (404, "subpath_not_allowed")
    assert (unknown.status_code, unknown.json()["reason"]) == (404, "tool_not_found")
    assert keyless.status_code == 200, "the tool is remembered as it was until the engine says otherwise"


async def test_a_key_that_a_tool_wants_must_be_there(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.tool.dedup_mode = pb.DEDUP_MODE_HEADER
    answer = await agent.post("/tools/charge")
    assert (answer.status_code, answer.json()["reason"]) == (400, "idempotency_key_required")
    assert tool.received == []


async def test_a_tool_that_was_changed_to_take_a_method_takes_it_at_once(
    agent: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    assert (await agent.put("/tools/charge")).status_code == 405
    engine.tool.methods.append("PUT")
    assert (await agent.put("/tools/charge")).status_code == 200


@pytest.mark.parametrize(
    "framing",
    ["Content-Length: 101\r\n\r\nx", "Transfer-Encoding: chunked\r\n\r\n65\r\n" + "x" * 101 + "\r\n"],
    ids=["by length", "chunked"],
)
async def test_a_body_that_is_too_large_is_refused_before_its_end(
    engine: ScriptedEngine, spool_dir: Path, framing: str
) -> None:
    async with embedded_sidecar(engine, spool_dir, max_body_bytes=100) as sidecar:
        head = "POST /tools/charge HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer k\r\n"
        answer = await spoken(sidecar, (head + framing).encode())
    assert (status_of(answer), reason_of(answer)) == (413, "body_too_large")
    assert b"Connection: close" in answer
    assert engine.resolved == 0


@pytest.mark.parametrize(
    ("door", "status"), [("/tools/charge", 400), ("/v1/ai/run", 422), ("/v1/tools", 422)], ids=["tools", "run", "api"]
)
async def test_a_body_whose_framing_is_broken_is_the_clients_fault_at_every_door(
    sidecar: Sidecar, engine: ScriptedEngine, door: str, status: int
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
    writer.write(
        f"POST {door} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer k\r\n".encode()
        + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    async with asyncio.timeout(10):
        # What comes with the head is judged with it; this comes when the body is being read.
        await reader.readuntil(b"100 Continue\r\n\r\n")
        writer.write(b"2\r\n{}\r\nno length\r\n")
        answer = await reader.read()
    writer.close()
    assert status_of(answer) == status
    assert b"invalid_body" in body_of(answer)
    assert engine.resolved == 0


@pytest.mark.parametrize("door", ["/tools/charge", "/v1/ai/run", "/v1/tools"])
async def test_an_agent_that_leaves_before_its_body_is_whole_is_no_bug_of_ours(sidecar: Sidecar, door: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
    writer.write(
        f"POST {door} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer k\r\n".encode()
        + b"Expect: 100-continue\r\nContent-Length: 10\r\n\r\n{"
    )
    with capture_logs() as logs:
        async with asyncio.timeout(10):
            await reader.readuntil(b"100 Continue\r\n\r\n")
            writer.transport.abort()
            await sidecar.drain()
    assert [line["event"] for line in logs] == ["sidecar.draining"]


async def test_a_body_of_exactly_the_limit_passes(engine: ScriptedEngine, spool_dir: Path, tool: Tool) -> None:
    async with embedded_sidecar(engine, spool_dir, max_body_bytes=100) as sidecar, client(sidecar) as agent:
        assert (await agent.post("/tools/charge", content=b"x" * 100)).status_code == 200
    assert tool.received[0].body == b"x" * 100


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({"Host": "evil.example"}, 421, "host_not_allowed"),
        ({"Host": "localhost.evil.example"}, 421, "host_not_allowed"),
        ({"Origin": "http://localhost"}, 403, "origin_not_allowed"),
        ({"Sec-Fetch-Site": "cross-site"}, 403, "origin_not_allowed"),
        ({"Sec-Fetch-Site": "same-site"}, 403, "origin_not_allowed"),
        ({"Sec-Fetch-Site": ""}, 403, "origin_not_allowed"),
    ],
)
async def test_web_pages_are_not_served(
    agent: httpx.AsyncClient, engine: ScriptedEngine, headers: dict[str, str], status: int, reason: str
) -> None:
    answer = await agent.post("/tools/charge", headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    assert engine.resolved == 0


@pytest.mark.parametrize("site", ["none", "same-origin"])
async def test_what_no_page_of_another_site_sent_is_served(agent: httpx.AsyncClient, site: str) -> None:
    assert (await agent.post("/tools/charge", headers={"Sec-Fetch-Site": site})).status_code == 200


@pytest.mark.parametrize("door", ["/tools/charge", "/v1/ai/run", "/v1/tools"])
async def test_no_body_is_asked_for_that_is_refused_anyway(sidecar: Sidecar, door: str) -> None:
    head = f"POST {door} HTTP/1.1\r\nExpect: 100-continue\r\nAuthorization: Bearer k\r\nConnection: close\r\n"
    for fields, status in (
        ("Host: evil.example\r\nContent-Length: 2\r\n", 421),
        ("Host: localhost\r\nOrigin: http://localhost\r\nContent-Length: 2\r\n", 403),
        ("Host: localhost\r\nContent-Length: 2000000\r\n", 413),
    ):
        assert status_of(await spoken(sidecar, f"{head}{fields}\r\n".encode())) == status
    await sidecar.drain()
    answer = await spoken(sidecar, f"{head}Host: localhost\r\nContent-Length: 2\r\n\r\n".encode())
    assert status_of(answer) == 503


@pytest.mark.parametrize("expect", ["200-ok", "100-continue, x", "100-continue\r\nExpect: x"])
async def test_an_expectation_that_nobody_meets_is_refused_in_the_shape_of_its_door(
    sidecar: Sidecar, engine: ScriptedEngine, expect: str
) -> None:
    tools = await spoken(sidecar, request_bytes(headers=f"Expect: {expect}\r\n", body=b"{}"))
    assert (status_of(tools), reason_of(tools)) == (417, "expectation_failed")
    assert b"Content-Type: application/problem+json" in tools
    for door in ("/v1/ai/run", "/v1/tools"):
        answer = await spoken(sidecar, request_bytes(door, headers=f"Expect: {expect}\r\n", body=b"{}"))
        detail = json.loads(body_of(answer))["detail"]
        assert (status_of(answer), detail["error"]) == (417, "expectation_failed")
    assert engine.resolved == 0


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]:8400", "pod.internal"])
async def test_known_hosts_are_served_on_any_port(engine: ScriptedEngine, spool_dir: Path, host: str) -> None:
    async with embedded_sidecar(engine, spool_dir, allowed_hosts=["pod.internal"]) as sidecar, client(sidecar) as agent:
        assert (await agent.post("/tools/charge", headers={"Host": host})).status_code == 200


async def test_a_call_without_a_key_is_made_with_the_sidecars_own_if_it_has_one(
    engine: ScriptedEngine, spool_dir: Path
) -> None:
    async with embedded_sidecar(engine, spool_dir, agent_key="own") as sidecar, client(sidecar) as agent:
        del agent.headers["Authorization"]
        assert (await agent.post("/tools/charge")).status_code == 200
        assert engine.authorized[0].credential == "own"
        run = await agent.post("/v1/ai/run", json={"agent_id": "a", "tool": "charge"})
        assert (run.status_code, run.json()) == (401, {"detail": "Missing Authorization Bearer token"})


async def test_a_call_that_names_no_agent_is_made_as_the_sidecars_own_if_it_has_one(
    engine: ScriptedEngine, spool_dir: Path
) -> None:
    async with embedded_sidecar(engine, spool_dir, agent_id="shopper") as sidecar, client(sidecar) as agent:
        assert (await agent.post("/tools/charge")).status_code == 200
        assert (await agent.post("/tools/charge", headers={"Interlock-Agent": "other"})).status_code == 200
        assert [asked.agent_id for asked in engine.authorized] == ["shopper", "other"]


async def test_without_any_key_a_call_is_refused(agent: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    del agent.headers["Authorization"]
    answer = await agent.post("/tools/charge")
    assert (answer.status_code, answer.json()["reason"]) == (401, "missing_key")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_a_request_id_is_echoed_or_made(agent: httpx.AsyncClient) -> None:
    assert (await agent.post("/tools/charge", headers={"X-Request-Id": "mine"})).headers["X-Request-Id"] == "mine"
    assert len((await agent.get("/nowhere", headers={"X-Request-Id": "a b"})).headers["X-Request-Id"]) == 32


async def test_draining_refuses_new_calls_and_lets_running_ones_finish(
    sidecar: Sidecar, agent: httpx.AsyncClient, tool: Tool
) -> None:
    go_on = asyncio.Event()
    tool.does(waits_for(go_on, answers(200)))
    running_call = asyncio.create_task(agent.post("/tools/charge"))
    await tool.until_received(1)
    draining = asyncio.create_task(sidecar.drain())
    await asyncio.sleep(0)
    refused = await agent.post("/tools/charge")
    ready = await agent.get(f"http://127.0.0.1:{sidecar.admin_port}/readyz")
    assert (refused.status_code, refused.json()["reason"]) == (503, "draining")
    assert refused.headers["Connection"] == "close"
    assert ready.status_code == 503
    assert not draining.done()
    go_on.set()
    assert (await running_call).status_code == 200
    await draining


async def test_draining_ends_with_its_grace(engine: ScriptedEngine, tool: Tool, spool_dir: Path) -> None:
    tool.does(never_answers())
    async with embedded_sidecar(engine, spool_dir, drain_grace_ms=20) as sidecar, client(sidecar) as agent:
        call = asyncio.create_task(agent.post("/tools/charge"))
        await tool.until_received(1)
        async with asyncio.timeout(5):
            await sidecar.drain()
        call.cancel()
