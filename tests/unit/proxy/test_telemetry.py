"""Traces, as a real collector gets them."""

import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from interlock.governance.errors import DeniedError
from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.settings import TracesSettings
from tests.otlp_receiver import ERROR, OtlpReceiver, attributes
from tests.tool import Tool, answers, resets
from tests.unit.proxy.agents import client
from tests.unit.proxy.scripted_engine import DOWN, ScriptedEngine, blocked, embedded_sidecar, executed

Traced = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = (f"00-{TRACE}-{PARENT}-{flags}" for flags in ("01", "00"))


@pytest.fixture
async def receiver(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OtlpReceiver]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    async with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture
def traced(engine: ScriptedEngine, spool_dir: Path, receiver: OtlpReceiver) -> Traced:
    """An agent of a sidecar whose traces go to the receiver."""

    @asynccontextmanager
    async def agent(**settings: Any) -> AsyncIterator[httpx.AsyncClient]:
        told = {"otlp_endpoint": receiver.url, **settings}
        async with embedded_sidecar(engine, spool_dir, traces=told) as sidecar, client(sidecar) as speaking:
            yield speaking

    return agent


def traceparent(span: Span) -> str:
    """That of what is below this span, less its flags: the SDK says of its own trace ids that they are random."""
    return f"00-{span.trace_id.hex()}-{span.span_id.hex()}"


def parents(tool: Tool) -> list[str]:
    """What the tool was told of whom its spans are below, sampled as they are."""
    told = [received.header("traceparent") or "" for received in tool.received]
    assert all(int(parent[-2:], 16) & 1 for parent in told)
    return [parent[:-3] for parent in told]


async def test_a_call_is_a_span_with_its_steps_below_it(
    traced: Traced, engine: ScriptedEngine, tool: Tool, receiver: OtlpReceiver
) -> None:
    verdict = executed(pb.AuthorizeRequest(tool="charge", fingerprint=b"f", attempt_id="1"))
    verdict.MergeFrom(pb.AuthorizeResponse(charged_micros=250_000, namespace="default"))
    engine.verdicts.append(verdict)
    async with traced() as agent:
        headers = {"Interlock-Run-Id": "run-1", "X-Request-Id": "req-1"}
        await agent.post("/tools/charge?card=4242", json={"card": "4242"}, headers=headers)
        (span,) = await receiver.until("execute_tool")
    assert (span.name, span.kind, span.status.code) == ("execute_tool charge", Span.SPAN_KIND_INTERNAL, 0)
    assert attributes(span) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "charge",
        "gen_ai.tool.type": "extension",
        "gen_ai.tool.call.id": verdict.call_id,
        "gen_ai.agent.id": "a",
        "interlock.namespace": "default",
        "interlock.decision": "executed",
        "interlock.verdict": "execute",
        "interlock.reason": "ok",
        "interlock.risk_level": "low",
        "interlock.outcome": "succeeded",
        "interlock.run.id": "run-1",
        "interlock.request.id": "req-1",
        "interlock.replay": False,
        "interlock.cost.micro_usd": 250_000,
        "interlock.cost.usd": 0.25,
        "http.response.status_code": 200,
    }
    below = {each.name: each for each in receiver.spans if each.parent_span_id == span.span_id}
    assert below.keys() == {"authorize", "POST", "settle"}
    assert len({each.trace_id for each in receiver.spans}) == 1
    assert span.parent_span_id == b""
    sent = below["POST"]
    assert sent.kind == Span.SPAN_KIND_CLIENT
    port = int(tool.url.rpartition(":")[2].partition("/")[0])
    assert attributes(sent) == {
        "http.request.method": "POST",
        "url.scheme": "http",
        "server.address": "127.0.0.1",
        "server.port": port,
        "http.response.status_code": 200,
        "interlock.outcome": "succeeded",
    }
    assert parents(tool) == [traceparent(sent)]
    assert attributes(below["authorize"]) == {"interlock.verdict": "execute"}
    assert attributes(below["settle"]) == {"interlock.settled": True}
    times = [(each.start_time_unix_nano, each.end_time_unix_nano) for each in (below["authorize"], sent)]
    assert span.start_time_unix_nano <= times[0][0] <= times[0][1] <= times[1][0] <= times[1][1]
    assert times[1][1] <= span.end_time_unix_nano
    assert "4242" not in str(receiver.spans)
    assert receiver.resource["service.name"] == "interlock-sidecar"


async def test_an_agents_trace_goes_on_through_the_call_to_its_tool(
    traced: Traced, tool: Tool, receiver: OtlpReceiver
) -> None:
    async with traced() as agent:
        headers = {"traceparent": SAMPLED, "tracestate": "vendor=1,other=2", "baggage": "k=v"}
        await agent.post("/tools/charge", headers=headers)
        (span,) = await receiver.until("execute_tool")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    (sent,) = receiver.named("POST")
    assert parents(tool) == [traceparent(sent)]
    assert sent.trace_id.hex() == TRACE
    assert tool.received[0].header("tracestate") == "vendor=1,other=2"
    assert tool.received[0].header("baggage") == "k=v"


@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", "nonsense"), ("tracestate", "vendor=1")],
        [("traceparent", f"ff-{TRACE}-{PARENT}-01")],
        [("traceparent", f"00-{'0' * 32}-{PARENT}-01")],
        [("traceparent", f"00-{TRACE}-{'0' * 16}-01")],
        [("traceparent", f"{SAMPLED}-more")],
        [("traceparent", SAMPLED.upper())],
        [("traceparent", SAMPLED), ("traceparent", SAMPLED)],
        [("traceparent", "0" * 20_000)],
        [("tracestate", "vendor=1")],
    ],
)
async def test_a_malformed_parent_is_none(
    traced: Traced, tool: Tool, receiver: OtlpReceiver, headers: list[tuple[str, str]]
) -> None:
    async with traced() as agent:
        assert (await agent.post("/tools/charge", headers=headers)).status_code == 200
        (span,) = await receiver.until("execute_tool")
    assert span.parent_span_id == b""
    assert span.trace_id.hex() != TRACE
    (sent,) = receiver.named("POST")
    assert parents(tool) == [traceparent(sent)]
    assert tool.received[0].header("tracestate") is None


@pytest.mark.parametrize("state", ["v=" + "x" * 600, ",".join(f"k{n}=1" for n in range(40)), "a=1,a=2", "=,=", ",,,"])
async def test_a_malformed_or_endless_state_spoils_no_parent(
    traced: Traced, tool: Tool, receiver: OtlpReceiver, state: str
) -> None:
    async with traced() as agent:
        await agent.post("/tools/charge", headers={"traceparent": SAMPLED, "tracestate": state})
        (span,) = await receiver.until("execute_tool")
    assert span.trace_id.hex() == TRACE
    assert len(tool.received[0].header("tracestate") or "") <= 512


async def test_who_decides_on_sampling_is_the_agent_and_else_the_ratio(
    traced: Traced, tool: Tool, receiver: OtlpReceiver
) -> None:
    async with traced(sample_ratio=0) as agent:
        await agent.post("/tools/charge", content=b"1")
        await agent.post("/tools/charge", content=b"2", headers={"traceparent": SAMPLED})
        await agent.post("/tools/charge", content=b"3", headers={"traceparent": UNSAMPLED})
        (span,) = await receiver.until("execute_tool")
    assert span.trace_id.hex() == TRACE
    sampled = [int((received.header("traceparent") or "")[-2:], 16) & 1 for received in tool.received]
    assert sampled == [0, 1, 0]
    assert len(receiver.named("POST")) == 1


async def test_each_try_is_a_span_and_the_tool_gets_that_one_as_its_parent(
    traced: Traced, engine: ScriptedEngine, tool: Tool, receiver: OtlpReceiver
) -> None:
    engine.tool.max_retries = 2
    tool.does(resets(), answers(500), answers(200))
    async with traced() as agent:
        assert (await agent.post("/tools/charge")).status_code == 200
        (span,) = await receiver.until("execute_tool")
    tries = receiver.named("POST")
    assert [attributes(sent).get("error.type") for sent in tries] == ["upstream_reset", "500", None]
    assert [sent.status.code for sent in tries] == [ERROR, ERROR, 0]
    assert [attributes(sent).get("http.request.resend_count") for sent in tries] == [None, 1, 2]
    assert parents(tool) == [*map(traceparent, tries)]
    assert span.status.code == 0


@pytest.mark.parametrize(
    ("status", "outcome", "cost"), [(404, "rejected", 0), (500, "ambiguous", 1_000_000), (408, "ambiguous", 1_000_000)]
)
async def test_an_error_of_the_tool_is_one_of_the_call(
    traced: Traced, engine: ScriptedEngine, tool: Tool, receiver: OtlpReceiver, status: int, outcome: str, cost: int
) -> None:
    verdict = executed(pb.AuthorizeRequest(tool="charge", fingerprint=b"f", attempt_id="1"))
    verdict.charged_micros = 1_000_000
    engine.verdicts.append(verdict)
    tool.does(answers(status))
    async with traced() as agent:
        await agent.post("/tools/charge")
        (span,) = await receiver.until("execute_tool")
    told = attributes(span)
    assert span.status.code == ERROR
    assert (told["error.type"], told["interlock.outcome"]) == (str(status), outcome)
    assert told["interlock.cost.micro_usd"] == cost


async def test_a_refused_call_is_a_span_without_a_try(
    traced: Traced, engine: ScriptedEngine, tool: Tool, receiver: OtlpReceiver
) -> None:
    engine.verdicts.append(blocked("tool_explicitly_blocked", matched_rule="blocked_tools: c*", call_id="call_x"))
    async with traced() as agent:
        await agent.post("/tools/charge")
        (span,) = await receiver.until("execute_tool")
    told = attributes(span)
    assert (span.name, span.status.code) == ("execute_tool charge", ERROR)
    assert (told["interlock.decision"], told["error.type"]) == ("blocked", "tool_explicitly_blocked")
    assert told["interlock.matched_rule"] == "blocked_tools: c*"
    assert not receiver.named("POST")


async def test_a_replay_is_told_as_one_and_costs_nothing(
    traced: Traced, engine: ScriptedEngine, tool: Tool, receiver: OtlpReceiver
) -> None:
    answer = pb.Answer(status=200, body=b"{}", kept=True, size=2)
    engine.verdicts.append(pb.AuthorizeResponse(verdict=pb.VERDICT_REPLAY, reason="tool_idempotency", answer=answer))
    async with traced() as agent:
        await agent.post("/tools/charge")
        (span,) = await receiver.until("execute_tool")
    told = attributes(span)
    assert (told["interlock.replay"], told["interlock.decision"], told["interlock.cost.usd"]) == (True, "dedup", 0)
    assert (told["http.response.status_code"], span.status.code) == (200, 0)
    assert not receiver.named("POST")


@pytest.mark.parametrize(("error", "reason"), [(DOWN, "governance_unavailable"), (DeniedError("no", "no"), "no")])
async def test_an_error_before_the_tool_ends_the_span_with_its_reason(
    traced: Traced, engine: ScriptedEngine, receiver: OtlpReceiver, error: Any, reason: str
) -> None:
    async with traced() as agent:
        await agent.post("/tools/charge")
        engine.error = error
        await agent.post("/tools/charge", content=b"2")
        spans = await receiver.until("execute_tool", 2)
    assert attributes(spans[1])["error.type"] == reason
    assert attributes(receiver.named("authorize")[1])["error.type"] == reason


async def test_what_is_no_tool_names_no_span_and_what_is_no_call_is_none(
    traced: Traced, receiver: OtlpReceiver
) -> None:
    async with traced() as agent:
        assert (await agent.post("/tools/charge", headers={"Idempotency-Key": '"'})).status_code == 400
        assert (await agent.post("/tools/guessed")).status_code == 404
        (span,) = await receiver.until("execute_tool")
    assert (span.name, attributes(span)["gen_ai.tool.name"]) == ("execute_tool", "guessed")
    assert attributes(span)["error.type"] == "tool_not_found"


async def test_a_run_is_traced_like_a_call(traced: Traced, tool: Tool, receiver: OtlpReceiver) -> None:
    run = {"agent_id": "a", "tool": "charge", "args": {"card": "4242", "run_id": "run-7"}}
    async with traced() as agent:
        await agent.post("/v1/ai/run", json=run, headers={"traceparent": SAMPLED})
        (span,) = await receiver.until("execute_tool")
    assert (span.name, span.trace_id.hex()) == ("execute_tool charge", TRACE)
    assert attributes(span)["interlock.run.id"] == "run-7"
    (sent,) = receiver.named("POST")
    assert parents(tool) == [traceparent(sent)]
    assert "4242" not in str(receiver.spans)


async def test_arguments_are_told_where_one_asks_for_them_and_so_much_of_them(
    traced: Traced, receiver: OtlpReceiver
) -> None:
    async with traced(arguments=True, max_argument_bytes=16) as agent:
        await agent.post("/tools/charge", content=b'{"card":"4242","more":"x"}')
        (span,) = await receiver.until("execute_tool")
    assert attributes(span)["gen_ai.tool.call.arguments"] == '{"card":"4242","'


async def test_the_process_is_named_as_the_standard_variables_say(
    traced: Traced, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "billing-agent")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=prod")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=k")
    async with traced() as agent:
        await agent.post("/tools/charge")
        await receiver.until("execute_tool")
    assert receiver.resource["service.name"] == "billing-agent"
    assert receiver.resource["deployment.environment.name"] == "prod"
    assert receiver.headers[0]["x-api-key"] == "k"


async def test_the_line_of_a_call_names_its_trace(traced: Traced, receiver: OtlpReceiver) -> None:
    with structlog.testing.capture_logs() as lines:
        async with traced() as agent:
            await agent.post("/tools/charge", headers={"traceparent": SAMPLED})
    (line,) = [line for line in lines if line["event"] == "call.finished"]
    assert line["trace_id"] == TRACE


async def test_a_disabled_sdk_leaves_calls_as_they_are(
    traced: Traced, tool: Tool, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    async with traced() as agent:
        assert (await agent.post("/tools/charge", headers={"traceparent": SAMPLED})).status_code == 200
    assert tool.received[0].header("traceparent") == SAMPLED
    assert not receiver.spans


def spans_counted(text: str, outcome: str) -> float:
    lines = [line for line in text.splitlines() if line.startswith(f'interlock_trace_spans_total{{outcome="{outcome}"')]
    return float(lines[0].rpartition(" ")[2]) if lines else 0


@pytest.mark.parametrize("how", ["hangs", "fails", "is gone"])
async def test_a_collector_that_takes_nothing_costs_spans_and_no_call(
    engine: ScriptedEngine, spool_dir: Path, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "32")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")
    receiver.status = 400 if how == "fails" else 200
    if how == "hangs":
        receiver.hangs.set()
    url = "http://127.0.0.1:1" if how == "is gone" else receiver.url
    async with (
        embedded_sidecar(engine, spool_dir, traces={"otlp_endpoint": url}) as sidecar,
        client(sidecar) as agent,
        httpx.AsyncClient(verify=False) as admin,
    ):
        slowest = 0.0
        for number in range(50):
            began = time.monotonic()
            assert (await agent.post("/tools/charge", content=str(number))).status_code == 200
            slowest = max(slowest, time.monotonic() - began)
        figures = (await admin.get(f"http://127.0.0.1:{sidecar.admin_port}/metrics")).text
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert slowest < 2
    if how == "fails":
        assert spans_counted(figures, "failed") > 0
    else:
        assert spans_counted(figures, "dropped") > 0
    assert spans_counted(figures, "exported") == 0


async def test_a_collector_whose_answer_has_no_end_is_not_heard_out(traced: Traced, receiver: OtlpReceiver) -> None:
    receiver.rambles = True
    async with traced() as agent:
        for count in (1, 2, 3):
            assert (await agent.post("/tools/charge", content=str(count))).status_code == 200
            await receiver.until("execute_tool", count)


async def test_without_traces_a_tool_gets_the_agents_fields_as_they_came(agent: httpx.AsyncClient, tool: Tool) -> None:
    await agent.post("/tools/charge", headers={"traceparent": "as it came", "tracestate": "v=1"})
    assert (tool.received[0].header("traceparent"), tool.received[0].header("tracestate")) == ("as it came", "v=1")


def loaded_with(*modules: str) -> set[str]:
    program = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_without_traces_nothing_of_opentelemetry_is_loaded() -> None:
    assert not [name for name in loaded_with("interlock.proxy.app") if name.startswith("opentelemetry")]
    # Redis' client loads the API of metrics where it finds that; the SDK's traces and the exporter nobody does.
    all_rooms = loaded_with("interlock.cli.main", "interlock.cli.dev", "interlock.policy.engine")
    assert not [name for name in all_rooms if name.startswith(("opentelemetry.sdk.trace", "opentelemetry.exporter"))]
    assert "opentelemetry.exporter.otlp.proto.http" in loaded_with("interlock.proxy.telemetry")


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://c:4318", "http://c:4318/v1/traces"),
        ("http://c:4318/", "http://c:4318/v1/traces"),
        ("https://c/otlp/v1/traces", "https://c/otlp/v1/traces"),
    ],
)
def test_an_endpoint_without_a_path_has_the_standard_one(endpoint: str, url: str) -> None:
    assert TracesSettings(otlp_endpoint=endpoint).traces_url == url


@pytest.mark.parametrize("endpoint", ["", "collector:4318", "grpc://c:4317", "http://u:p@c", "http:///x", "http://["])
def test_what_is_no_collector_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="must"):
        TracesSettings(otlp_endpoint=endpoint)
