"""A sidecar with a scripted engine in its own process, a real gRPC tool, and an agent that calls it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from interlock.proxy.app import Sidecar
from tests.rpc_agent import RpcAgent, agent_at
from tests.rpc_tool import RpcTool
from tests.unit.proxy.scripted_engine import ScriptedEngine, embedded_sidecar, route


@pytest.fixture
async def rpc_tool() -> AsyncIterator[RpcTool]:
    tool = RpcTool()
    await tool.start()
    yield tool
    await tool.stop()


@pytest.fixture
def engine(rpc_tool: RpcTool) -> ScriptedEngine:
    return ScriptedEngine(route(rpc_tool.url, name="pay.v1.Payments.Charge"))


@pytest.fixture
async def sidecar(engine: ScriptedEngine, tmp_path: Path) -> AsyncIterator[Sidecar]:
    async with embedded_sidecar(engine, tmp_path / "spool") as running:
        yield running


@pytest.fixture
async def rpc_agent(sidecar: Sidecar) -> AsyncIterator[RpcAgent]:
    async with agent_at(sidecar.grpc_port or 0) as agent:
        yield agent
