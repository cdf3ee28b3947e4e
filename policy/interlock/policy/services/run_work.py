"""The RunWork service: translates for the workers of keyed runs, and asks for the sidecars' token."""

import re

from interlock.governance.errors import InvalidRequestError
from interlock.governance.v1 import governance_pb2, runs_pb2_grpc
from interlock.governance.v1 import runs_pb2 as pb
from interlock.policy.authorizing import Authorizer
from interlock.policy.run_dispatch import Assignment, RunDispatch
from interlock.policy.run_grants import grant_of, holding_of
from interlock.policy.run_plan import MAX_ACTIONS, MAX_RESULT_BYTES
from interlock.policy.run_ports import Assumed, Foresight
from interlock.policy.services.messages import authorize_response, question_of
from interlock.policy.services.rpc import sidecars_rpc

MAX_ERROR_CODE = 128
_WORKER = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


class RunWorkService(runs_pb2_grpc.RunWorkServicer):
    """Runs for workers."""

    def __init__(self, dispatch: RunDispatch, authorizer: Authorizer, foresight: Foresight, token: str) -> None:
        self._dispatch = dispatch
        self._authorizer = authorizer
        self._foresight = foresight
        self.token = token

    @sidecars_rpc
    async def TakeRun(self, request: pb.TakeRunRequest) -> pb.TakeRunResponse:  # noqa: N802 - the contract's name
        if not _WORKER.fullmatch(request.worker):
            raise InvalidRequestError("invalid_request", "a worker is named by 1-64 of A-Z a-z 0-9 _ -", field="worker")
        taken = await self._dispatch.take(request.worker, request.wait_ms)
        return pb.TakeRunResponse(run=_run_message(taken, self._dispatch.lease_ms) if taken else None)

    @sidecars_rpc
    async def RenewRun(self, request: pb.HeldRun) -> pb.HeldRun:  # noqa: N802 - the contract's name
        await self._dispatch.renew(holding_of(request.grant))
        return request

    @sidecars_rpc
    async def CheckpointAction(self, request: pb.CheckpointActionRequest) -> pb.HeldRun:  # noqa: N802 - the contract's name
        if not 0 <= request.index < MAX_ACTIONS:
            raise InvalidRequestError("invalid_request", "there is no such action", field="index")
        if len(request.outcome) > MAX_RESULT_BYTES:
            raise InvalidRequestError("invalid_request", "an outcome has at most 1 MiB", field="outcome")
        await self._dispatch.checkpoint(holding_of(request.grant), request.index, request.outcome)
        return pb.HeldRun(grant=request.grant)

    @sidecars_rpc
    async def FinishRun(self, request: pb.FinishRunRequest) -> pb.FinishRunResponse:  # noqa: N802 - the contract's name
        if len(request.error_code) > MAX_ERROR_CODE:
            raise InvalidRequestError("invalid_request", "an error_code has at most 128 characters", field="error_code")
        await self._dispatch.finish(holding_of(request.grant), request.error_code)
        return pb.FinishRunResponse()

    @sidecars_rpc
    async def ReturnRun(self, request: pb.HeldRun) -> pb.HeldRun:  # noqa: N802 - the contract's name
        await self._dispatch.give_back(holding_of(request.grant))
        return request

    @sidecars_rpc
    async def ForeseeAction(  # noqa: N802 - the contract's name
        self, request: pb.ForeseeActionRequest
    ) -> governance_pb2.AuthorizeResponse:
        assumed = Assumed(request.actions, request.tool_calls, request.spend_micros)
        foreseen = await self._authorizer.foresee(question_of(request.call), assumed, self._foresight)
        return authorize_response(foreseen)


def _run_message(taken: Assignment, lease_ms: int) -> pb.Run:
    plan = taken.plan
    return pb.Run(
        grant=grant_of(taken.holding),
        namespace=taken.holding.run.namespace,
        agent_id=plan.agent_id,
        run_id=plan.run_id,
        dry_run=plan.dry_run,
        actions=[
            pb.Action(tool=action.tool, args=action.args.encode(), declared_spend_micros=action.declared_micros)
            for action in plan.actions
        ],
        done=taken.done,
        kept_bytes=taken.kept_bytes,
        lease_ms=lease_ms,
    )
