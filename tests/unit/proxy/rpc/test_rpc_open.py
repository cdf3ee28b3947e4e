"""A gRPC tool that is open when governance fails."""

from pathlib import Path

from grpc import StatusCode as Code

from interlock.governance.errors import UnavailableError
from interlock.governance.v1 import governance_pb2 as pb
from tests.rpc_agent import agent_at
from tests.rpc_tool import RpcTool, says
from tests.unit.proxy.scripted_engine import DOWN, ScriptedEngine, embedded_sidecar, route


async def test_a_method_that_is_open_is_called_and_a_whole_services_is_not(rpc_tool: RpcTool, tmp_path: Path) -> None:
    fields = {"on_governance_failure": pb.ON_GOVERNANCE_FAILURE_OPEN, "open_max_calls_per_minute": 10}
    engine = ScriptedEngine(route(rpc_tool.url, name="pay.v1.Payments.Charge", **fields))
    rpc_tool.does(says(b"done"))
    async with embedded_sidecar(engine, tmp_path / "spool") as sidecar, agent_at(sidecar.grpc_port or 0) as agent:
        judged = await agent.call(b"1")
        engine.error = DOWN
        unjudged = await agent.call(b"2")
        other = await agent.call(b"2", "/pay.v1.Payments/Refund")
    assert (judged.code, judged.trailer("interlock-degraded")) == (Code.OK, None)
    assert (unjudged.code, unjudged.messages) == (Code.OK, [b"done"])
    assert unjudged.trailer("interlock-degraded") is not None
    assert (other.code, other.reason) == (Code.UNAVAILABLE, UnavailableError("governance_unavailable", "").reason)
