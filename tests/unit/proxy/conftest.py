"""A sidecar with a scripted engine in its own process, a real tool, and an agent that calls it; its way out alone."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from interlock.proxy.app import Sidecar
from interlock.proxy.destinations import Destinations
from interlock.proxy.upstream import Upstream
from tests.tool import Tool
from tests.unit.proxy.agents import client
from tests.unit.proxy.raw_tool import Play, RawTool
from tests.unit.proxy.scripted_engine import ScriptedEngine, embedded_sidecar, route


@pytest.fixture
def engine(tool: Tool) -> ScriptedEngine:
    return ScriptedEngine(route(tool.url))


@pytest.fixture
def spool_dir(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
async def sidecar(engine: ScriptedEngine, spool_dir: Path) -> AsyncIterator[Sidecar]:
    async with embedded_sidecar(engine, spool_dir) as running:
        yield running


@pytest.fixture
async def agent(sidecar: Sidecar) -> AsyncIterator[httpx.AsyncClient]:
    async with client(sidecar) as speaking:
        yield speaking


@pytest.fixture
async def tools() -> AsyncIterator[Callable[..., Awaitable[RawTool]]]:
    async with contextlib.AsyncExitStack() as started:

        async def start(play: Play, tls: ssl.SSLContext | None = None) -> RawTool:
            tool = RawTool(play, tls)
            await tool.start()
            started.push_async_callback(tool.stop)
            return tool

        yield start


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream(Destinations(allow_loopback=True))
    await upstream.start()
    yield upstream
    await upstream.close()
