"""gRPC tools from outside: an agent's channel, sidecars with engine and Redis, and a grpcio service as the tool."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc import StatusCode as Code

from tests.acceptance.scene import Scene
from tests.interlock_dev import InterlockDev
from tests.rpc_agent import RpcAgent, Told, agent_at
from tests.rpc_tool import Context, Received, RpcTool, never, says

TIMEOUT_MS = 1000


class RpcScene:
    """An agent with a service of its own name at the shared sidecars."""

    def __init__(self, scene: Scene, tool: RpcTool) -> None:
        self.scene = scene
        self.tool = tool
        self.service = f"pay{secrets.token_hex(4)}.v1.Payments"

    def method(self, name: str = "Charge") -> str:
        return f"/{self.service}/{name}"

    async def register(self, name: str = "Charge", **fields: Any) -> str:
        return await self.scene.register(self.tool.url, name=f"{self.service}.{name}", **fields)

    def agent(self, at: InterlockDev | None = None) -> Any:
        sidecar = at or self.scene.first
        return agent_at(
            sidecar.grpc_port, ("authorization", f"Bearer {sidecar.key}"), ("interlock-agent", self.scene.agent)
        )

    async def call(
        self, message: bytes = b"\x08\x05", name: str = "Charge", *, at: InterlockDev | None = None, **how: Any
    ) -> Told:
        agent: RpcAgent
        async with self.agent(at) as agent:
            return await agent.call(message, self.method(name), **how)


@pytest.fixture
async def rpc(scene: Scene) -> AsyncIterator[RpcScene]:
    tool = RpcTool()
    await tool.start()
    yield RpcScene(scene, tool)
    await tool.stop()


async def test_a_call_happens_once_however_often_and_wherever_it_is_retried(rpc: RpcScene) -> None:
    rpc.tool.does(says(b"receipt 1", trailing=(("x-receipt-bin", b"\0\1"),)), says(b"receipt 2"))
    await rpc.register()
    first = await rpc.call()
    again = await rpc.call(at=rpc.scene.second)
    other = await rpc.call(b"\x08\x06")
    assert [answer.messages for answer in (first, again, other)] == [[b"receipt 1"], [b"receipt 1"], [b"receipt 2"]]
    assert [answer.decision for answer in (first, again, other)] == ["executed", "dedup", "executed"]
    assert again.trailer("x-receipt-bin") == b"\0\1"
    assert again.trailer("idempotent-replayed") == "true"
    assert len(rpc.tool.received) == 2


async def test_100_identical_calls_at_once_are_one_call_and_100_answers(rpc: RpcScene) -> None:
    await rpc.register(timeout_ms=20_000)
    agent: RpcAgent
    async with rpc.agent() as agent:
        waits = (("prefer", "wait=60"),)
        answers = await asyncio.gather(
            *(agent.call(b"1", rpc.method(), metadata=waits, within_s=60) for _ in range(100))
        )
    assert {(answer.code, *answer.messages) for answer in answers} == {(Code.OK, b"calls: 1")}
    assert sorted(str(answer.decision) for answer in answers) == ["dedup"] * 99 + ["executed"]
    assert len(rpc.tool.received) == 1


async def test_of_300_calls_at_once_exactly_as_many_pass_as_the_limit_says(rpc: RpcScene) -> None:
    await rpc.register()
    await rpc.scene.policy(max_actions_per_hour=50)
    agent: RpcAgent
    async with rpc.agent() as agent:
        answers = await asyncio.gather(
            *(agent.call(number.to_bytes(2, "big"), rpc.method(), within_s=60) for number in range(300))
        )
    passed = [answer for answer in answers if answer.code is Code.OK]
    refused = [answer for answer in answers if answer.reason == "max_actions_per_hour_exceeded"]
    assert (len(passed), len(refused), len(rpc.tool.received)) == (50, 250, 50)
    assert {answer.code for answer in refused} == {Code.RESOURCE_EXHAUSTED}
    assert all(answer.retry_s for answer in refused)


async def test_lists_and_prices_know_methods_by_their_names(rpc: RpcScene) -> None:
    await rpc.register("Charge")
    await rpc.register("Refund")
    await rpc.scene.policy(
        allowed_tools=[f"{rpc.service}.*"],
        blocked_tools=[f"{rpc.service}.Ref*"],
        pricing_rules=[{"tool": f"{rpc.service}.*", "price_usd": 0.25}],
    )
    assert (await rpc.call()).code is Code.OK
    refused = await rpc.call(name="Refund")
    assert (refused.code, refused.reason) == (Code.PERMISSION_DENIED, "tool_explicitly_blocked")
    assert refused.info.metadata["matched_rule"] == f"blocked_tools: {rpc.service}.Ref*"
    assert await rpc.scene.charged() == (1, 0.25)


async def test_a_whole_service_is_one_tool_and_no_way_around_a_method_of_its_own(rpc: RpcScene) -> None:
    await rpc.scene.register(rpc.tool.url, name=rpc.service, subpaths=True)
    assert (await rpc.call()).code is Code.OK
    assert (await rpc.call(name="Refund")).code is Code.OK
    assert [received.method for received in rpc.tool.received] == [rpc.method("Charge"), rpc.method("Refund")]
    await rpc.register("Refund", enabled=False)
    refused = await rpc.call(b"2", name="Refund")
    assert (refused.code, refused.reason) == (Code.PERMISSION_DENIED, "tool_disabled")
    assert (await rpc.call(b"2")).code is Code.OK
    assert len(rpc.tool.received) == 3


async def test_a_grpc_tool_is_not_called_by_http_and_nothing_is_charged(rpc: RpcScene) -> None:
    name = await rpc.register()
    forwarded = await rpc.scene.call(name, {"a": 1})
    assert (forwarded.status, forwarded.json["reason"]) == (400, "tool_is_grpc")
    assert (await rpc.scene.run(name)).status == 422
    assert (await rpc.scene.figures())[:1] == (0,)
    assert rpc.tool.received == []


async def test_the_trail_tells_of_a_grpc_call_as_of_any_other(rpc: RpcScene) -> None:
    rpc.tool.does(says(code=Code.NOT_FOUND, details="no such card"))
    await rpc.register()
    await rpc.call()
    [settlement] = await rpc.scene.events("settlement")
    [decision] = await rpc.scene.events("decision")
    assert decision["tool"] == f"{rpc.service}.Charge"
    assert settlement["facts"]["status"] == 404, "the HTTP equivalent of NOT_FOUND"


@pytest.mark.parametrize("on_ambiguous", ["retry", "hold"])
async def test_a_call_of_a_killed_sidecar_is_repeated_under_its_key_or_held(
    rpc: RpcScene, tmp_path: Path, on_ambiguous: str
) -> None:
    rpc.tool.does(never, says(b"second"))
    await rpc.register(timeout_ms=TIMEOUT_MS, on_ambiguous=on_ambiguous)
    doomed = InterlockDev(tmp_path / "doomed", rpc.scene.first.redis_url, {})
    await doomed.start()
    calling = asyncio.create_task(rpc.call(at=doomed))
    await rpc.tool.until_received(1)
    await doomed.kill()
    assert (await calling).code is Code.UNAVAILABLE

    again = await rpc.call(metadata=(("prefer", "wait=20"),))
    if on_ambiguous == "hold":
        assert (again.code, again.reason) == (Code.FAILED_PRECONDITION, "outcome_unknown")
        assert len(rpc.tool.received) == 1
    else:
        assert (again.code, again.messages) == (Code.OK, [b"second"])
        first, second = rpc.tool.received
        assert first.value("idempotency-key") == second.value("idempotency-key")
        assert int(str(second.value("interlock-fence"))) > int(str(first.value("interlock-fence")))


async def test_a_pulled_switch_ends_a_stream_and_holds_for_the_next_call(rpc: RpcScene) -> None:
    cut = asyncio.Event()

    async def endless(_: Received, context: Context) -> None:
        try:
            while True:
                await context.write(b"tick")
                await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            cut.set()
            raise

    name = await rpc.register()
    rpc.tool.does(endless)
    calling = asyncio.create_task(rpc.call(within_s=60))
    await rpc.tool.until_received(1)
    await rpc.scene.ask("POST", f"/v1/tools/{name}/toggle", {"enabled": False})
    answer = await calling
    assert (answer.code, answer.reason) == (Code.PERMISSION_DENIED, "tool_disabled")
    assert set(answer.messages) == {b"tick"}
    await asyncio.wait_for(cut.wait(), 20)
    assert (await rpc.call(b"2")).reason == "tool_disabled"


def message_of(*fields: str) -> Any:
    """A message class whose fields, all strings, are numbered from 1."""
    name = f"m{secrets.token_hex(4)}"
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package=name, syntax="proto3")
    message = file.message_type.add(name="Order")
    for number, field in enumerate(fields, 1):
        message.field.add(name=field, number=number, type=9, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{name}.Order"))


async def test_fields_of_a_newer_schema_survive_the_way_there_and_back(rpc: RpcScene) -> None:
    old, new = message_of("card"), message_of("card", "note")

    async def echoes(received: Received, context: Context) -> None:
        await context.write(old.FromString(received.message).SerializeToString())

    rpc.tool.does(echoes)
    await rpc.register()
    sent = new(card="4242", note="für später").SerializeToString()
    for answer in (await rpc.call(sent), await rpc.call(sent)):
        assert answer.messages == [sent]
        assert new.FromString(answer.messages[0]).note == "für später"
