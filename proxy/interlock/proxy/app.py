"""The sidecar: its listeners, and everything between them wired together."""

import asyncio
import os
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import structlog
from aiohttp import web
from grpc import aio

from interlock.governance.errors import DeniedError, InvalidRequestError, UnavailableError
from interlock.proxy.abandoning import Abandoning
from interlock.proxy.admin import Readiness, admin_app
from interlock.proxy.answering import CONTINUE, REQUEST_ID
from interlock.proxy.api.document import document_route
from interlock.proxy.api.errors import v1_errors
from interlock.proxy.api.port import Api
from interlock.proxy.api.reference_page import page_route
from interlock.proxy.api.routes import routes
from interlock.proxy.credential import Credentials
from interlock.proxy.destinations import Destinations
from interlock.proxy.engine import EngineClient
from interlock.proxy.large_bodies import BodyReader, LargeBodies
from interlock.proxy.last_words import LastWords
from interlock.proxy.listening import ConnectionLimits, bound, listen, most_connections
from interlock.proxy.metrics import Metrics
from interlock.proxy.oauth import Tokens
from interlock.proxy.outage import Outage
from interlock.proxy.pipeline import Pipeline, Traces, stages_of
from interlock.proxy.plain_door import PlainDoor
from interlock.proxy.rpc.listener import RpcListener
from interlock.proxy.rpc.upstream import RpcUpstream
from interlock.proxy.run_actions import Actions, Foresight
from interlock.proxy.run_board import RunBoard
from interlock.proxy.run_keyed import KeyedRuns
from interlock.proxy.run_route import PATH as RUN_PATH
from interlock.proxy.run_route import RunRoute
from interlock.proxy.run_worker import RunWorkers
from interlock.proxy.settings import SidecarSettings
from interlock.proxy.spool import Spool
from interlock.proxy.stages.identify import Tools
from interlock.proxy.stages.intercept import OwnIdentity, check_target
from interlock.proxy.tools_route import ToolsRoute, problem_errors
from interlock.proxy.unknown_tools import UnknownTools
from interlock.proxy.upstream import Upstream

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_ADMIN_CONNECTIONS = 64

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(:\d{1,5})?", re.IGNORECASE)
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Sidecar:
    """One sidecar. `start` binds its listeners, `drain` lets running calls finish, `close` ends everything."""

    def __init__(self, settings: SidecarSettings, channel: aio.Channel, *, metrics: Metrics) -> None:
        self._settings = settings
        self._channel = channel
        self._metrics = metrics
        self._readiness = Readiness(channel)
        self._front_door = FrontDoor(_hosts(settings), self._readiness)
        self._closing: list[Callable[[], Awaitable[None]]] = []
        self._pipeline: Pipeline | None = None
        self._end_streams: Callable[[], None] = lambda: None
        self.port = settings.port
        self.admin_port = settings.admin_port
        self.grpc_port = settings.grpc_port
        """None if there is no gRPC listener."""
        self._rpc_listener: RpcListener | None = None
        self._workers: RunWorkers | None = None

    async def start(self) -> None:
        """Ready for calls when it returns. Errors: OSError (an address is taken, the spool cannot be had)."""
        # Long, and without a branch but one: everything is opened in order, and noted at once to be closed.
        agents, admin = self._bind()
        engine = EngineClient(self._channel, self._settings.engine, self._metrics)
        self._closing.append(engine.close)
        own_ports = frozenset({self.port, self.admin_port, self.grpc_port or self.port})
        destinations = Destinations(allow_loopback=self._settings.allow_loopback_tools, own_ports=own_ports)
        upstream = Upstream(destinations)
        await upstream.start()
        self._closing.append(upstream.close)
        rpc_upstream = RpcUpstream(destinations)
        self._closing.append(rpc_upstream.close)
        tokens = Tokens(upstream, self._metrics, timeout_s=self._settings.token_timeout_ms / 1000)
        self._closing.append(tokens.close)
        spool = Spool(self._settings.spool_dir, engine.deliver, self._metrics)
        await spool.start()
        self._closing.append(spool.close)
        abandoning = Abandoning(engine)
        self._closing.append(abandoning.close)
        outage = Outage(spool, LastWords(self._settings.open_max_age_s), self._metrics)
        bodies = BodyReader()
        self._closing.append(bodies.close)
        ways_out = (upstream, rpc_upstream, Credentials(tokens))
        resolved = Tools(engine)
        stages = stages_of(engine, resolved, *ways_out, spool, abandoning, outage, bodies.of_known, self._metrics)
        failed = UnknownTools(engine).tell
        self._pipeline = Pipeline(stages, self._metrics, outage.ended, self._traces(), failed)
        self._closing.append(self._pipeline.close)
        tools = ToolsRoute(self._pipeline, OwnIdentity.of(self._settings), self._settings.max_body_bytes)
        keyed = KeyedRuns(self._channel, bodies.of_strangers)
        runs = RunRoute(self._pipeline, keyed, self._settings.max_body_bytes, bodies.of_strangers)
        agent_app = self._agent_app(tools, runs, self._api(destinations, bodies.of_strangers))
        plain = PlainDoor(self._front_door, tools, runs, self._settings.max_body_bytes)
        self._closing.append(await listen(agent_app, agents, self._limits("agents"), plain))
        if self._rpc_listener is not None:
            await self._rpc_listener.start(self._pipeline)
            self._closing.append(self._rpc_listener.close)
        self._closing.append(await listen(self._admin_app(), admin, self._limits("admin")))
        self._begin_runs(self._pipeline, resolved)
        log.info("sidecar.started", port=self.port, admin_port=self.admin_port, grpc_port=self.grpc_port)

    async def drain(self) -> None:
        """Not ready from now on, new calls are refused; returns when the running ones are over, or the grace is."""
        self._readiness.drain()
        if self._pipeline is not None:
            self._pipeline.drain()
        self._end_streams()
        if self._workers is not None:
            self._workers.drain()
        log.info("sidecar.draining")
        rpcs = asyncio.create_task(self._rpc_listener.drain()) if self._rpc_listener is not None else None
        try:
            async with asyncio.timeout(self._settings.drain_grace_ms / 1000):
                while busy := self._busy():
                    await asyncio.wait(busy)
        except TimeoutError:
            log.warning("sidecar.drain_cut_short", calls=len(busy))
        if rpcs is not None:
            await rpcs

    def _busy(self) -> set[asyncio.Task[Any]]:
        """What has to be over before this process ends."""
        calls = self._pipeline.running if self._pipeline is not None else set()
        runs = self._workers.working if self._workers is not None else set()
        return self._front_door.busy | calls | runs

    def _begin_runs(self, pipeline: Pipeline, tools: Tools) -> None:
        """The workers of keyed runs, as far as there are to be any."""
        board = RunBoard(self._channel, self._settings.engine)
        actions = Actions(pipeline)
        self._workers = RunWorkers(
            board, lambda run: Foresight(board, tools) if run.dry_run else actions, self._settings.runs.workers
        )
        self._closing.append(self._workers.close)
        self._workers.start()

    async def close(self) -> None:
        """Idempotent; also after a start that failed."""
        while self._closing:
            await self._closing.pop()()

    def _traces(self) -> Traces | None:
        if self._settings.traces is None:
            return None
        from interlock.proxy.telemetry import OtlpTraces  # noqa: PLC0415 - the SDK is for those who want it

        traces = OtlpTraces(self._settings.traces, self._metrics)
        self._closing.append(traces.close)
        return traces

    def _api(self, destinations: Destinations, bodies: LargeBodies) -> Api:
        api = Api.over(
            self._channel,
            destinations,
            bodies,
            max_body_bytes=self._settings.max_body_bytes,
            duplicates_conflict=self._settings.duplicates_conflict,
        )
        self._end_streams = api.draining.set
        return api

    def _bind(self) -> tuple[socket.socket, socket.socket]:
        """All sockets before anything else: tools must not be at any of them, and 0 is not yet one."""
        settings = self._settings
        agents = bound(settings.host, settings.port)
        self._closing.append(_closer(agents))
        admin = bound(settings.admin_host, settings.admin_port)
        self._closing.append(_closer(admin))
        self.port, self.admin_port = agents.getsockname()[1], admin.getsockname()[1]
        if settings.grpc_port is not None:
            self._rpc_listener = RpcListener(settings, most_connections(settings.max_connections))
            self._closing.append(self._rpc_listener.close)
            self.grpc_port = self._rpc_listener.bind(settings.grpc_port)
        return agents, admin

    def _limits(self, listener: str) -> ConnectionLimits:
        settings = self._settings
        return ConnectionLimits(
            most=most_connections(settings.max_connections) if listener == "agents" else MAX_ADMIN_CONNECTIONS,
            head_s=settings.request_head_ms / 1000,
            stall_s=settings.agent_stall_ms / 1000,
            refused=partial(self._metrics.connection_refused, listener),
        )

    def _admin_app(self) -> web.Application:
        return admin_app(self._metrics, self._readiness, pages=[page_route()])

    def _agent_app(self, tools: ToolsRoute, runs: RunRoute, api: Api) -> web.Application:
        app = web.Application(
            middlewares=[self._front_door.label, problem_errors, v1_errors, self._front_door.guard],
            # The routes read and bound their bodies themselves.
            client_max_size=0,
        )
        for of in (*tools.routes(), *runs.routes(), *routes(api), document_route()):
            app.router.add_route(of.method, of.path, of.handler, expect_handler=_left_to_the_guard)
        return app


async def _left_to_the_guard(_: web.Request) -> None:
    """In place of aiohttp's own answer to Expect, which comes before anything about the request is known."""


class FrontDoor:
    """What stands before every route of the agent-facing listener."""

    def __init__(self, hosts: frozenset[str], readiness: Readiness) -> None:
        self._hosts = hosts
        self._readiness = readiness
        self.busy: set[asyncio.Task[object]] = set()

    @web.middleware
    async def label(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Names the request, and sees to what every answer carries."""
        request[REQUEST_ID] = self.request_id(request.headers.get("X-Request-Id", ""))
        response = await handler(request)
        if not response.prepared:
            response.headers["X-Request-Id"] = request[REQUEST_ID]
            if request.path == RUN_PATH:
                response.headers.setdefault("Interlock-Decision", "error")
            # After a body that broke off nobody knows where the next request begins.
            broken = request.content.exception() is not None
            if self._readiness.draining or response.status == 413 or broken:
                response.force_close()
        return response

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Errors: `invalid_path`, `host_not_allowed`, `origin_not_allowed`, `draining`, `expectation_failed`."""
        check_target(request.raw_path)
        self._check_host(request.headers.getall("Host", []))
        if _is_from_a_page(request.headers):
            raise DeniedError("origin_not_allowed", "requests from web pages are not served")
        if self._readiness.draining:
            raise UnavailableError("draining", "this sidecar is shutting down")
        if any(value.lower() != CONTINUE for value in request.headers.getall("Expect", [])):
            raise InvalidRequestError("expectation_failed", "Expect may ask for 100-continue only")
        # Nothing is begun before all of it is here: half a body must not hold up the end.
        request.content.on_eof(partial(self._begins, asyncio.current_task()))
        return await handler(request)

    def _begins(self, handling: asyncio.Task[object] | None) -> None:
        if handling is not None and not handling.done():
            self.busy.add(handling)
            handling.add_done_callback(self.busy.discard)

    @property
    def draining(self) -> bool:
        return self._readiness.draining

    def request_id(self, sent: str) -> str:
        """What the agent calls its request, or a name of ours."""
        return sent if _REQUEST_ID.fullmatch(sent) else os.urandom(16).hex()

    def knows_host(self, value: str) -> bool:
        """A page whose name was bound to this address (DNS rebinding) sends its own name."""
        found = _HOST.fullmatch(value)
        return found is not None and found[1].lower().rstrip(".") in self._hosts

    def _check_host(self, values: list[str]) -> None:
        if len(values) != 1 or not self.knows_host(values[0]):
            raise InvalidRequestError("host_not_allowed", "this Host is not one that this sidecar answers to")


def _is_from_a_page(headers: Mapping[str, str]) -> bool:
    """Agents are no browsers: what sends either of these is a page that found this port.

    A page may leave out Origin (a GET without CORS); its browser then still names where the page is from
    (W3C Fetch Metadata, 2.3).
    """
    return "Origin" in headers or headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")


def _hosts(settings: SidecarSettings) -> frozenset[str]:
    own = f"[{settings.host}]" if ":" in settings.host else settings.host
    return frozenset({"localhost", "127.0.0.1", "[::1]", own.lower(), *settings.allowed_hosts}) - {"0.0.0.0", "[::]"}  # noqa: S104 - taken out


def _closer(listener: socket.socket) -> Callable[[], Awaitable[None]]:
    async def close() -> None:
        listener.close()

    return close
