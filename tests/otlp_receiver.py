"""A collector of the tests' own: takes traces by OTLP over HTTP/protobuf, as real ones do."""

import asyncio
import gzip
from typing import Any, Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.proto.trace.v1.trace_pb2 import Status as SpanStatus

ERROR = SpanStatus.STATUS_CODE_ERROR


def value_of(value: Any) -> object:
    return getattr(value, value.WhichOneof("value"))


def attributes(span: Span) -> dict[str, object]:
    return {attribute.key: value_of(attribute.value) for attribute in span.attributes}


class OtlpReceiver:
    """`status` is what it answers; while `hangs` is set it answers nothing, and while `rambles` is, without an end."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resource: dict[str, object] = {}
        self.headers: list[dict[str, str]] = []
        self.status = 200
        self.hangs = asyncio.Event()
        self.rambles = False
        self._news = asyncio.Condition()
        self._runner: web.AppRunner
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/traces", self._receive)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def until(self, name: str, count: int = 1) -> list[Span]:
        """The spans whose name begins so, oldest first, once there are so many."""
        async with asyncio.timeout(20), self._news:
            await self._news.wait_for(lambda: len(self.named(name)) >= count)
        return self.named(name)

    async def until_asked(self) -> None:
        async with asyncio.timeout(20), self._news:
            await self._news.wait_for(lambda: self.headers)

    def named(self, name: str) -> list[Span]:
        found = [span for span in self.spans if span.name.startswith(name)]
        return sorted(found, key=lambda span: span.start_time_unix_nano)

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        async with self._news:
            self.headers.append(dict(request.headers))
            self._news.notify_all()
        if self.hangs.is_set():
            await asyncio.Event().wait()
        if self.status == 200:
            await self._take(gzip.decompress(body) if request.headers.get("Content-Encoding") == "gzip" else body)
        if self.rambles:
            return await self._ramble(request)
        answer = ExportTraceServiceResponse().SerializeToString()
        return web.Response(status=self.status, body=answer, content_type="application/x-protobuf")

    async def _ramble(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)

    async def _take(self, body: bytes) -> None:
        async with self._news:
            for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resource = {each.key: value_of(each.value) for each in of_resource.resource.attributes}
                self.spans += [span for scope in of_resource.scope_spans for span in scope.spans]
            self._news.notify_all()
