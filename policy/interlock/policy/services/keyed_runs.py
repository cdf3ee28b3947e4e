"""The KeyedRuns service."""

import orjson

from interlock.governance.v1 import locks_pb2, runs_pb2_grpc
from interlock.governance.v1 import runs_pb2 as pb
from interlock.policy.authorizing import MAX_RUN_ID_BYTES
from interlock.policy.fields import require
from interlock.policy.keyed_runs import KeyedRuns, WantedRun
from interlock.policy.locking import Question
from interlock.policy.model import MAX_SPEND_MICROS, TOOL_NAME
from interlock.policy.run_plan import MAX_ACTIONS, PlannedAction
from interlock.policy.services.locks import (
    MAX_KEY_CHARS,
    MAX_LEASE_METADATA_BYTES,
    MAX_REASON_CHARS,
    acquired_message,
    lease_message,
)
from interlock.policy.services.rpc import Caller, rpc


class KeyedRunsService(runs_pb2_grpc.KeyedRunsServicer):
    """Runs, for who wants them done."""

    def __init__(self, runs: KeyedRuns) -> None:
        self._runs = runs

    @rpc
    async def StartRun(self, request: pb.StartRunRequest, caller: Caller) -> locks_pb2.AcquireLeaseResponse:  # noqa: N802 - the contract's name
        return acquired_message(await self._runs.start(caller.credential, _wanted(request)))

    @rpc
    async def CancelRun(self, request: pb.CancelRunRequest, caller: Caller) -> locks_pb2.Lease:  # noqa: N802 - the contract's name
        require("key", 1 <= len(request.key) <= MAX_KEY_CHARS)
        require("reason", len(request.reason) <= MAX_REASON_CHARS)
        return lease_message(await self._runs.cancel(caller.credential, request.key, request.agent_id, request.reason))


def _wanted(request: pb.StartRunRequest) -> WantedRun:
    """Errors: InvalidRequestError."""
    require("key", 1 <= len(request.key) <= MAX_KEY_CHARS)
    require("ttl", not request.HasField("ttl_s") or request.ttl_s >= 1)
    require("metadata", len(request.metadata) <= MAX_LEASE_METADATA_BYTES and _is_object(request.metadata or b"{}"))
    require("metadata.run_id", len(request.run_id.encode()) <= MAX_RUN_ID_BYTES)
    require("metadata.actions", len(request.actions) <= MAX_ACTIONS)
    return WantedRun(
        question=Question(request.key, request.ttl_s if request.HasField("ttl_s") else None, request.metadata),
        agent_id=request.agent_id,
        run_id=request.run_id,
        dry_run=request.dry_run,
        actions=tuple(_action(action, f"metadata.actions.{at}") for at, action in enumerate(request.actions)),
    )


def _action(action: pb.Action, place: str) -> PlannedAction:
    require(f"{place}.tool", TOOL_NAME.fullmatch(action.tool) is not None)
    require(f"{place}.args", _is_object(action.args))
    require(f"{place}.spend_usd", 0 <= action.declared_spend_micros <= MAX_SPEND_MICROS)
    return PlannedAction(action.tool, action.args.decode(), action.declared_spend_micros)


def _is_object(text: bytes) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False
