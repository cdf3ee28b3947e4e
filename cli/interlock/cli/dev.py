"""`interlock dev`: Redis, engine and sidecar in one process, with nothing to set up."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import typer
from grpc import aio
from pydantic import SecretStr

from interlock.cli import serving
from interlock.cli.alerting import alerting
from interlock.cli.configuration import Configuration, Settings
from interlock.cli.data_folder import DataFolder
from interlock.cli.exporting import exporting
from interlock.cli.reconciling import reconciling
from interlock.cli.role import Role
from interlock.cli.watching import FIRST_LOOK_S, watching
from interlock.governance.errors import UnauthenticatedError
from interlock.governance.local import LocalServer
from interlock.governance.status import error_of
from interlock.governance.v1.admin_pb2 import ListKeysRequest
from interlock.governance.v1.admin_pb2_grpc import KeysStub
from interlock.policy.engine import Engine
from interlock.policy.settings import EngineSettings
from interlock.proxy.app import Sidecar
from interlock.proxy.destinations import Destinations
from interlock.proxy.metrics import Metrics
from interlock.proxy.settings import SidecarSettings
from interlock.store.embedded import EmbeddedRedis
from interlock.store.opening import open_store
from interlock.store.settings import RedisSettings

WELCOME = """\
Interlock is ready.
  agents     {agents}/tools/TOOL  and  {agents}/v1
  gRPC       {grpc}
  admin      {admin}  (/metrics /healthz /readyz)
  admin key  {key}
Ctrl-C lets running calls finish and ends it."""


def run(port: int | None, admin_port: int | None, grpc_port: int | None, data_dir: Path, config: Path | None) -> None:
    """Runs it until it is told to stop; see `serving.run` for the exit codes."""
    ports = {"port": port, "admin_port": admin_port, "grpc_port": grpc_port}
    flags = {"sidecar": {name: given for name, given in ports.items() if given is not None}}
    serving.run(Role.DEV, partial(_serve, data_dir), config, defaults=_defaults(data_dir), flags=flags)


def _defaults(data_dir: Path) -> Settings:
    return {
        "engine": {"default_policy": "allow", "allow_loopback_tools": True},
        "sidecar": {"allow_loopback_tools": True, "spool_dir": data_dir / "spool"},
    }


async def _serve(data_dir: Path, configuration: Configuration, stop: asyncio.Event) -> None:
    folder = DataFolder(data_dir)
    metrics, token = Metrics(), SecretStr(secrets.token_urlsafe(32))
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(_redis(configuration.redis, folder))
        audit = configuration.audit
        store = await stack.enter_async_context(open_store(redis, metrics, backlog_cap=audit.cap))
        engine = Engine(store, _engine_settings(configuration.engine, folder, token), metrics)
        stack.push_async_callback(engine.close)
        await engine.start()
        local = LocalServer()
        engine.register(local)

        own_key = configuration.engine.bootstrap_key
        key = own_key.get_secret_value() if own_key else folder.admin_key()
        await engine.bootstrap(key)

        watcher = await stack.enter_async_context(watching(configuration, engine, metrics, data_dir))
        if watcher is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(watcher.looked.wait(), FIRST_LOOK_S)
        settings = _sidecar_settings(configuration.sidecar, token)
        sidecar = Sidecar(settings, local.channel(), metrics=metrics)
        stack.push_async_callback(sidecar.close)
        await sidecar.start()
        own_ports = frozenset({sidecar.port, sidecar.admin_port})
        destinations = Destinations(allow_loopback=configuration.engine.allow_loopback_tools, own_ports=own_ports)
        await stack.enter_async_context(reconciling(engine, destinations, metrics))
        await stack.enter_async_context(alerting(engine, configuration.engine.alerts, destinations, metrics))
        own_signing_key = folder.signing_key_file() if audit.exports else None
        await stack.enter_async_context(exporting(audit, redis, metrics, own_signing_key))
        # Standard output may be where events go, each a line.
        typer.echo(_welcome(settings, sidecar, key if await _holds(key, local) else "revoked"), err=audit.stdout)
        await stop.wait()
        await sidecar.drain()


@asynccontextmanager
async def _redis(settings: RedisSettings, folder: DataFolder) -> AsyncIterator[RedisSettings]:
    """The settings of a Redis that runs: the one that was named, else one of our own."""
    if settings.url is not None:
        yield settings
        return
    embedded = EmbeddedRedis(folder.redis)
    url = await embedded.start()
    try:
        yield settings.model_copy(update={"url": SecretStr(url)})
    finally:
        await embedded.close()


def _engine_settings(settings: EngineSettings, folder: DataFolder, token: SecretStr) -> EngineSettings:
    """The token is for this process alone: nobody else can reach the engine in it."""
    own: dict[str, object] = {"sidecar_token": token}
    if settings.master_key is None and settings.master_key_file is None:
        own["master_key_file"] = folder.master_key_file()
    return settings.model_copy(update=own)


def _sidecar_settings(settings: SidecarSettings, token: SecretStr) -> SidecarSettings:
    link = settings.engine.model_copy(update={"target": "embedded", "sidecar_token": token})
    return settings.model_copy(update={"engine": link})


async def _holds(key: str, server: LocalServer) -> bool:
    """Whether the engine knows the key: one that was revoked is not made good again by another start."""
    try:
        await KeysStub(server.channel()).ListKeys(ListKeysRequest(), metadata=[("authorization", f"Bearer {key}")])
    except aio.AioRpcError as error:
        return not isinstance(error_of(error), UnauthenticatedError)
    return True


def _welcome(settings: SidecarSettings, sidecar: Sidecar, key: str) -> str:
    agents, admin = _url(settings.host, sidecar.port), _url(settings.admin_host, sidecar.admin_port)
    grpc = "off" if sidecar.grpc_port is None else _url(settings.host, sidecar.grpc_port).removeprefix("http://")
    return WELCOME.format(agents=agents, grpc=grpc, admin=admin, key=key)


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
