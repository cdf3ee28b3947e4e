"""`interlock engine` and `interlock sidecar` as processes of their own, with mTLS between them."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.certificates import Authority
from tests.interlock_dev import ADMIN_KEY, MASTER_KEY, free_port, launch, until
from tests.redis_server import RedisServer
from tests.tool import Tool

TOKEN = "the token of the sidecars"
SERVICE = "interlock.governance.v1.Governance"


@dataclass(frozen=True)
class Role:
    process: asyncio.subprocess.Process
    admin: str
    log: Path

    async def alive(self) -> bool:
        return await self._says_ok("/healthz")

    async def ready(self) -> bool:
        return await self._says_ok("/readyz")

    async def _says_ok(self, path: str) -> bool:
        assert self.process.returncode is None, self.log.read_text()
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"{self.admin}{path}")).status_code == 200
        except httpx.TransportError:
            return False

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            return await self.process.wait()


@asynccontextmanager
async def running(role: str, folder: Path, settings: dict[str, str], admin_port: int) -> AsyncIterator[Role]:
    log = folder / f"{role}.log"
    started = Role(await launch(role, log=log, settings=settings), f"http://127.0.0.1:{admin_port}", log)
    try:
        yield started
    finally:
        if started.process.returncode is None:
            await started.stop()


class Apart:
    """One configuration for both roles."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        self.port, self.admin_port, self.engine_port, self.engine_admin_port = (free_port() for _ in range(4))
        self.ours, self.theirs = Authority(folder, "our-ca"), Authority(folder, "their-ca")
        engine, engine_key = self.ours.issue("engine")
        self.sidecar_pair = self.ours.issue("sidecar")
        self.engine_settings = {
            "INTERLOCK_REDIS_URL": redis_url,
            "INTERLOCK_BOOTSTRAP_KEY": ADMIN_KEY,
            "INTERLOCK_ENGINE__MASTER_KEY": MASTER_KEY,
            "INTERLOCK_ENGINE__SIDECAR_TOKEN": TOKEN,
            "INTERLOCK_ENGINE__LISTEN": f"127.0.0.1:{self.engine_port}",
            "INTERLOCK_ENGINE__ADMIN_PORT": str(self.engine_admin_port),
            "INTERLOCK_ENGINE__DEFAULT_POLICY": "allow",
            "INTERLOCK_ENGINE__ALLOW_LOOPBACK_TOOLS": "true",
            "INTERLOCK_ENGINE__TLS__CERT_FILE": str(engine),
            "INTERLOCK_ENGINE__TLS__KEY_FILE": str(engine_key),
            "INTERLOCK_ENGINE__TLS__CLIENT_CA_FILE": str(self.ours.file),
        }

    def sidecar_settings(self, cert: Path, key: Path) -> dict[str, str]:
        return {
            "INTERLOCK_SIDECAR__PORT": str(self.port),
            "INTERLOCK_SIDECAR__ADMIN_PORT": str(self.admin_port),
            "INTERLOCK_SIDECAR__GRPC_PORT": "off",
            "INTERLOCK_SIDECAR__SPOOL_DIR": str(self.folder / "spool"),
            "INTERLOCK_SIDECAR__ALLOW_LOOPBACK_TOOLS": "true",
            "INTERLOCK_SIDECAR__ENGINE__TARGET": f"grpcs://127.0.0.1:{self.engine_port}",
            "INTERLOCK_SIDECAR__ENGINE__SIDECAR_TOKEN": TOKEN,
            "INTERLOCK_SIDECAR__ENGINE__TLS__CA_FILE": str(self.ours.file),
            "INTERLOCK_SIDECAR__ENGINE__TLS__CERT_FILE": str(cert),
            "INTERLOCK_SIDECAR__ENGINE__TLS__KEY_FILE": str(key),
        }

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[Role]:
        async with running("engine", self.folder, self.engine_settings, self.engine_admin_port) as engine:
            yield engine

    @asynccontextmanager
    async def sidecar(self, cert: Path, key: Path) -> AsyncIterator[Role]:
        async with running("sidecar", self.folder, self.sidecar_settings(cert, key), self.admin_port) as sidecar:
            yield sidecar

    @asynccontextmanager
    async def channel(self, trusted: Authority | None = None) -> AsyncIterator[aio.Channel]:
        cert, key = self.sidecar_pair
        credentials = grpc.ssl_channel_credentials(
            (trusted or self.ours).file.read_bytes(), key.read_bytes(), cert.read_bytes()
        )
        async with aio.secure_channel(f"127.0.0.1:{self.engine_port}", credentials) as channel:
            yield channel

    def agent(self) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {ADMIN_KEY}", "Interlock-Agent": "a1"}
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=30)


@pytest.fixture
def apart(tmp_path: Path, redis_url: str) -> Apart:
    return Apart(tmp_path, redis_url)


async def test_a_call_goes_through_sidecar_and_engine_and_both_end_in_order(apart: Apart, tool: Tool) -> None:
    async with apart.engine() as engine, apart.sidecar(*apart.sidecar_pair) as sidecar, apart.agent() as agent:
        await until(engine.ready)
        await until(sidecar.ready)
        (await agent.post("/v1/tools", json={"name": "charge", "url": tool.url})).raise_for_status()
        first = await agent.post("/tools/charge", json={"order": 1})
        again = await agent.post("/tools/charge", json={"order": 1})
        assert (first.headers["Interlock-Decision"], first.json()) == ("executed", {"calls": 1})
        assert (again.headers["Interlock-Decision"], again.json()) == ("dedup", {"calls": 1})
        assert await sidecar.stop() == 0
        assert await engine.stop() == 0
    assert len(tool.received) == 1


async def test_a_sidecar_with_a_certificate_of_another_authority_gets_no_word_from_the_engine(
    apart: Apart, tool: Tool
) -> None:
    async with apart.engine() as engine, apart.sidecar(*apart.theirs.issue("stranger")) as sidecar:
        await until(engine.ready)
        await until(sidecar.alive)
        async with apart.agent() as agent:
            refused = await agent.post("/tools/charge", json={"order": 1})
        assert (refused.status_code, refused.json()["reason"]) == (503, "governance_unavailable")
        assert not await sidecar.ready()
    assert not tool.received


async def test_an_engine_shows_a_new_certificate_without_a_restart_and_calls_go_on(apart: Apart, tool: Tool) -> None:
    async with apart.engine() as engine, apart.sidecar(*apart.sidecar_pair) as sidecar, apart.agent() as agent:
        await until(engine.ready)
        await until(sidecar.ready)
        (await agent.post("/v1/tools", json={"name": "charge", "url": tool.url})).raise_for_status()
        calling = [asyncio.create_task(agent.post("/tools/charge", json={"order": order})) for order in range(40)]
        apart.theirs.issue("engine")  # over the files that the engine names
        async with apart.channel(apart.theirs) as channel:
            health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE))
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        assert {(await call).headers["Interlock-Decision"] for call in calling} == {"executed"}
    assert len(tool.received) == 40


async def test_a_sidecar_outlives_its_engine_and_works_when_it_is_back(apart: Apart, tool: Tool) -> None:
    async with apart.sidecar(*apart.sidecar_pair) as sidecar, apart.agent() as agent:
        async with apart.engine() as engine:
            await until(engine.ready)
            await until(sidecar.ready)
            (await agent.post("/v1/tools", json={"name": "charge", "url": tool.url})).raise_for_status()
            assert (await agent.post("/tools/charge", json={"order": 1})).status_code == 200
        assert (await agent.post("/tools/charge", json={"order": 2})).json()["reason"] == "governance_unavailable"

        async def charges() -> bool:
            answer = await agent.post("/tools/charge", json={"order": 2})
            return answer.status_code == 200 and answer.json() == {"calls": 2}

        async with apart.engine():
            await until(charges)
    assert len(tool.received) == 2


async def test_health_and_reflection_tell_what_the_engine_serves(apart: Apart) -> None:
    async with apart.engine() as engine, apart.channel() as channel:
        await until(engine.ready)
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE))
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        stream = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        services = {service.name async for answer in stream for service in answer.list_services_response.service}
    assert {SERVICE, "interlock.governance.v1.Keys", "grpc.health.v1.Health"} <= services


async def test_an_engine_that_starts_before_redis_makes_the_first_key_once_it_is_there(
    tmp_path: Path, own_redis: RedisServer, tool: Tool
) -> None:
    apart = Apart(tmp_path, own_redis.url)
    own_redis.stop()
    async with apart.engine() as engine, apart.sidecar(*apart.sidecar_pair) as sidecar, apart.agent() as agent:
        await until(engine.alive)
        assert not await engine.ready()
        own_redis.start()
        await until(engine.ready)
        await until(sidecar.ready)

        async def knows_the_key() -> bool:
            return (await agent.get("/v1/tools")).status_code == 200

        await until(knows_the_key)


@pytest.mark.parametrize(
    ("change", "code", "line"),
    [
        ({"INTERLOCK_ENGINE__TLS__KEY_FILE": "nowhere.key"}, 2, "engine.tls.key_file: nowhere.key cannot be read: .*"),
        ({"INTERLOCK_ENGINE__TLS__KEY_FILE": "other.key"}, 2, "engine.tls: .*other.key: .*"),
        ({"INTERLOCK_ENGINE__MASTER_KEY": "k1:short"}, 2, "master key k1 .*"),
        ({"INTERLOCK_ENGINE__LISTEN": "203.0.113.1:8402"}, 1, "interlock: engine.listen: 203.0.113.1:8402 .*"),
    ],
)
async def test_an_engine_that_cannot_start_says_why_in_one_line(
    apart: Apart, change: dict[str, str], code: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(apart.folder)
    apart.theirs.issue("other")
    log = apart.folder / "failing.log"
    quiet = {"INTERLOCK_ENGINE__LOG_LEVEL": "error", "GRPC_VERBOSITY": "NONE"}
    process = await launch("engine", log=log, settings={**os.environ, **apart.engine_settings, **quiet, **change})
    async with asyncio.timeout(30):
        assert await process.wait() == code
    [said] = log.read_text().splitlines()
    assert re.fullmatch(line, said), said
