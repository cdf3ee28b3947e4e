"""What a gRPC tool verifies: the page's interceptor in a real grpcio server, and the other families' snippets."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc import StatusCode as Code

from tests.rpc_agent import PAY, RpcAgent, agent_at
from tests.rpc_tool import RpcTool
from tests.unit.proxy.scripted_engine import ScriptedEngine
from tests.unit.test_documents import rfc9421_verifies, snippets, webhooks

SECRET = "a secret of the tool"


class Service(grpc.GenericRpcHandler):
    """A servicer of threads, as most are, with a method of either arity; its messages are text."""

    def service(self, details: Any) -> Any:
        as_text: Any = {"request_deserializer": bytes.decode, "response_serializer": str.encode}
        if details.method.endswith("/Watch"):
            return grpc.unary_stream_rpc_method_handler(lambda text, _: iter([text, text]), **as_text)
        return grpc.unary_unary_rpc_method_handler(lambda text, _: text.upper(), **as_text)


@pytest.fixture
def port() -> Iterator[int]:
    server = grpc.server(
        ThreadPoolExecutor(2), handlers=[Service()], interceptors=[snippets("gRPC")["OnlySigned"](SECRET)]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None)


async def test_the_interceptor_of_the_page_lets_signed_calls_through_and_no_others(
    rpc_agent: RpcAgent, engine: ScriptedEngine, port: int
) -> None:
    engine.tool.url = f"grpc://127.0.0.1:{port}"
    engine.tool.secrets.append(SECRET)
    assert (await rpc_agent.call(b"hello")).messages == [b"HELLO"]
    async with agent_at(port) as direct:
        assert (await direct.call(b"hello")).code is Code.UNAUTHENTICATED
        forged = await direct.call(b"hello", metadata=(("x-onceonly-signature", "0" * 64),))
    assert forged.code is Code.UNAUTHENTICATED


async def test_the_interceptor_of_the_page_knows_either_secret_of_a_rotation_and_streams(
    rpc_agent: RpcAgent, engine: ScriptedEngine, port: int
) -> None:
    engine.tool.url, engine.tool.name = f"grpc://127.0.0.1:{port}", "pay.v1.Payments.Watch"
    engine.tool.secrets.extend(["a newer secret", SECRET])
    assert (await rpc_agent.call(b"hello", "/pay.v1.Payments/Watch")).messages == [b"hello", b"hello"]


async def test_the_other_families_cover_the_message_and_the_method(
    rpc_agent: RpcAgent, engine: ScriptedEngine, rpc_tool: RpcTool
) -> None:
    engine.tool.secrets.append(SECRET)
    await rpc_agent.call(b"\x08\x05")
    [received] = rpc_tool.received
    names = {"idempotency-key": "Idempotency-Key"}
    headers = {names.get(name, name): value for name, value in received.metadata if isinstance(value, str)}
    webhooks(SECRET, headers, received.message)
    rfc9421_verifies(SECRET, rpc_tool.url + PAY, headers, received.message)
