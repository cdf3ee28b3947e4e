"""What fails in tests of failure: roles as processes of their own, and a line between two of them that breaks."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import httpx

from tests.acceptance.scene import Scene, Sidecars
from tests.interlock_dev import MASTER_KEY, READY_WITHIN_S, InterlockDev, launch, until

SIDECAR_TOKEN = "the-sidecars-token"
PRICE_USD = 0.25


class _Alone(InterlockDev):
    """One role as a process of its own; `data_dir` names its log."""

    role = ""

    async def start(self, *, ready: bool = True) -> None:
        """Returns when it is ready, or, if that cannot be, once it lives."""
        self.process = await launch(self.role, log=self.log, settings={**self._own(), **self.settings})
        await until(self._ready_or_ended if ready else self._alive, READY_WITHIN_S)
        assert self.process.returncode is None, self.log.read_text()

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def _alive(self) -> bool:
        async with httpx.AsyncClient(verify=False) as client:
            try:
                return (await client.get(f"{self.admin_url}/healthz")).is_success
            except httpx.TransportError:
                return False

    def _own(self) -> dict[str, str]:
        raise NotImplementedError


class Engine(_Alone):
    """`interlock engine`, on the Redis at `redis_url`."""

    role = "engine"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _own(self) -> dict[str, str]:
        return {
            "INTERLOCK_REDIS_URL": self.redis_url or "",
            "INTERLOCK_BOOTSTRAP_KEY": self.key,
            "INTERLOCK_ENGINE__LISTEN": self.address,
            "INTERLOCK_ENGINE__ADMIN_PORT": str(self.admin_port),
            "INTERLOCK_ENGINE__SIDECAR_TOKEN": SIDECAR_TOKEN,
            "INTERLOCK_ENGINE__MASTER_KEY": MASTER_KEY,
            "INTERLOCK_ENGINE__DEFAULT_POLICY": "allow",
            "INTERLOCK_ENGINE__ALLOW_LOOPBACK_TOOLS": "true",
        }


class Sidecar(_Alone):
    """`interlock sidecar`; its settings name the engine."""

    role = "sidecar"

    def _own(self) -> dict[str, str]:
        return {
            "INTERLOCK_SIDECAR__PORT": str(self.port),
            "INTERLOCK_SIDECAR__ADMIN_PORT": str(self.admin_port),
            "INTERLOCK_SIDECAR__GRPC_PORT": "0",
            "INTERLOCK_SIDECAR__SPOOL_DIR": str(self.data_dir / "spool"),
            "INTERLOCK_SIDECAR__ALLOW_LOOPBACK_TOOLS": "true",
            "INTERLOCK_SIDECAR__ENGINE__SIDECAR_TOKEN": SIDECAR_TOKEN,
        }


class _Reply:
    """A reply that something shall happen to."""

    def __init__(self, holding: bytes, until_asked: bytes = b"") -> None:
        self.holding = holding
        self.until_asked = until_asked
        self.came = asyncio.Event()
        self.asked_again = asyncio.Event()


class Line:
    """A TCP line to one address, that a test breaks where it wants. Bytes pass as they are."""

    def __init__(self, to: str) -> None:
        """`to` is host:port, or the path of a unix socket."""
        self._to = to
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._lost: _Reply | None = None
        self._late: _Reply | None = None
        self._is_cut = False

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self.cut()

    @property
    def address(self) -> str:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    def loses_reply(self, holding: bytes) -> asyncio.Event:
        """The next reply with these bytes in it never arrives: its connection breaks. Returns what tells that."""
        self._lost = _Reply(holding)
        return self._lost.came

    def keeps_reply(self, holding: bytes, until_asked: bytes) -> asyncio.Event:
        """The next reply with these bytes is passed on only once a further request holds `until_asked`."""
        self._late = _Reply(holding, until_asked)
        return self._late.came

    async def cut(self) -> None:
        """Nothing passes any more, and nobody gets through anew."""
        self._is_cut = True
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections)

    def mend(self) -> None:
        self._is_cut = False

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        # Who is behind the line may be gone, and the line may be cut.
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.CancelledError):
            if self._is_cut:
                return
            far_reader, far_writer = await self._dial()
            with contextlib.closing(far_writer):
                await _until_first_ends(self._requests(reader, far_writer), self._replies(far_reader, writer))

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._to.startswith("/"):
            return await asyncio.open_unix_connection(self._to)
        host, _, port = self._to.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.read(1 << 16):
            writer.write(request)
            await writer.drain()
            if self._late is not None and self._late.came.is_set() and self._late.until_asked in request:
                self._late.asked_again.set()

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while reply := await reader.read(1 << 16):
            if self._lost is not None and self._lost.holding in reply:
                self._lost.came.set()
                self._lost = None
                return
            if self._late is not None and self._late.holding in reply:
                self._late.came.set()
                await self._late.asked_again.wait()
                self._late = None
            writer.write(reply)
            await writer.drain()


async def _until_first_ends(*ways: Awaitable[None]) -> None:
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Apart:
    """An engine on its own, and two sidecars that ask it: `far` over a line, `near` not."""

    def __init__(self, folder: Path, redis_url: str, line: Line, engine: Engine) -> None:
        self.engine = engine
        self.line = line
        self.far, self.near = (
            Sidecar(folder / name, None, {"INTERLOCK_SIDECAR__ENGINE__TARGET": f"grpc://{target}"})
            for name, target in (("far", line.address), ("near", engine.address))
        )

    async def start(self) -> None:
        """Starts what does not run."""
        self.line.mend()
        stopped = [role for role in (self.engine, self.far, self.near) if not role.runs]
        await asyncio.gather(*(role.start() for role in stopped))

    async def kill(self) -> None:
        await asyncio.gather(*(role.kill() for role in (self.engine, self.far, self.near) if role.runs))


@asynccontextmanager
async def apart(folder: Path, redis_url: str) -> AsyncIterator[Apart]:
    """All of them, running."""
    engine = Engine(folder / "engine", redis_url, {})
    async with Line(engine.address) as line:
        roles = Apart(folder, redis_url, line, engine)
        try:
            await roles.start()
            yield roles
        finally:
            await roles.kill()


@asynccontextmanager
async def scene_at(first: InterlockDev, second: InterlockDev | None = None) -> AsyncIterator[Scene]:
    """A new agent at sidecars of the test's own; each of its calls costs `PRICE_USD`, and the first tells of them."""
    headers = {"Authorization": f"Bearer {first.key}"}
    async with httpx.AsyncClient(headers=headers, timeout=60, verify=False) as operator:
        scene = Scene(Sidecars(first, second or first), operator)
        await scene.policy(pricing_rules=[{"tool": "*", "price_usd": PRICE_USD}])
        yield scene


async def is_back(scene: Scene) -> bool:
    """Whether the sidecar reaches its Redis. What /readyz says may be a second old, and from before the outage."""
    return (await scene.operator.get(f"{scene.first.url}/v1/tools")).status_code == 200


async def timed(asked: Awaitable[Any], sidecar: InterlockDev) -> tuple[float, float, Any]:
    """How long an answer took, s; the same less what is the machine's noise; and the answer.

    Noise is the time in which this process or the sidecar was ready to run and stood in line for a processor, as the
    kernel counts it (proc(5), `schedstat`; 0 where there is none).
    """
    assert sidecar.process is not None
    processes = os.getpid(), sidecar.process.pid
    stood, began = sum(map(_stood_in_line_s, processes)), time.monotonic()
    answer = await asked
    took = time.monotonic() - began
    return took, took - (sum(map(_stood_in_line_s, processes)) - stood), answer


def _stood_in_line_s(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0
