"""The port to the governance engine: asks, repeats a question whose answer was lost, and gives up early.

Every question may be repeated unchanged: an Authorize by its `attempt_id`, a Settle by its permit.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import grpc
from grpc import aio

from interlock.governance.errors import InterlockError, UnavailableError
from interlock.governance.status import error_of
from interlock.governance.v1 import governance_pb2 as pb
from interlock.governance.v1 import timeline_pb2
from interlock.governance.v1.governance_pb2_grpc import GovernanceStub
from interlock.governance.v1.timeline_pb2_grpc import TimelinesStub
from interlock.proxy.breaker import Breaker
from interlock.proxy.exchange import Exchange, LostAnswerError, is_engines_word
from interlock.proxy.metrics import Metrics
from interlock.proxy.settings import EngineLink, TlsFiles
from interlock.proxy.spool import Kept

Metadata = tuple[tuple[str, str], ...]
Request = TypeVar("Request")
Response = TypeVar("Response")

REDIAL_S = 0.02
"""A pause after a connection broke: gRPC may still take it for whole, and would lose the repetition on it, too."""

CHANNEL_OPTIONS = (
    # gRPC waits up to two minutes before it dials a dead engine again; calls are refused that long.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Engines that came are found when others go; by default at most every 30 s.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    ("grpc.keepalive_time_ms", 20_000),
    # Many answers, each with a kept body, may come in one message.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Connected to every engine, so that the next one is there at once when one drains, and each stream goes to another.
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
)


def dial(link: EngineLink) -> aio.Channel:
    """A channel to one of the remote engines, not yet connected."""
    scheme, _, address = link.target.partition("://")
    if "," in address:
        address = f"ipv4:{address}"  # https://grpc.github.io/grpc/core/md_doc_naming.html
    if scheme == "grpc":
        return aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    return aio.secure_channel(address, _credentials(link.tls or TlsFiles()), options=CHANNEL_OPTIONS)


def _credentials(tls: TlsFiles) -> grpc.ChannelCredentials:
    files = (tls.ca_file, tls.key_file, tls.cert_file)
    ca, key, certificate = (path.read_bytes() if path else None for path in files)
    return grpc.ssl_channel_credentials(ca, key, certificate)


class Asking(Protocol):
    """The three questions of every call. Errors: LostAnswerError if none came in time, else the engine's own."""

    def authorize(self, request: pb.AuthorizeRequest, within_s: float) -> Awaitable[pb.AuthorizeResponse]: ...
    def renew(self, request: pb.RenewRequest, within_s: float) -> Awaitable[pb.RenewResponse]: ...
    def settle(self, request: pb.SettleRequest, within_s: float) -> Awaitable[pb.SettleResponse]: ...
    async def close(self) -> None: ...


class Unary:
    """Each question its own RPC: the way within one process."""

    def __init__(self, channel: aio.Channel, metadata: Metadata) -> None:
        self._stub = GovernanceStub(channel)
        self._timelines = TimelinesStub(channel)
        self._metadata = metadata

    def authorize(self, request: pb.AuthorizeRequest, within_s: float) -> Awaitable[pb.AuthorizeResponse]:
        return self._call(self._stub.Authorize, request, within_s)

    def renew(self, request: pb.RenewRequest, within_s: float) -> Awaitable[pb.RenewResponse]:
        return self._call(self._stub.Renew, request, within_s)

    def settle(self, request: pb.SettleRequest, within_s: float) -> Awaitable[pb.SettleResponse]:
        return self._call(self._stub.Settle, request, within_s)

    def resolve(self, request: pb.ResolveToolRequest, within_s: float) -> Awaitable[pb.ResolveToolResponse]:
        return self._call(self._stub.ResolveTool, request, within_s)

    def wait(self, request: pb.AwaitRequest, within_s: float) -> Awaitable[pb.AwaitResponse]:
        return self._call(self._stub.Await, request, within_s)

    def abandon(self, request: pb.AbandonRequest, within_s: float) -> Awaitable[pb.AbandonResponse]:
        return self._call(self._stub.Abandon, request, within_s)

    def record_degraded(
        self, request: pb.RecordDegradedRequest, within_s: float
    ) -> Awaitable[pb.RecordDegradedResponse]:
        return self._call(self._stub.RecordDegraded, request, within_s)

    async def record_unknown_tool(
        self, request: timeline_pb2.RecordUnknownToolRequest, within_s: float
    ) -> timeline_pb2.RecordUnknownToolResponse:
        return await self._call(self._timelines.RecordUnknownTool, request, within_s)

    async def close(self) -> None:
        """Nothing is kept open."""

    async def _call(
        self, rpc: aio.UnaryUnaryMultiCallable[Request, Response], request: Request, within_s: float
    ) -> Response:
        try:
            return await rpc(request, timeout=within_s, metadata=self._metadata)
        except aio.AioRpcError as failed:
            if is_engines_word(failed):
                raise error_of(failed) from failed
            waited_out = failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            raise LostAnswerError(waited_out=waited_out) from failed


class EngineClient:
    """The governance engine as the stages see it. Errors: InterlockError, `governance_unavailable` among them."""

    def __init__(self, channel: aio.Channel, link: EngineLink, metrics: Metrics) -> None:
        token = link.sidecar_token
        metadata = (("interlock-sidecar-token", token.get_secret_value()),) if token else ()
        self._unary = Unary(channel, metadata)
        self._asking: Asking = self._unary if link.embedded else Exchange(channel, metadata)
        self._within_s = link.timeout_ms / 1000
        self._repeats = link.repeats
        self._breaker = Breaker(threshold=link.breaker_failures, cooldown_s=link.breaker_open_ms / 1000)
        self._broke_at = 0.0
        self._metrics = metrics

    async def close(self) -> None:
        await self._asking.close()

    def resolve(self, request: pb.ResolveToolRequest) -> Awaitable[pb.ResolveToolResponse]:
        return self._ask("resolve", self._unary.resolve, request)

    def authorize(self, request: pb.AuthorizeRequest) -> Awaitable[pb.AuthorizeResponse]:
        return self._ask("authorize", self._asking.authorize, request)

    def renew(self, request: pb.RenewRequest) -> Awaitable[pb.RenewResponse]:
        return self._ask("renew", self._asking.renew, request)

    def settle(self, request: pb.SettleRequest) -> Awaitable[pb.SettleResponse]:
        return self._ask("settle", self._asking.settle, request)

    def abandon(self, request: pb.AbandonRequest) -> Awaitable[pb.AbandonResponse]:
        return self._ask("abandon", self._unary.abandon, request)

    async def record_unknown_tool(self, request: timeline_pb2.RecordUnknownToolRequest) -> None:
        await self._ask("record_unknown_tool", self._unary.record_unknown_tool, request)

    async def deliver(self, kept: Kept) -> None:
        """Tells what the spool kept."""
        if isinstance(kept, pb.SettleRequest):
            await self.settle(kept)
        else:
            await self._ask("record_degraded", self._unary.record_degraded, _told_now(kept))

    async def wait(self, request: pb.AwaitRequest) -> pb.AwaitResponse:
        """Waits for another's call; not timed as a question, since waiting is what it is for."""
        return await self._unary.wait(request, request.wait_ms / 1000 + self._within_s)

    async def _ask(
        self, method: str, ask: Callable[[Request, float], Awaitable[Response]], request: Request
    ) -> Response:
        """Asks until there is an answer, at most `repeats` times again, each time the same question.

        Of several failures the one is told that may have had an effect.
        """
        unheard: UnavailableError | None = None
        for repeats_left in range(self._repeats, -1, -1):
            if not self._breaker.allows(time.monotonic()):
                break
            try:
                return await self._ask_once(method, ask, request)
            except UnavailableError as unavailable:
                unheard = unheard or (None if unavailable.had_no_effect else unavailable)
                if repeats_left == 0:
                    raise unheard or unavailable from None
                if isinstance(unavailable, LostAnswerError) and not unavailable.waited_out:
                    await asyncio.sleep(REDIAL_S)
        raise unheard or UnavailableError(
            "governance_unavailable", "the governance engine could not be reached just now", effect="none"
        )

    async def _ask_once(
        self, method: str, ask: Callable[[Request, float], Awaitable[Response]], request: Request
    ) -> Response:
        began = time.monotonic()
        try:
            response = await ask(request, self._within_s)
        except LostAnswerError as lost:
            # A connection that breaks takes the answers of many calls along: that is one failure, not many.
            if lost.waited_out or began >= self._broke_at:
                self._broke_at = time.monotonic()
                self._breaker.failed(self._broke_at)
            raise
        except InterlockError:
            # The engine itself spoke, if only to say that Redis is down: then it is Redis that is slow to come back.
            self._breaker.succeeded()
            raise
        finally:
            self._metrics.engine_call(method, time.monotonic() - began)
        self._breaker.succeeded()
        return response


def _told_now(record: pb.RecordDegradedRequest) -> pb.RecordDegradedRequest:
    """How long ago it was is told by the clock that was looked at then: how far that is out does not matter."""
    told = pb.RecordDegradedRequest()
    told.CopyFrom(record)
    told.told_at_ms = int(time.time() * 1000)
    return told
