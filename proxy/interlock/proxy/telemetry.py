"""Traces by OpenTelemetry, sent by OTLP over HTTP from a thread of their own: a collector that is slow, down or hanging
costs spans, and never a call. To be imported only where traces are on: it brings the SDK with it.

A call is one span by the semantic conventions for generative AI (`execute_tool {tool}`), with a span for the engine's
word, each try at the tool and the settlement below it. Arguments are in it only where the settings ask for them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from io import BytesIO

import requests
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from yarl import URL

from interlock.governance.errors import InterlockError
from interlock.governance.tool_urls import is_grpc
from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.call import Call, Draft, Forwarded, Headers
from interlock.proxy.metrics import Metrics
from interlock.proxy.settings import TracesSettings
from interlock.proxy.stages.authorize import Authorize
from interlock.proxy.stages.settle import Settle

MAX_TRACESTATE = 512
"""A longer one is left out (W3C Trace Context 3.3.1.5 asks for so much to be passed on)."""
EXPORT_TIMEOUT_S = 5.0
CLOSING_S = 2.0
CONTEXT_FIELDS = frozenset({"traceparent", "tracestate"})
STEPS: dict[type, str] = {Authorize: "authorize", Settle: "settle"}
"""The stages with a span of their own. Forward has one for each try."""

Attributes = dict[str, str | int | float | bool]

_propagator = TraceContextTextMapPropagator()


class _CountingExporter(SpanExporter):
    def __init__(self, exporter: SpanExporter, metrics: Metrics) -> None:
        self._exporter = exporter
        self._metrics = metrics

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        self._metrics.spans("exported" if result is SpanExportResult.SUCCESS else "failed", len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class _BoundedProcessor(BatchSpanProcessor):
    """Counts the spans for which there is no room; the SDK itself only logs that there are such."""

    def __init__(self, exporter: SpanExporter, metrics: Metrics) -> None:
        super().__init__(exporter)
        self._dropped = metrics.spans

    def on_end(self, span: ReadableSpan) -> None:
        queue = self._batch_processor._queue  # noqa: SLF001 - the SDK tells nobody how full it is
        if len(queue) == queue.maxlen and span.context is not None and span.context.trace_flags.sampled:
            self._dropped("dropped", 1)
        super().on_end(span)


class OtlpTraces:
    """The traces of one sidecar."""

    def __init__(self, settings: TracesSettings, metrics: Metrics) -> None:
        session = requests.Session()
        session.hooks["response"].append(_unread)
        exporter = OTLPSpanExporter(endpoint=settings.traces_url, timeout=EXPORT_TIMEOUT_S, session=session)
        self._processor = _BoundedProcessor(_CountingExporter(exporter, metrics), metrics)
        self._provider = TracerProvider(
            resource=_resource(),
            sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer("interlock.proxy", version("interlock"))
        self._argument_bytes = settings.max_argument_bytes if settings.arguments else 0

    def begin(self, call: Call) -> "OtlpCallTrace":
        span = self._tracer.start_span(
            "execute_tool",
            context=_parent(call.incoming.headers),
            kind=SpanKind.INTERNAL,
            attributes={"gen_ai.operation.name": "execute_tool"},
        )
        return OtlpCallTrace(self, span)

    def below(self, parent: Span, name: str, kind: SpanKind, attributes: Attributes | None = None) -> Span:
        """A span below another."""
        return self._tracer.start_span(name, set_span_in_context(parent, Context()), kind, attributes)

    def shown(self, arguments: bytes) -> str:
        """What may be told of the arguments: nothing, unless the settings say so, and then so much."""
        return arguments[: self._argument_bytes].decode(errors="replace")

    async def close(self) -> None:
        """Sends what is left. A collector that hangs holds up the end for a moment only: its thread is a daemon."""
        sending = asyncio.get_running_loop().run_in_executor(None, self._shut_down)
        await asyncio.wait([sending], timeout=2 * CLOSING_S)

    def _shut_down(self) -> None:
        self._processor._batch_processor.shutdown(int(CLOSING_S * 1000))  # noqa: SLF001 - the public one waits 30 s


class OtlpCallTrace:
    """One call's span, and what is below it."""

    def __init__(self, traces: OtlpTraces, span: Span) -> None:
        self._traces = traces
        self._span = span

    @property
    def trace_id(self) -> str:
        context = self._span.get_span_context()
        return f"{context.trace_id:032x}" if context.is_valid else ""

    async def through(self, stage: Callable[[Call], Awaitable[Call]], call: Call) -> Call:
        step = STEPS.get(type(stage))
        if step is None or not self._span.is_recording():
            return await stage(call)
        span = self._traces.below(self._span, step, SpanKind.INTERNAL)
        try:
            call = await stage(call)
        except InterlockError as error:
            _failed(span, error.reason)
            raise
        else:
            if step == "authorize":
                span.set_attribute("interlock.verdict", _verdict(call))
            else:
                span.set_attribute("interlock.settled", call.settled)
        finally:
            span.end()
        return call

    @contextmanager
    def sending(self, call: Call, tries: int) -> Iterator["OtlpSentTrace"]:
        by_grpc = is_grpc(call.tool.url)
        name = call.ask.path.removeprefix("/") if by_grpc else call.draft.method
        span = self._traces.below(self._span, name, SpanKind.CLIENT, _request_attributes(call, tries, by_grpc=by_grpc))
        try:
            yield OtlpSentTrace(span, by_grpc=by_grpc)
        finally:
            span.end()

    def ended(self, call: Call, reason: str, *, failed: bool) -> None:
        span = self._span
        if not call.ask.tool:
            return  # nothing that could be read as a call came in; a span that is not ended is not sent
        if span.is_recording():
            if call.tool.name:
                span.update_name(f"execute_tool {call.tool.name}")
            if arguments := self._traces.shown(call.ask.arguments):
                span.set_attribute("gen_ai.tool.call.arguments", arguments)
            span.set_attributes(_call_attributes(call, reason, failed=failed))
            if why := reason if failed else _why_failed(call):
                _failed(span, why)
        span.end()


class OtlpSentTrace:
    """One try's span."""

    def __init__(self, span: Span, *, by_grpc: bool) -> None:
        self._span = span
        self._by_grpc = by_grpc

    def on(self, draft: Draft) -> Draft:
        carried: dict[str, str] = {}
        _propagator.inject(carried, set_span_in_context(self._span, Context()))
        if not carried:  # OTEL_SDK_DISABLED
            return draft
        kept = tuple(field for field in draft.headers if field[0].lower() not in CONTEXT_FIELDS)
        return replace(draft, headers=(*kept, *carried.items()))

    def ended(self, tried: Forwarded) -> None:
        span = self._span
        span.set_attribute("interlock.outcome", _outcome(tried))
        if tried.status and not self._by_grpc:
            span.set_attribute("http.response.status_code", tried.status)
        if why := tried.failure or (str(tried.status) if tried.status >= 400 else ""):
            _failed(span, why)


def _unread(response: requests.Response, **_: object) -> None:
    """Leaves what a collector answers unread, which may have no end: its status and fields say all there is to know."""
    if response.headers.get("Content-Length") != "0":
        response.raw.close()
        response.raw = BytesIO()


def _resource() -> Resource:
    """The process, as OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES describe it; else by our name."""
    own = Resource.create({"service.name": "interlock-sidecar", "service.version": version("interlock")})
    told = OTELResourceDetector().detect()
    return own.merge(told)


def _parent(headers: Headers) -> Context:
    """The agent's span, if it names one validly: what is malformed starts a trace of its own (W3C 3.2.2.3)."""
    parents = [value for name, value in headers if name.lower() == "traceparent"]
    if len(parents) != 1:
        return Context()
    state = ",".join(value for name, value in headers if name.lower() == "tracestate")
    carried = {"traceparent": parents[0].strip()}
    if len(state) <= MAX_TRACESTATE:
        carried["tracestate"] = state
    return _propagator.extract(carried, Context())


def _request_attributes(call: Call, tries: int, *, by_grpc: bool) -> Attributes:
    """The conventions of clients, of HTTP without the URL: its query holds arguments."""
    url = URL(call.draft.url, encoded=True)
    place: Attributes = {"server.address": url.host or "", "server.port": url.port or 0}
    if by_grpc:
        service, _, method = call.ask.path.removeprefix("/").partition("/")
        return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method, **place}
    again = {"http.request.resend_count": tries - 1} if tries > 1 else {}
    return {"http.request.method": call.draft.method, "url.scheme": url.scheme, **place, **again}


def _call_attributes(call: Call, reason: str, *, failed: bool) -> Attributes:
    verdict, forwarded = call.verdict, call.forwarded
    charged = _charged(call)
    found: Attributes = {
        "gen_ai.tool.name": call.ask.tool,
        "gen_ai.tool.type": "extension",
        "gen_ai.tool.call.id": verdict.call_id,
        "gen_ai.agent.id": verdict.agent_id or call.ask.agent_id,
        "interlock.namespace": verdict.namespace,
        "interlock.decision": call.decision.value,
        "interlock.verdict": "" if failed else _verdict(call),
        "interlock.reason": reason,
        "interlock.matched_rule": verdict.matched_rule,
        "interlock.risk_level": verdict.risk_level,
        "interlock.outcome": _outcome(forwarded) if forwarded.outcome else "",
        "interlock.run.id": call.ask.run_id,
        "interlock.request.id": call.incoming.request_id,
        "interlock.replay": verdict.verdict == pb.VERDICT_REPLAY,
        "interlock.degraded": call.degraded,
        "interlock.cost.micro_usd": charged,
        "interlock.cost.usd": charged / 1_000_000,
    }
    status = forwarded.status or verdict.answer.status
    if status and not is_grpc(call.tool.url):
        found["http.response.status_code"] = status
    return {name: value for name, value in found.items() if value != ""}


def _charged(call: Call) -> int:
    """What this call costs: what its settlement gives back, it does not."""
    returned = call.forwarded.outcome in (pb.OUTCOME_REJECTED, pb.OUTCOME_NOT_SENT)
    return 0 if returned else call.verdict.charged_micros


def _why_failed(call: Call) -> str:
    """Why this call did not get an answer of its tool that says it went well, or empty."""
    if call.executed:
        forwarded = call.forwarded
        return forwarded.failure or (str(forwarded.status) if forwarded.status >= 400 else "")
    if call.verdict.verdict == pb.VERDICT_REPLAY:
        answer = call.verdict.answer
        return call.verdict.failure or (str(answer.status) if answer.status >= 400 else "")
    return call.verdict.reason


def _failed(span: Span, why: str) -> None:
    span.set_attribute("error.type", why)
    span.set_status(StatusCode.ERROR)


def _verdict(call: Call) -> str:
    return pb.Verdict.Name(call.verdict.verdict).removeprefix("VERDICT_").lower()


def _outcome(forwarded: Forwarded) -> str:
    return pb.Outcome.Name(forwarded.outcome).removeprefix("OUTCOME_").lower()
