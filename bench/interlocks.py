"""Interlock in its two shapes: all in one process, and sidecar and engine as two processes with gRPC between them."""

import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import quote

import httpx
from redis.asyncio import Redis

from bench.failure import BenchError
from bench.processes import free_ports, running
from interlock.policy.credentials import new_key
from interlock.policy.secrets import generate_key
from interlock.store.embedded import EmbeddedRedis

TOOL = "bench.charge"
AGENT = "bench"
# A policy with every kind of limit, all of them far away: they are counted on every call and stop none.
POLICY = {
    "allowed_tools": ["bench.*"],
    "max_actions_per_hour": 1_000_000_000,
    "max_calls_per_tool": 1_000_000_000,
    "max_spend_usd_per_day": 10_000_000,
    "pricing_rules": [{"tool": TOOL, "price_usd": 0.001}],
}


class Aof(StrEnum):
    """When Redis puts what it has acknowledged on disk. `interlock dev` has it done always."""

    ALWAYS = "always"
    EVERYSEC = "everysec"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Interlock:
    """One that runs: where agents call it and with what, the metrics of its processes, and their ids by role."""

    url: str
    headers: Mapping[str, str]
    metrics_urls: Sequence[str]
    redis_url: str
    processes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Started:
    """One that nobody has set up yet."""

    port: int
    admin_ports: Sequence[int]
    redis_url: str
    processes: Mapping[str, int]
    admin_key: str


@asynccontextmanager
async def embedded(folder: Path, tool_port: int, aof: Aof) -> AsyncIterator[Interlock]:
    """`interlock dev` with nothing set up: one process, and the Redis it starts itself."""
    folder.mkdir()  # noqa: ASYNC240 - before anything is measured
    port, admin_port = free_ports(2)
    data, admin_key = folder / "data", new_key()
    command = _interlock("dev", "--port", str(port), "--admin-port", str(admin_port), "--data-dir", str(data))
    settings = {"INTERLOCK_BOOTSTRAP_KEY": admin_key, "INTERLOCK_SIDECAR__GRPC_PORT": "off"}
    try:
        async with running(*command, log=folder / "dev.log", ready_at=_ready(admin_port), settings=settings) as dev:
            redis_url = f"unix://{quote(str(data / 'redis' / 'redis.sock'))}"
            started = _Started(port, [admin_port], redis_url, {"dev": dev.pid}, admin_key)
            yield await _prepared(started, tool_port, aof)
    finally:
        _end_redis_left_in(data)


@asynccontextmanager
async def remote(folder: Path, tool_port: int, aof: Aof) -> AsyncIterator[Interlock]:
    """`interlock sidecar` and `interlock engine`, and a Redis with the options of the embedded one."""
    folder.mkdir()  # noqa: ASYNC240 - before anything is measured
    port, admin_port, engine_port, engine_admin_port = free_ports(4)
    admin_key, token = new_key(), secrets.token_urlsafe(32)
    redis = EmbeddedRedis(folder / "redis")
    redis_url = await redis.start()
    engine_settings = {
        "INTERLOCK_REDIS_URL": redis_url,
        "INTERLOCK_BOOTSTRAP_KEY": admin_key,
        "INTERLOCK_ENGINE__MASTER_KEY": generate_key(),
        "INTERLOCK_ENGINE__SIDECAR_TOKEN": token,
        "INTERLOCK_ENGINE__LISTEN": f"127.0.0.1:{engine_port}",
        "INTERLOCK_ENGINE__ADMIN_PORT": str(engine_admin_port),
        "INTERLOCK_ENGINE__ALLOW_LOOPBACK_TOOLS": "true",
    }
    sidecar_settings = {
        "INTERLOCK_SIDECAR__PORT": str(port),
        "INTERLOCK_SIDECAR__ADMIN_PORT": str(admin_port),
        "INTERLOCK_SIDECAR__GRPC_PORT": "off",
        "INTERLOCK_SIDECAR__SPOOL_DIR": str(folder / "spool"),
        "INTERLOCK_SIDECAR__ALLOW_LOOPBACK_TOOLS": "true",
        "INTERLOCK_SIDECAR__ENGINE__TARGET": f"grpc://127.0.0.1:{engine_port}",
        "INTERLOCK_SIDECAR__ENGINE__SIDECAR_TOKEN": token,
    }
    starting_engine = running(
        *_interlock("engine"),
        log=folder / "engine.log",
        ready_at=_ready(engine_admin_port),
        settings=engine_settings,
    )
    starting_sidecar = running(
        *_interlock("sidecar"), log=folder / "sidecar.log", ready_at=_ready(admin_port), settings=sidecar_settings
    )
    try:
        async with starting_engine as engine, starting_sidecar as sidecar:
            processes = {"sidecar": sidecar.pid, "engine": engine.pid}
            started = _Started(port, [admin_port, engine_admin_port], redis_url, processes, admin_key)
            yield await _prepared(started, tool_port, aof)
    finally:
        await redis.close()


async def _prepared(started: _Started, tool_port: int, aof: Aof) -> Interlock:
    """Registers the signed tool, says what the agent may do, and gives it a key."""
    base = f"http://127.0.0.1:{started.port}"
    await _keep(started.redis_url, aof)
    headers = {"Authorization": f"Bearer {started.admin_key}"}
    async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=False, timeout=10) as operator:
        auth = {"type": "hmac_sha256", "secret": f"whsec_{secrets.token_urlsafe(24)}"}
        await _ask(operator, "/v1/tools", {"name": TOOL, "url": f"http://127.0.0.1:{tool_port}/charge", "auth": auth})
        await _ask(operator, f"/v1/policies/{AGENT}", POLICY)
        made = await _ask(operator, "/v1/keys", {"role": "agent", "agent_id": AGENT})
    return Interlock(
        url=f"{base}/tools/{TOOL}",
        headers={"Authorization": f"Bearer {made['key']}"},
        metrics_urls=[f"http://127.0.0.1:{port}/metrics" for port in started.admin_ports],
        redis_url=started.redis_url,
        processes=started.processes,
    )


async def _keep(redis_url: str, aof: Aof) -> None:
    async with Redis.from_url(redis_url) as redis:
        if aof is Aof.NONE:
            await redis.config_set("appendonly", "no")
        else:
            await redis.config_set("appendfsync", aof)


async def _ask(operator: httpx.AsyncClient, path: str, body: Mapping[str, object]) -> Mapping[str, str]:
    answer = await operator.post(path, json=body)
    if answer.status_code != 200:
        raise BenchError(f"POST {path}: {answer.status_code} {answer.text}")
    told: Mapping[str, str] = answer.json()
    return told


def _end_redis_left_in(data: Path) -> None:
    """Only where `interlock dev` had to be killed is there one left to end."""
    with suppress(OSError, ValueError):
        os.kill(int((data / "redis" / "redis.pid").read_text()), signal.SIGTERM)


def _interlock(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "interlock.cli.main", *arguments)


def _ready(admin_port: int) -> str:
    return f"http://127.0.0.1:{admin_port}/readyz"
