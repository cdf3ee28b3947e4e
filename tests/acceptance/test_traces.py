"""Traces of `interlock dev`, as a collector gets them."""

import json
from collections.abc import AsyncIterator

import pytest

from tests.acceptance.scene import Scene, Sidecars
from tests.conftest import StartDev
from tests.otlp_receiver import OtlpReceiver, attributes
from tests.tool import Tool

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SECRET = "k-0123456789abcdef"


@pytest.fixture
async def receiver() -> AsyncIterator[OtlpReceiver]:
    async with OtlpReceiver() as receiver:
        yield receiver


async def test_an_agents_trace_shows_what_was_decided_and_what_it_cost(
    interlock_dev: StartDev, redis_url: str, tool: Tool, receiver: OtlpReceiver
) -> None:
    settings = {"INTERLOCK_SIDECAR__TRACES__OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "20"}
    dev = await interlock_dev(redis_url, **settings)
    async with dev.client() as operator:
        scene = Scene(Sidecars(dev, dev), operator)
        name = await scene.register(tool.url, upstream_credential={"header": "X-Api-Key", "value": SECRET})
        await scene.policy(pricing_rules=[{"tool": "*", "price_usd": 0.25}], max_spend_usd_per_day=0.25)
        for card in ("4242", "4242", "5555"):
            headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
            await scene.call(name, {"card": card}, headers=headers)
        spans = await receiver.until(f"execute_tool {name}", 3)
    told = [attributes(span) for span in spans]
    assert [each["interlock.decision"] for each in told] == ["executed", "dedup", "blocked"]
    assert [each["interlock.cost.usd"] for each in told] == [0.25, 0.0, 0.0]
    assert told[2]["error.type"] == "max_spend_usd_per_day_exceeded"
    assert {each["gen_ai.agent.id"] for each in told} == {scene.agent}
    assert told[0]["gen_ai.tool.call.id"] == told[1]["gen_ai.tool.call.id"] != told[2]["gen_ai.tool.call.id"]
    assert {span.trace_id.hex() for span in receiver.spans} == {TRACE}
    (sent,) = receiver.named("POST")
    parent = tool.received[0].header("traceparent")
    assert parent == f"00-{TRACE}-{sent.span_id.hex()}-01"
    lines = [json.loads(line) for line in dev.log.read_text().splitlines() if "call.finished" in line]
    assert [line["trace_id"] for line in lines] == [TRACE] * 3
    assert "4242" not in str(receiver.spans)
    assert SECRET not in str(receiver.spans)
    assert await dev.stop() == 0
