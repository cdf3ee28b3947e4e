"""What tests stand on: a clean environment, a real Redis, real `interlock dev` processes and a real tool."""

import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.interlock_dev import InterlockDev
from tests.redis_nodes import Cluster, cluster
from tests.redis_server import CARRIED, PROGRAMS, RedisServer
from tests.tool import Tool

StartDev = Callable[..., Awaitable[InterlockDev]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The conformance suite runs on every server there is and on a cluster, all else on the oldest that must do."""
    if "redis_server" in metafunc.fixturenames:
        conforms = "conformance" in metafunc.definition.path.parts
        servers = PROGRAMS if conforms else [CARRIED]
        ids = [f"{server.program.name}-{'.'.join(map(str, server.version))}" for server in servers]
        also, name = ([None], ["cluster"]) if conforms else ([], [])
        metafunc.parametrize("redis_server", [*servers, *also], ids=[*ids, *name], indirect=True, scope="session")


@pytest.fixture(autouse=True)
def scrubbed_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the developer has set must not decide a test."""
    for name in list(os.environ):
        if name.startswith("INTERLOCK_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(scope="session")
def redis_server(request: pytest.FixtureRequest) -> Iterator[RedisServer | Cluster]:
    """One server for the session, or a cluster. Its folder has a short name: the path of a socket may not be long."""
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        if request.param is None:
            with cluster(Path(folder)) as nodes:
                yield nodes
            return
        server = RedisServer(Path(folder), request.param, durable=False)
        server.start()
        yield server
        server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer | Cluster) -> str:
    """A Redis that knows nothing yet."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis for one test alone, which may stop it and start it again; what it acknowledged, it keeps."""
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = RedisServer(Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture
async def interlock_dev(tmp_path: Path) -> AsyncIterator[StartDev]:
    """Starts `interlock dev` processes: `await interlock_dev(redis_url, INTERLOCK_SIDECAR__MAX_BODY_BYTES="10")`.

    Without a URL each brings its own Redis. All know the same admin key and the same master key.
    """
    started: list[InterlockDev] = []

    async def start(redis_url: str | None = None, **settings: str) -> InterlockDev:
        dev = InterlockDev(tmp_path / f"dev{len(started)}", redis_url, settings)
        started.append(dev)
        await dev.start()
        return dev

    yield start
    for dev in started:
        if dev.process is not None:
            await dev.stop()


@pytest.fixture
async def tool() -> AsyncIterator[Tool]:
    """A tool back end that a test scripts."""
    backend = Tool()
    await backend.start()
    yield backend
    await backend.stop()
