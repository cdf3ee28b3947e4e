"""The Locks service."""

import hashlib

from interlock.governance.v1 import locks_pb2 as pb
from interlock.governance.v1 import locks_pb2_grpc
from interlock.policy.fields import require
from interlock.policy.lock_ports import Completion, Lease
from interlock.policy.locking import MAX_WAIT_MS, Granted, Holder, Locking, Question
from interlock.policy.model import ATTEMPT_ID
from interlock.policy.services.rpc import Caller, rpc

MAX_KEY_CHARS = 256
MAX_HASH_CHARS = 256
MAX_REASON_CHARS = 512
MAX_LEASE_ID_CHARS = 128
MAX_LOCK_METADATA_BYTES = 2048
MAX_LEASE_METADATA_BYTES = 262_144
MAX_RESULT_BYTES = 1_048_576
DIGEST_BYTES = 32


class LocksService(locks_pb2_grpc.LocksServicer):
    """Locks, and leases."""

    def __init__(self, locking: Locking) -> None:
        self._locking = locking

    @rpc
    async def CheckLock(self, request: pb.CheckLockRequest, caller: Caller) -> pb.CheckLockResponse:  # noqa: N802 - the contract's name
        question = _question(request, MAX_LOCK_METADATA_BYTES)
        word = await self._locking.check(caller.credential, question)
        locked = word.word == "LOCKED"
        first_seen = 0 if locked else word.first_seen_at_ms
        return pb.CheckLockResponse(locked=locked, ttl_s=word.ttl_ms // 1000, first_seen_at_ms=first_seen)

    @rpc
    async def AcquireLease(self, request: pb.AcquireLeaseRequest, caller: Caller) -> pb.AcquireLeaseResponse:  # noqa: N802 - the contract's name
        question = _question(request, MAX_LEASE_METADATA_BYTES)
        granted = await self._locking.acquire(caller.credential, question)
        return acquired_message(granted)

    @rpc
    async def ExtendLease(self, request: pb.ExtendLeaseRequest, caller: Caller) -> pb.Lease:  # noqa: N802 - the contract's name
        holder = _holder(request)
        return lease_message(await self._locking.extend(caller.credential, holder, _ttl(request)))

    @rpc
    async def CompleteLease(self, request: pb.CompleteLeaseRequest, caller: Caller) -> pb.Lease:  # noqa: N802 - the contract's name
        holder = _holder(request)
        require("result", len(request.result) <= MAX_RESULT_BYTES)
        require("result_digest", len(request.result_digest) in (0, DIGEST_BYTES))
        require("result_hash", len(request.result_hash) <= MAX_HASH_CHARS)
        return lease_message(await self._locking.complete(caller.credential, holder, completion_of(request)))

    @rpc
    async def FailLease(self, request: pb.FailLeaseRequest, caller: Caller) -> pb.Lease:  # noqa: N802 - the contract's name
        holder = _holder(request)
        require("error_code", 1 <= len(request.error_code) <= MAX_HASH_CHARS)
        require("error_hash", len(request.error_hash) <= MAX_HASH_CHARS)
        failed = await self._locking.fail(caller.credential, holder, request.error_code, request.error_hash)
        return lease_message(failed)

    @rpc
    async def CancelLease(self, request: pb.CancelLeaseRequest, caller: Caller) -> pb.Lease:  # noqa: N802 - the contract's name
        holder = _holder(request)
        require("reason", len(request.reason) <= MAX_REASON_CHARS)
        return lease_message(await self._locking.cancel(caller.credential, holder, request.reason))

    @rpc
    async def GetLease(self, request: pb.GetLeaseRequest, caller: Caller) -> pb.Lease:  # noqa: N802 - the contract's name
        lease, _ = await self._shown(request, caller, with_result=False)
        return lease_message(lease)

    @rpc
    async def GetLeaseResult(self, request: pb.GetLeaseRequest, caller: Caller) -> pb.LeaseResult:  # noqa: N802 - the contract's name
        lease, result = await self._shown(request, caller, with_result=True)
        return pb.LeaseResult(lease=lease_message(lease), result=result)

    async def _shown(
        self, request: pb.GetLeaseRequest, caller: Caller, *, with_result: bool
    ) -> tuple[Lease, bytes | None]:
        _require_key(request.key)
        require("wait_ms", 0 <= request.wait_ms <= MAX_WAIT_MS)
        return await self._locking.show(
            caller.credential, request.key, request.agent_id, wait_ms=request.wait_ms, with_result=with_result
        )


def acquired_message(granted: Granted) -> pb.AcquireLeaseResponse:
    return pb.AcquireLeaseResponse(
        lease=lease_message(granted.lease),
        lease_id=granted.lease_id,
        charged=granted.charged,
        usage=granted.usage,
        limit=granted.limit,
    )


def lease_message(lease: Lease) -> pb.Lease:
    return pb.Lease(
        status=lease.status,
        ttl_s=lease.ttl_ms // 1000,
        ttl_left_ms=lease.left_ms,
        version=lease.version,
        first_seen_at_ms=lease.first_seen_at_ms,
        done_at_ms=lease.done_at_ms,
        result_hash=lease.result_hash,
        error_code=lease.error_code,
    )


def completion_of(request: pb.CompleteLeaseRequest) -> Completion:
    """What is said of a result's hash stays as it is said; else it is the digest of the result, if there is one."""
    result = request.result if request.HasField("result") else None
    digest = ""
    if result is not None:
        digest = (request.result_digest or hashlib.sha256(result).digest()).hex()
    given = request.result_hash if request.HasField("result_hash") else None
    return Completion(result, digest if given is None else given, f"{digest}:{'' if given is None else given}")


def _question(request: pb.CheckLockRequest | pb.AcquireLeaseRequest, most_metadata: int) -> Question:
    """Errors: InvalidRequestError with the field's name."""
    _require_key(request.key)
    require("metadata", len(request.metadata) <= most_metadata)
    require("attempt_id", not request.attempt_id or ATTEMPT_ID.fullmatch(request.attempt_id) is not None)
    return Question(request.key, _ttl(request), request.metadata, request.attempt_id)


def _holder(
    request: pb.ExtendLeaseRequest | pb.CompleteLeaseRequest | pb.FailLeaseRequest | pb.CancelLeaseRequest,
) -> Holder:
    _require_key(request.key)
    require("lease_id", 1 <= len(request.lease_id) <= MAX_LEASE_ID_CHARS)
    return Holder(request.key, request.lease_id, request.version if request.HasField("version") else None)


def _ttl(request: pb.CheckLockRequest | pb.AcquireLeaseRequest | pb.ExtendLeaseRequest) -> int | None:
    if not request.HasField("ttl_s"):
        return None
    require("ttl_s", request.ttl_s >= 1)
    return request.ttl_s


def _require_key(key: str) -> None:
    require("key", 1 <= len(key) <= MAX_KEY_CHARS)
