"""Where workers find keyed runs: the engine's RunWork service, as they see it."""

from typing import TYPE_CHECKING, TypeVar

from grpc import aio

from interlock.governance.status import error_of
from interlock.governance.v1 import governance_pb2, runs_pb2_grpc
from interlock.governance.v1 import runs_pb2 as pb
from interlock.proxy.settings import EngineLink

if TYPE_CHECKING:  # this type exists in the generated stubs only
    from interlock.governance.v1.runs_pb2_grpc import RunWorkAsyncStub

Request = TypeVar("Request")
Response = TypeVar("Response")

TAKE_MS = 10_000
"""So long one question for a run waits at the engine."""


class RunBoard:
    """Errors of every method: InterlockError, `governance_unavailable` among them; of all but `take`, `run_lost`."""

    def __init__(self, channel: aio.Channel, link: EngineLink) -> None:
        self._stub: RunWorkAsyncStub = runs_pb2_grpc.RunWorkStub(channel)
        token = link.sidecar_token
        self._metadata = (("interlock-sidecar-token", token.get_secret_value()),) if token else ()
        self._within_s = link.timeout_ms / 1000

    async def take(self, worker: str) -> pb.Run | None:
        """A run to do, or None after a while without one."""
        asked = pb.TakeRunRequest(worker=worker, wait_ms=TAKE_MS)
        answer = await self._ask(self._stub.TakeRun, asked, self._within_s + TAKE_MS / 1000)
        return answer.run if answer.HasField("run") else None

    async def renew(self, grant: str) -> None:
        await self._ask(self._stub.RenewRun, pb.HeldRun(grant=grant))

    async def checkpoint(self, grant: str, index: int, outcome: bytes) -> None:
        asked = pb.CheckpointActionRequest(grant=grant, index=index, outcome=outcome)
        await self._ask(self._stub.CheckpointAction, asked)

    async def finish(self, grant: str, error_code: str) -> None:
        await self._ask(self._stub.FinishRun, pb.FinishRunRequest(grant=grant, error_code=error_code))

    async def give_back(self, grant: str) -> None:
        await self._ask(self._stub.ReturnRun, pb.HeldRun(grant=grant))

    async def foresee(self, asked: pb.ForeseeActionRequest) -> governance_pb2.AuthorizeResponse:
        return await self._ask(self._stub.ForeseeAction, asked)

    async def _ask(
        self,
        rpc: "aio.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        within_s: float | None = None,
    ) -> Response:
        try:
            return await rpc(request, timeout=within_s or self._within_s, metadata=self._metadata)
        except aio.AioRpcError as failed:
            raise error_of(failed) from failed
