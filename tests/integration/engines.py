"""A real engine on a real gRPC port."""

import asyncio
import collections
import contextlib
import hashlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from grpc import aio

from interlock.governance.errors import InterlockError
from interlock.governance.status import error_of
from interlock.governance.v1 import (
    account_pb2_grpc,
    admin_pb2,
    admin_pb2_grpc,
    alerts_pb2_grpc,
    configuration_pb2_grpc,
    figures_pb2_grpc,
    governance_pb2_grpc,
    locks_pb2_grpc,
    namespaces_pb2_grpc,
    timeline_pb2_grpc,
)
from interlock.governance.v1 import governance_pb2 as pb
from interlock.policy.credentials import new_key
from interlock.policy.engine import Engine
from interlock.policy.settings import EngineSettings
from interlock.store.connection import Recorder
from interlock.store.opening import open_store
from interlock.store.settings import RedisSettings
from tests.conformance.conftest import Silent
from tests.interlock_dev import MASTER_KEY

SIDECAR_TOKEN = "the-sidecars-token"
ADMIN_KEY = new_key()


@dataclass
class EngineClient:
    """Stubs on one engine, speaking with a key and (as a sidecar) with a token."""

    channel: aio.Channel
    key: str = ADMIN_KEY
    token: str = SIDECAR_TOKEN
    engine: Engine | None = None
    namespace: str = ""

    def __post_init__(self) -> None:
        self.governance = governance_pb2_grpc.GovernanceStub(self.channel)
        self.tools = admin_pb2_grpc.ToolsStub(self.channel)
        self.policies = admin_pb2_grpc.PoliciesStub(self.channel)
        self.agents = admin_pb2_grpc.AgentsStub(self.channel)
        self.switches = admin_pb2_grpc.SwitchesStub(self.channel)
        self.keys = admin_pb2_grpc.KeysStub(self.channel)
        self.calls = admin_pb2_grpc.CallsStub(self.channel)
        self.audit = admin_pb2_grpc.AuditStub(self.channel)
        self.configuration = configuration_pb2_grpc.ConfigurationStub(self.channel)
        self.account = account_pb2_grpc.AccountStub(self.channel)
        self.figures = figures_pb2_grpc.FiguresStub(self.channel)
        self.timelines = timeline_pb2_grpc.TimelinesStub(self.channel)
        self.locks = locks_pb2_grpc.LocksStub(self.channel)
        self.alerts = alerts_pb2_grpc.AlertsStub(self.channel)
        self.namespaces = namespaces_pb2_grpc.NamespacesStub(self.channel)

    def speaking_with(self, key: str) -> "EngineClient":
        return EngineClient(self.channel, key, self.token)

    def acting_in(self, namespace: str) -> "EngineClient":
        return EngineClient(self.channel, self.key, self.token, namespace=namespace)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        elsewhere = (("interlock-namespace", self.namespace),) if self.namespace else ()
        return (("authorization", f"Bearer {self.key}"), ("interlock-sidecar-token", self.token), *elsewhere)

    async def ask(self, method: Any, request: Any) -> Any:
        """Calls a stub's method; what it fails with is the InterlockError."""
        try:
            return await method(request, metadata=self.metadata, timeout=20)
        except aio.AioRpcError as failed:
            raise error_of(failed) from failed

    async def refused(self, method: Any, request: Any) -> str:
        """The reason that a call is refused with."""
        try:
            await self.ask(method, request)
        except InterlockError as error:
            return error.reason
        raise AssertionError("it was not refused")

    async def put_tool(self, name: str = "charge", **fields: Any) -> admin_pb2.Tool:
        tool = admin_pb2.Tool(name=name, url="http://127.0.0.1:9/charge", **fields)
        return await self.ask(self.tools.PutTool, admin_pb2.PutToolRequest(tool=tool, secret="tool-secret"))

    async def new_key(self, role: admin_pb2.Role.ValueType, agent_id: str = "") -> admin_pb2.CreateKeyResponse:
        return await self.ask(self.keys.CreateKey, admin_pb2.CreateKeyRequest(role=role, agent_id=agent_id))

    def question(self, call: str = "one", **changes: Any) -> pb.AuthorizeRequest:
        fields: dict[str, Any] = {
            "attempt_id": secrets.token_hex(8),
            "credential": self.key,
            "agent_id": "bot-1",
            "tool": "charge",
            "tool_revision": 1,
            "method": "POST",
            "fingerprint": hashlib.sha256(call.encode()).digest(),
            "declared_spend_micros": 1_000_000,
        }
        return pb.AuthorizeRequest(**(fields | changes))

    async def authorize(self, call: str = "one", **changes: Any) -> pb.AuthorizeResponse:
        return await self.ask(self.governance.Authorize, self.question(call, **changes))


class Noting(Silent):
    """Notes how long the engine took to know of switches, and how often it asked what of Redis."""

    def __init__(self) -> None:
        self.asked: collections.Counter[str] = collections.Counter()
        self.known: asyncio.Queue[tuple[str, float]] = asyncio.Queue()

    def redis_call(self, operation: str, seconds: float) -> None:
        self.asked[operation] += 1

    def switch_known(self, scope: str, seconds: float) -> None:
        self.known.put_nowait((scope, seconds))


@contextlib.asynccontextmanager
async def running_engine(
    redis_url: str, recorder: Recorder | None = None, **settings: Any
) -> AsyncIterator[EngineClient]:
    """An engine of its own on a free port, with stubs that speak as admin and sidecar."""
    chosen: dict[str, Any] = {
        "sidecar_token": SIDECAR_TOKEN,
        "master_key": MASTER_KEY,
        "default_policy": "allow",
        "allow_loopback_tools": True,
    }
    async with open_store(RedisSettings(url=redis_url), recorder or Silent()) as store:
        noting = recorder if isinstance(recorder, Noting) else None
        engine = Engine(store, EngineSettings(**(chosen | settings)), noting)
        server = aio.server()
        engine.register(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await engine.start()
        await engine.bootstrap(ADMIN_KEY)
        await server.start()
        try:
            async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield EngineClient(channel, engine=engine)
        finally:
            await server.stop(None)
            await engine.close()
