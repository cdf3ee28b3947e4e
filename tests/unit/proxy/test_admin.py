from collections.abc import AsyncIterator

import pytest
from aiohttp.test_utils import TestClient, TestServer
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from interlock.governance.local import LocalServer
from interlock.proxy.admin import FRESH_S, SERVICE, Readiness, admin_app
from interlock.proxy.metrics import Metrics

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


Engine = tuple[health.aio.HealthServicer, aio.Channel]


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    servicer, server = health.aio.HealthServicer(), aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield servicer, channel
    await server.stop(None)


async def test_ready_when_the_engine_serves(engine: Engine) -> None:
    servicer, channel = engine
    await servicer.set(SERVICE, SERVING)
    assert await Readiness(channel).why_not() == ""


async def test_an_engine_that_does_not_serve_or_does_not_know_the_service_makes_not_ready(engine: Engine) -> None:
    servicer, channel = engine
    assert await Readiness(channel).why_not() == "governance_unavailable"
    await servicer.set(SERVICE, NOT_SERVING)
    assert await Readiness(channel).why_not() == "governance_unavailable"


async def test_an_engine_out_of_reach_makes_not_ready() -> None:
    async with aio.insecure_channel("127.0.0.1:1") as channel:
        assert await Readiness(channel).why_not() == "governance_unavailable"


async def test_an_answer_holds_for_a_second_and_no_longer(engine: Engine) -> None:
    servicer, channel = engine
    clock = Clock()
    readiness = Readiness(channel, clock)
    await servicer.set(SERVICE, SERVING)
    assert await readiness.why_not() == ""
    await servicer.set(SERVICE, NOT_SERVING)
    clock.now = FRESH_S / 2
    assert await readiness.why_not() == ""
    clock.now = FRESH_S
    assert await readiness.why_not() == "governance_unavailable"


async def test_draining_holds_at_once_whatever_the_engine_says(engine: Engine) -> None:
    servicer, channel = engine
    await servicer.set(SERVICE, SERVING)
    readiness = Readiness(channel)
    assert await readiness.why_not() == ""
    readiness.drain()
    assert await readiness.why_not() == "draining"


async def test_the_listener_tells_life_readiness_and_figures() -> None:
    servicer, server = health.aio.HealthServicer(), LocalServer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    await servicer.set(SERVICE, SERVING)
    metrics, readiness = Metrics(), Readiness(server.channel())
    metrics.spool_depth(7)
    async with TestClient(TestServer(admin_app(metrics, readiness))) as client:
        assert (await client.get("/healthz")).status == 200
        assert (await client.get("/readyz")).status == 200
        figures = await client.get("/metrics")
        assert figures.content_type == "text/plain"
        assert "interlock_spool_depth 7.0" in await figures.text()
        readiness.drain()
        unready = await client.get("/readyz")
        assert unready.status == 503
        assert await unready.json() == {"status": "not_ready", "reason": "draining"}
        assert (await client.get("/healthz")).status == 200
