"""A tool's own credential is the tool's alone: whatever an agent does, and wherever one looks, there is none of it."""

import asyncio
import base64
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from aiohttp import web
from redis.asyncio import Redis

from tests.acceptance.scene import Scene, Sidecars
from tests.acceptance.wire import Answer
from tests.conftest import StartDev
from tests.redis_server import RedisServer
from tests.tool import Tool, answers, waits_for

KEY = f"key-{secrets.token_hex(16)}"
PASSWORD = f"pass/{secrets.token_hex(12)}"
BASIC = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
CLIENT_SECRET = f"client-{secrets.token_hex(16)}"
TOKEN = f"token.{secrets.token_hex(24)}"
SECRETS = (KEY, PASSWORD, BASIC, CLIENT_SECRET, TOKEN)
CREDENTIALS = {
    "key": {"header": "X-Api-Key", "value": KEY},
    "basic": {"header": "Authorization", "value": f"Basic {BASIC}"},
    "token": {"type": "oauth2_client_credentials", "client_id": "client-1", "client_secret": CLIENT_SECRET},
}
SHOWN = {"key": KEY, "basic": f"Basic {BASIC}", "token": f"Bearer {TOKEN}"}

AGENT = """
import json, os, sys, urllib.request
request = urllib.request.Request(sys.argv[1], b"{}", {"Content-Type": "application/json"})
with urllib.request.urlopen(request) as answer:
    print(json.dumps([dict(os.environ), answer.headers.items(), answer.read().decode()]))
"""


async def echo(request: web.Request) -> web.StreamResponse:
    """Repeats all it was sent, in header fields and in the body; `long`, `pieces` and `status` say in which manner."""
    asked = request.query
    sent = [f"{name}: {value}" for name, value in request.headers.items()]
    told = {"headers": sent, "body": await request.text(), "basic": PASSWORD if BASIC in str(sent) else ""}
    body = ("x" * (100_000 if "long" in asked else 0) + json.dumps(told)).encode()
    fields = {f"X-Echo-{number}": line for number, line in enumerate(sent)}
    if "pieces" not in asked:
        return web.Response(status=int(asked.get("status", "200")), body=body, headers=fields)
    response = web.StreamResponse(headers=fields)
    await response.prepare(request)
    size = int(asked["pieces"])
    for at in range(0, len(body), size):
        await response.write(body[at : at + size])
        await asyncio.sleep(0)  # or they leave together
    return response


def leaks(*seen: object) -> list[str]:
    """Which secrets stand in what was seen."""
    texts = [each if isinstance(each, bytes) else str(each).encode() for each in seen]
    return [secret for secret in SECRETS if any(secret.encode() in text for text in texts)]


async def in_redis(url: str) -> list[object]:
    """Every value there is, not compressed as DUMP would have it."""
    readers = {
        b"string": lambda redis, key: redis.get(key),
        b"hash": lambda redis, key: redis.hgetall(key),
        b"zset": lambda redis, key: redis.zrange(key, 0, -1),
        b"set": lambda redis, key: redis.smembers(key),
        b"list": lambda redis, key: redis.lrange(key, 0, -1),
        b"stream": lambda redis, key: redis.xrange(key),
    }
    async with Redis.from_url(url) as redis:
        return [(key, await readers[await redis.type(key)](redis, key)) async for key in redis.scan_iter("*")]


def in_files(*folders: Path) -> list[bytes]:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_socket()]
    return [path.read_bytes() for path in files]


@pytest.fixture
async def scene(interlock_dev: StartDev, own_redis: RedisServer) -> AsyncIterator[Scene]:
    """One sidecar whose log, disk and Redis hold nothing but what happens here."""
    dev = await interlock_dev(own_redis.url, INTERLOCK_SIDECAR__TOKEN_TIMEOUT_MS="500")
    async with dev.client() as operator:
        yield Scene(Sidecars(dev, dev), operator)


@pytest.fixture
async def endpoint() -> AsyncIterator[Tool]:
    given = {"access_token": TOKEN, "token_type": "Bearer", "expires_in": 3600}
    endpoint = Tool().does(answers(200, json.dumps(given).encode()))
    await endpoint.start()
    yield endpoint
    await endpoint.stop()


async def registered(scene: Scene, tool: Tool, endpoint: Tool) -> dict[str, str]:
    """A tool for each kind of credential: its name."""
    token = {**CREDENTIALS["token"], "token_url": endpoint.url}
    kinds = {**CREDENTIALS, "token": token}
    return {kind: await scene.register(tool.url, upstream_credential=kinds[kind], max_retries=0) for kind in kinds}


QUERIES = ("", "?status=400", "?status=404", "?status=500", "?long", "?pieces=1", "?pieces=7", "?long&pieces=4096")


async def called(scene: Scene, name: str) -> list[Answer]:
    """Every manner of answer, and each again: a replay, or a new try where the first was an error."""
    found = []
    for query in QUERIES:
        for _ in range(2):
            found.append(await scene.call(name, {"query": query}, below=query))
            assert found[-1].whole
    found += [await scene.run(name, {"by": "run"}) for _ in range(2)]
    found.append(await scene.call(name, {"of": "a sidecar's problem"}, headers={"Idempotency-Key": '"'}))
    return found


async def test_an_agent_gets_nothing_of_a_credential_however_its_tool_repeats_it(
    scene: Scene, tool: Tool, endpoint: Tool
) -> None:
    tool.does(echo)
    for kind, name in (await registered(scene, tool, endpoint)).items():
        before = len(tool.received)
        found = await called(scene, name)
        assert sum(answer.replayed for answer in found) >= 3
        sent = tool.received[before:]
        assert len(sent) > len(QUERIES)
        header = "X-Api-Key" if kind == "key" else "Authorization"
        assert {received.header(header) for received in sent} == {SHOWN[kind]}, "else there would be nothing to hide"
        assert leaks(*((answer.fields, answer.body) for answer in found)) == []
        stars = b"*" * len(SHOWN[kind])
        without = [answer for answer in found[: 2 * len(QUERIES)] if answer.status != 409 and stars not in answer.body]
        assert not without


async def test_nobody_else_is_shown_a_credential(
    scene: Scene, tool: Tool, endpoint: Tool, own_redis: RedisServer, tmp_path: Path
) -> None:
    tool.does(echo)
    names = await registered(scene, tool, endpoint)
    for name in names.values():
        await called(scene, name)
    refusing = answers(401, json.dumps({"error": CLIENT_SECRET, "error_description": TOKEN}).encode())
    endpoint.does(refusing)
    failing = {**CREDENTIALS["token"], "token_url": f"{endpoint.url}?secret", "scope": "other"}
    refused = await scene.call(await scene.register(tool.url, upstream_credential=failing))
    assert (refused.status, refused.json["reason"]) == (502, "credential_refused")

    goes = asyncio.Event()
    tool.does(waits_for(goes, echo))
    held, before = asyncio.create_task(scene.call(names["key"], {"in": "the spool"})), len(tool.received)
    await tool.until_received(before + 1)
    api = [await scene.ask("GET", path) for path in ("/v1/tools", f"/v1/tools/{names['token']}", "/v1/calls")]
    trail, logs = await scene.events(), await scene.logs()
    kept = await in_redis(own_redis.url)
    own_redis.stop()
    goes.set()
    pending = await held
    assert pending.header("Interlock-Settled") == "pending"
    assert leaks(refused.body, pending.fields, pending.body) == []

    disk = in_files(tmp_path, own_redis._folder)
    assert len(in_files(tmp_path / "dev0" / "spool")) == 1
    async with httpx.AsyncClient(verify=False) as client:
        metrics = (await client.get(f"{scene.first.admin_url}/metrics")).text
    assert "interlock_token_fetches_total" in metrics
    log = scene.first.log.read_bytes()
    assert b"credential.fetch_failed" in log
    assert b"call.finished" in log
    # What is looked through holds what was done, so that it would hold a secret, too.
    assert any(names["token"].encode() in held for held in disk)
    assert names["token"] in str(kept) and names["token"] in str(trail)
    assert leaks(refused.fields, *api, trail, logs, *kept, *disk, metrics, log) == []
    shown = {tool["name"]: tool["upstream_credential"] for tool in api[0]}
    assert shown[names["key"]]["mask"] == f"•••• {KEY[-4:]}"


async def test_an_agents_process_holds_nothing_of_a_credential(
    scene: Scene, interlock_dev: StartDev, own_redis: RedisServer, tool: Tool, endpoint: Tool
) -> None:
    names = await registered(scene, tool.does(echo), endpoint)
    sidecar = await interlock_dev(own_redis.url, INTERLOCK_SIDECAR__AGENT_KEY=await scene.key(scene.agent))
    for name in names.values():
        agent = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", AGENT, f"{sidecar.url}/tools/{name}"),
            stdout=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"]},
        )
        printed, _ = await agent.communicate()
        environment, headers, body = json.loads(printed)
        assert "PATH" in environment
        assert "*" * 20 in body
        assert leaks(environment, headers, body) == []
    assert leaks(tool.received) == [KEY, BASIC, TOKEN]
