"""A sidecar with a scripted engine in its own process, a real tool, and an agent that calls it."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from interlock.proxy.app import Sidecar
from tests.tool import Tool
from tests.unit.proxy.agents import client
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
