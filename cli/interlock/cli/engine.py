"""`interlock engine`: the governance engine alone, on gRPC."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import structlog
from grpc import aio
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from interlock.cli import serving
from interlock.cli.alerting import alerting
from interlock.cli.configuration import Configuration
from interlock.cli.exporting import exporting
from interlock.cli.problems import ConfigurationError, Place, Problem
from interlock.cli.reconciling import reconciling
from interlock.cli.role import Role
from interlock.cli.watching import Looked, Watcher, watching
from interlock.governance.certificates import Certificates, server_credentials
from interlock.governance.errors import UnavailableError
from interlock.governance.local import LocalServer
from interlock.governance.tasks import end
from interlock.policy.engine import SERVICES, Engine
from interlock.policy.settings import EngineSettings, TlsFiles
from interlock.proxy.admin import Readiness, Ready, admin_app, listening
from interlock.proxy.destinations import Destinations
from interlock.proxy.metrics import Metrics
from interlock.store.opening import open_store

OPTIONS = (
    ("grpc.so_reuseport", 0),  # a second engine on the port is a mistake, not a helper
    # Answers with their kept bodies come many in one message.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)
REFLECTED = (*(service.full_name for service in SERVICES), health.SERVICE_NAME, reflection.SERVICE_NAME)

BOOTSTRAP_PAUSE_S = 0.5

log = structlog.get_logger(__name__)


def run(config: Path | None) -> None:
    """Runs it until it is told to stop; see `serving.run` for the exit codes."""
    serving.run(Role.ENGINE, _serve, config)


async def _serve(configuration: Configuration, stop: asyncio.Event) -> None:
    settings, metrics = configuration.engine, Metrics()
    async with AsyncExitStack() as stack:
        audit = configuration.audit
        store = await stack.enter_async_context(open_store(configuration.redis, metrics, backlog_cap=audit.cap))
        engine = Engine(store, settings, metrics)
        stack.push_async_callback(engine.close)
        await engine.start()
        server = aio.server(options=(*OPTIONS, ("grpc.max_connection_age_ms", settings.connection_age_ms)))
        stack.push_async_callback(server.stop, None)
        engine.register(server)
        reflection.enable_server_reflection(REFLECTED, server)
        _bind(server, settings, metrics)
        watcher = await stack.enter_async_context(watching(configuration, engine, metrics))
        await stack.enter_async_context(_admin(engine, settings, metrics, watcher))
        await stack.enter_async_context(_bootstrapping(engine, settings))
        await stack.enter_async_context(exporting(audit, configuration.redis, metrics))
        await stack.enter_async_context(reconciling(engine, _destinations(settings), metrics))
        await stack.enter_async_context(alerting(engine, settings.alerts, _destinations(settings), metrics))
        await server.start()
        log.info("engine.started", listen=settings.listen, tls=settings.tls is not None)
        await stop.wait()
        await engine.drain()
        await server.stop(settings.drain_grace_ms / 1000)


def _destinations(settings: EngineSettings) -> Destinations:
    """Where tools may be asked: not at this engine itself."""
    own_ports = frozenset({int(settings.listen.rpartition(":")[2]), settings.admin_port})
    return Destinations(allow_loopback=settings.allow_loopback_tools, own_ports=own_ports)


def _bind(server: aio.Server, settings: EngineSettings, metrics: Metrics) -> None:
    try:
        if settings.tls is None:
            server.add_insecure_port(settings.listen)
        else:
            server.add_secure_port(settings.listen, _credentials(settings.tls, metrics))
    except RuntimeError as error:  # all that gRPC says; why is in its own log
        raise UnavailableError("address_in_use", f"engine.listen: {settings.listen} cannot be listened on") from error


def _credentials(tls: TlsFiles, metrics: Metrics) -> grpc.ServerCredentials:
    """Certificates as gRPC takes them, tried out before: gRPC would start with broken ones, and refuse all."""
    try:
        certificates = Certificates(tls.cert_file, tls.key_file, tls.client_ca_file, metrics.certificate_refused)
    except (OSError, ValueError) as error:
        raise ConfigurationError([Problem(Place(), "engine.tls", str(error))]) from error
    metrics.watch_certificate(lambda: certificates.current().expires_at)
    return server_credentials(certificates)


def _admin(
    engine: Engine, settings: EngineSettings, metrics: Metrics, watcher: Watcher | None
) -> AbstractAsyncContextManager[None]:
    local = LocalServer()
    engine.register_health(local)
    readiness: Ready = Readiness(local.channel())
    if watcher is None:
        app = admin_app(metrics, readiness)
    else:
        app = admin_app(metrics, Looked(watcher, readiness), lambda: {"manifests": watcher.state})
    return listening(app, settings.admin_host, settings.admin_port)


@asynccontextmanager
async def _bootstrapping(engine: Engine, settings: EngineSettings) -> AsyncIterator[None]:
    """Creates the first key as soon as Redis can be reached: an engine may well be up before it."""
    if settings.bootstrap_key is None:
        yield
        return
    creating = asyncio.create_task(_bootstrap(engine, settings.bootstrap_key.get_secret_value()))
    try:
        yield
    finally:
        await end(creating)


async def _bootstrap(engine: Engine, key: str) -> None:
    while True:
        try:
            created = await engine.bootstrap(key)
        except UnavailableError:
            await asyncio.sleep(BOOTSTRAP_PAUSE_S)
        else:
            log.info("bootstrap_key.created" if created else "bootstrap_key.known")
            return
