"""The engine's side of the port, scripted: what the real one cannot be made to say on command."""

# ruff: noqa: N802 - methods bear the contract's names

import asyncio
import importlib
import pkgutil
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from grpc import StatusCode, aio
from grpc_health.v1 import health, health_pb2_grpc

from interlock.governance import v1
from interlock.governance.errors import InterlockError, NotFoundError, UnavailableError
from interlock.governance.local import LocalServer
from interlock.governance.status import CODES, details_of, failure_of
from interlock.governance.v1 import governance_pb2 as pb
from interlock.governance.v1 import governance_pb2_grpc
from interlock.proxy.app import Sidecar
from interlock.proxy.engine import dial
from interlock.proxy.metrics import Metrics
from interlock.proxy.settings import EngineLink, SidecarSettings

LEASE_MS = 60_000
DOWN = UnavailableError("governance_unavailable", "Redis cannot be reached")


def other_services() -> Iterator[tuple[ModuleType, str]]:
    """Every service of the contract but Governance, with the generated module that it stands in."""
    for found in pkgutil.iter_modules(v1.__path__):
        if found.name.endswith("_pb2"):
            generated = importlib.import_module(f"{v1.__name__}.{found.name}_grpc")
            services = importlib.import_module(f"{v1.__name__}.{found.name}").DESCRIPTOR.services_by_name
            yield from ((generated, name) for name in services if name != "Governance")


def route(url: str, **fields: Any) -> pb.ToolRoute:
    """A tool that is tried once, unless told otherwise."""
    told = {"name": "charge", "revision": 1, "methods": ["POST"], "timeout_ms": 5_000, "replay_max_bytes": 1_000}
    return pb.ToolRoute(url=url, **(told | fields))


def executed(request: pb.AuthorizeRequest, lease_ms: int = LEASE_MS) -> pb.AuthorizeResponse:
    permit = pb.Permit(
        namespace="default",
        agent_id="a",
        tool=request.tool,
        key=request.fingerprint.hex(),
        call_id="call_" + "1" * 22,
        fence=7,
        attempt_id=request.attempt_id,
        lease_ms=lease_ms,
    )
    return pb.AuthorizeResponse(
        verdict=pb.VERDICT_EXECUTE, reason="ok", agent_id="a", call_id=permit.call_id, permit=permit, risk_level="low"
    )


def blocked(reason: str, **fields: Any) -> pb.AuthorizeResponse:
    return pb.AuthorizeResponse(verdict=pb.VERDICT_BLOCKED, reason=reason, **fields)


def running(retry_after_ms: int = 0) -> pb.AuthorizeResponse:
    return pb.AuthorizeResponse(
        verdict=pb.VERDICT_IN_FLIGHT, reason="in_flight", call_id="call_leader", retry_after_ms=retry_after_ms
    )


class ScriptedEngine(governance_pb2_grpc.GovernanceServicer):
    """Executes everything, unless told otherwise, and keeps what it was asked."""

    def __init__(self, tool: pb.ToolRoute) -> None:
        self.tool = tool
        self.verdicts: deque[pb.AuthorizeResponse] = deque()
        self.error: InterlockError | None = None
        self.settle_error: InterlockError | None = None
        self.stream_error: InterlockError | None = None
        self.before_settling = asyncio.Event()
        self.before_settling.set()
        self.settling = asyncio.Event()
        self.on_renewal: Callable[[], object] = lambda: None
        self.renewal = pb.RenewResponse(renewed=True, lease_ms=LEASE_MS)
        self.renew_error: InterlockError | None = None
        self.lease_ms = LEASE_MS
        self.answers_lost = 0
        self.resolved = 0
        self.batches: list[int] = []
        self.authorized: list[pb.AuthorizeRequest] = []
        self.awaited: list[pb.AwaitRequest] = []
        self.settled: list[pb.SettleRequest] = []
        self._news = asyncio.Condition()
        self._replying: set[asyncio.Task[None]] = set()
        self._broken = asyncio.Event()
        self._breaks_with = StatusCode.OK

    async def until_settled(self, count: int = 1) -> pb.SettleRequest:
        async with asyncio.timeout(20), self._news:
            await self._news.wait_for(lambda: len(self.settled) >= count)
        return self.settled[-1]

    async def until_authorized(self, count: int = 1) -> None:
        async with asyncio.timeout(20), self._news:
            await self._news.wait_for(lambda: len(self.authorized) >= count)

    async def ResolveTool(self, request: pb.ResolveToolRequest, context: Any) -> pb.ResolveToolResponse:
        self.resolved += 1
        if self.error is not None:
            await abort(context, self.error)
        if request.tool != self.tool.name:
            await abort(context, NotFoundError("tool_not_found", "no such tool"))
        return pb.ResolveToolResponse(namespace="default", agent_id="a", route=self.tool)

    async def Authorize(self, request: pb.AuthorizeRequest, context: Any) -> pb.AuthorizeResponse:
        if self.error is not None:
            await abort(context, self.error)
        return await self._authorize(request)

    async def Renew(self, request: pb.RenewRequest, context: Any) -> pb.RenewResponse:
        self.on_renewal()
        if self.renew_error is not None:
            await abort(context, self.renew_error)
        return self.renewal

    async def Settle(self, request: pb.SettleRequest, context: Any) -> pb.SettleResponse:
        self.settling.set()
        await self.before_settling.wait()
        if self.settle_error is not None:
            await abort(context, self.settle_error)
        return await self._settle(request)

    async def Await(self, request: pb.AwaitRequest, context: Any) -> pb.AwaitResponse:
        self.awaited.append(request)
        return pb.AwaitResponse(settled=True)

    def break_streams(self, code: StatusCode = StatusCode.OK) -> None:
        """Ends every stream with a bare status; the questions on it get no answer any more."""
        self._breaks_with = code
        self._broken.set()
        self._broken = asyncio.Event()

    async def Exchange(self, requests: Any, context: Any) -> None:
        if self.stream_error is not None:
            await abort(context, self.stream_error)
        reading = asyncio.create_task(self._read(requests, context))
        broken = asyncio.create_task(self._broken.wait())
        ended, _ = await asyncio.wait([reading, broken], return_when=asyncio.FIRST_COMPLETED)
        for task in (reading, broken, *self._replying):
            task.cancel()
        if reading not in ended and self._breaks_with is not StatusCode.OK:
            await context.abort(self._breaks_with)

    async def _read(self, requests: Any, context: Any) -> None:
        writing = asyncio.Lock()
        async for batch in requests:
            self.batches.append(len(batch.questions))
            for question in batch.questions:
                task = asyncio.create_task(self._reply(question, context, writing))
                self._replying.add(task)
                task.add_done_callback(self._replying.discard)

    async def _reply(self, question: pb.Question, context: Any, writing: asyncio.Lock) -> None:
        if self.error is not None:
            reply = pb.Reply(id=question.id, failure=failure_of(self.error))
        elif question.WhichOneof("ask") == "authorize":
            reply = pb.Reply(id=question.id, authorize=await self._authorize(question.authorize))
        else:
            reply = pb.Reply(id=question.id, settle=await self._settle(question.settle))
        async with writing:
            await context.write(pb.ExchangeResponse(replies=[reply]))

    async def _authorize(self, request: pb.AuthorizeRequest) -> pb.AuthorizeResponse:
        async with self._news:
            self.authorized.append(request)
            self._news.notify_all()
        if self.answers_lost > 0:
            self.answers_lost -= 1
            await asyncio.Event().wait()
        return self.verdicts.popleft() if self.verdicts else executed(request, self.lease_ms)

    async def _settle(self, request: pb.SettleRequest) -> pb.SettleResponse:
        async with self._news:
            self.settled.append(request)
            self._news.notify_all()
        return pb.SettleResponse(outcome=request.outcome, applied=True)


async def abort(context: Any, error: InterlockError) -> NoReturn:
    await context.abort(CODES[error.kind], error.message, details_of(error))
    raise AssertionError("abort raises")


def register(engine: ScriptedEngine, server: Any) -> None:
    governance_pb2_grpc.add_GovernanceServicer_to_server(engine, server)
    for module, name in other_services():
        getattr(module, f"add_{name}Servicer_to_server")(getattr(module, f"{name}Servicer")(), server)
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)


@asynccontextmanager
async def embedded_sidecar(engine: ScriptedEngine, spool_dir: Path, **settings: Any) -> AsyncIterator[Sidecar]:
    """A sidecar with the scripted engine in its own process."""
    server = LocalServer()
    register(engine, server)
    link = {"target": "embedded", **settings.pop("engine", {})}
    sidecar = Sidecar(_settings(spool_dir, link, settings), server.channel(), metrics=Metrics())
    try:
        await sidecar.start()
        yield sidecar
    finally:
        await sidecar.close()


@asynccontextmanager
async def remote_sidecar(port: int, spool_dir: Path, **settings: Any) -> AsyncIterator[Sidecar]:
    """A sidecar whose engine is behind gRPC on that port."""
    link = {"target": f"grpc://127.0.0.1:{port}", **settings.pop("engine", {})}
    async with dial(EngineLink.model_validate(link)) as channel:
        sidecar = Sidecar(_settings(spool_dir, link, settings), channel, metrics=Metrics())
        try:
            await sidecar.start()
            yield sidecar
        finally:
            await sidecar.close()


@asynccontextmanager
async def serving(engine: ScriptedEngine, port: int = 0) -> AsyncIterator[int]:
    """The scripted engine behind gRPC. Gives its port; leaving breaks its streams."""
    server = aio.server()
    register(engine, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


def _settings(spool_dir: Path, link: dict[str, Any], settings: dict[str, Any]) -> SidecarSettings:
    ports = {"port": 0, "admin_port": 0, "grpc_port": 0}
    told = {**ports, "allow_loopback_tools": True, "spool_dir": spool_dir, "engine": link}
    # Its services beside Governance answer nothing, and workers would ask on.
    return SidecarSettings.model_validate({"runs": {"workers": 0}} | told | settings)
