"""Traces and tokens of gRPC calls."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from grpc import StatusCode as Code

from interlock.governance.v1 import governance_pb2 as pb
from tests.otlp_receiver import ERROR, OtlpReceiver, attributes
from tests.rpc_agent import PAY, RpcAgent, agent_at
from tests.rpc_tool import RpcTool, says
from tests.tool import Tool, answers
from tests.unit.proxy.scripted_engine import ScriptedEngine, embedded_sidecar

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
async def receiver(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OtlpReceiver]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    async with OtlpReceiver() as receiver:
        yield receiver


async def test_a_grpc_call_is_traced_through_to_its_tool(
    engine: ScriptedEngine, rpc_tool: RpcTool, tmp_path: Path, receiver: OtlpReceiver
) -> None:
    traces = {"otlp_endpoint": receiver.url}
    async with (
        embedded_sidecar(engine, tmp_path / "spool", traces=traces) as sidecar,
        agent_at(sidecar.grpc_port or 0) as agent,
    ):
        await agent.call(b"1", metadata=(("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01"),))
        rpc_tool.does(says(code=Code.NOT_FOUND))
        await agent.call(b"2", metadata=(("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01"),))
        good, bad = await receiver.until("execute_tool", 2)
    assert (good.name, good.trace_id.hex()) == (f"execute_tool {engine.tool.name}", TRACE)
    assert (good.status.code, bad.status.code) == (0, ERROR)
    sent, _ = receiver.named(PAY.removeprefix("/"))
    told = attributes(sent)
    assert (told["rpc.system"], f"/{told['rpc.service']}/{told['rpc.method']}") == ("grpc", PAY)
    assert rpc_tool.received[0].value("traceparent") == f"00-{TRACE}-{sent.span_id.hex()}-01"


@pytest.mark.parametrize("passed", [False, True])
async def test_a_token_is_replaced_within_the_call_unless_something_has_been_passed_on(
    rpc_agent: RpcAgent, engine: ScriptedEngine, rpc_tool: RpcTool, passed: bool
) -> None:
    endpoint = Tool()
    endpoint.does(
        answers(200, json.dumps({"access_token": "token-00000001"}).encode()),
        answers(200, json.dumps({"access_token": "token-00000002"}).encode()),
    )
    await endpoint.start()
    oauth2 = pb.OAuth2ClientCredentials(token_url=endpoint.url, client_id="c", client_secret="client-secret")
    engine.tool.upstream_credential.oauth2.CopyFrom(oauth2)
    messages = (b"one", b"two") if passed else ()
    rpc_tool.does(says(*messages, code=Code.UNAUTHENTICATED), says(b"done"))
    answer = await rpc_agent.call()
    await endpoint.stop()
    shown = [received.value("authorization") for received in rpc_tool.received]
    if passed:
        assert (answer.code, shown) == (Code.UNAUTHENTICATED, ["Bearer token-00000001"])
    else:
        assert (answer.code, shown) == (Code.OK, ["Bearer token-00000001", "Bearer token-00000002"])
