"""The admin listener: figures for Prometheus, and whether this process lives and is ready."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

from aiohttp import web
from grpc import aio
from grpc_health.v1 import health_pb2

from interlock.proxy.metrics import Metrics

SERVICE = "interlock.governance.v1.Governance"
FRESH_S = 1.0
"""An answer of the engine's health service holds this long: probes cost it at most one RPC a second."""
CHECK_TIMEOUT_S = 1.0


Facts = Callable[[], Mapping[str, str]]


class Ready(Protocol):
    """Who knows whether this process is ready."""

    async def why_not(self) -> str:
        """Why it is not, or empty."""


class Readiness:
    """Ready means: not draining, and the engine says SERVING by grpc.health.v1 on the channel that the calls take."""

    def __init__(self, channel: aio.Channel, clock: Callable[[], float] = time.monotonic) -> None:
        # Not HealthStub: it also asks for `Watch`, a stream, which a channel within one process does not have.
        self._check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._serving = False
        self._checked_at = float("-inf")
        self.draining = False

    def drain(self) -> None:
        """Not ready from now on, and for good."""
        self.draining = True

    async def why_not(self) -> str:
        """Why this process is not ready, or empty. At most `FRESH_S` old, except draining, which holds at once."""
        if self.draining:
            return "draining"
        async with self._one_at_a_time:
            if self._clock() - self._checked_at >= FRESH_S:
                self._serving = await self._engine_serves()
                self._checked_at = self._clock()
        return "" if self._serving else "governance_unavailable"

    async def _engine_serves(self) -> bool:
        try:
            health = await self._check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=CHECK_TIMEOUT_S)
        except aio.AioRpcError:
            return False
        return bool(health.status == health_pb2.HealthCheckResponse.SERVING)


def admin_app(
    metrics: Metrics, readiness: Ready, facts: Facts = dict, pages: Iterable[web.RouteDef] = ()
) -> web.Application:
    """The admin listener: `/metrics`, `/healthz` (200 while the process lives) and `/readyz` (200 or 503).

    `facts` is what `/readyz` says beside whether it is ready; `pages` is what else there is to see.
    """
    app = web.Application()
    app.router.add_get("/metrics", partial(_show_metrics, metrics))
    app.router.add_get("/healthz", _say_alive)
    app.router.add_get("/readyz", partial(_say_ready, readiness, facts))
    app.add_routes(pages)
    return app


@asynccontextmanager
async def listening(app: web.Application, host: str, port: int) -> AsyncIterator[None]:
    """Serves an admin application while the context is open. Errors: OSError (the address is taken)."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield
    finally:
        await runner.cleanup()


async def _show_metrics(metrics: Metrics, request: web.Request) -> web.Response:
    body, content_type = metrics.exposition(request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})


async def _say_alive(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _say_ready(readiness: Ready, facts: Facts, _: web.Request) -> web.Response:
    if reason := await readiness.why_not():
        return web.json_response({"status": "not_ready", "reason": reason, **facts()}, status=503)
    return web.json_response({"status": "ready", **facts()})
