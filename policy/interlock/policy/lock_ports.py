"""Locks and leases, and what the engine needs to keep them. Errors are those of `ports`.

Whose a lock or a lease is, is a Scope: an agent, or with an empty `agent_id` the namespace itself.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Protocol

from interlock.governance.values import dataclass
from interlock.policy.model import Scope


class LeaseStatus(StrEnum):
    """How a lease stands; names as in the contract."""

    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as it stands. `version` grows whenever it is taken; times are unix ms."""

    status: LeaseStatus
    version: int
    ttl_ms: int
    left_ms: int
    first_seen_at_ms: int
    done_at_ms: int = 0
    result_hash: str = ""
    error_code: str = ""


@dataclass(frozen=True, slots=True)
class Named:
    """A key: whose, as the caller writes it, and the digest by which it is kept."""

    owner: Scope
    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class Grounds:
    """What a grant rests on: the namespace's epoch, and why nothing is granted, empty for no objection."""

    epoch: int
    switch_reason: str = ""


@dataclass(frozen=True, slots=True)
class Queued:
    """A run to be queued with its lease: what it is to do, as whom, and the address of the key that wants it."""

    plan: bytes
    agent_id: str
    key_address: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """A lock or lease that is asked for. `token` names this asking: of a lease it is the id; `limit` -1 is none.

    With a `run`, a worker is to hold the lease.
    """

    named: Named
    grounds: Grounds
    token: str
    attempt_id: str
    ttl_ms: int
    limit: int
    metadata: bytes = b""
    run: Queued | None = None


@dataclass(frozen=True, slots=True)
class After:
    """What was read right after a grant: the world's epoch, and whether the agent's switch is pulled."""

    world: int
    agent_off: bool


@dataclass(frozen=True, slots=True)
class LockWord:
    """What became of a wanted lock.

    `word` is LOCKED, DUPLICATE, SWITCHED, EXHAUSTED, or MOVED (the namespace's epoch; nothing was written). `used` are
    the locks charged to `month`.
    """

    word: str
    ttl_ms: int
    first_seen_at_ms: int
    used: int
    month: str
    after: After


@dataclass(frozen=True, slots=True)
class LeaseWord:
    """What became of an act on a lease.

    `word` is ACQUIRED, POLLING, OVER, SWITCHED, EXHAUSTED or FULL (the queue) of one that is wanted, EXTENDED, DONE,
    SWITCHED, LOST or SETTLED of one that is held, UNKNOWN where there is none, and MOVED if the namespace's epoch did:
    then nothing was written.
    """

    word: str
    lease: Lease | None


@dataclass(frozen=True, slots=True)
class Dequeued:
    """A run taken out of its queue: its entry there, the plan (JSON), how many actions are over, whether it was begun.

    An empty entry is none.
    """

    entry: str
    plan: bytes
    done: int
    begun: bool


@dataclass(frozen=True, slots=True)
class AcquiredWord:
    """The same of one that is wanted, with what it cost. `took_over`: it had run out in another's hands."""

    word: str
    lease: Lease | None
    lease_id: str
    charged: int
    used: int
    month: str
    took_over: bool
    after: After


@dataclass(frozen=True, slots=True)
class Held:
    """What a caller shows who holds a lease; `version` None is any."""

    named: Named
    epoch: int
    lease_id: str
    version: int | None


@dataclass(frozen=True, slots=True)
class Completion:
    """A result (None: there is none) with its hash; by `proof` the same completion is known."""

    result: bytes | None
    result_hash: str
    proof: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A lease (None: there is none), the result if that was asked for, and the epochs right after: world, namespace."""

    lease: Lease | None
    result: bytes | None
    world: int
    namespace: int


class Locks(Protocol):
    """Locks and leases. Each act is one step."""

    async def check(self, wanted: Wanted) -> LockWord:
        """Locks a key unless it is locked, and charges it. The same token or attempt gets the same word."""

    async def withdraw_lock(self, wanted: Wanted, month: str) -> None:
        """Takes a lock back that was granted on what is no longer true, with its charge."""

    async def acquire(self, wanted: Wanted) -> AcquiredWord:
        """Takes a lease nobody holds whose work is not over, and charges it. Its token or attempt gets it again."""

    async def cancel_run(self, named: Named, reason: str) -> tuple[LeaseWord, Dequeued]:
        """Ends a run, whoever holds it."""

    async def withdraw_lease(self, wanted: Wanted, month: str) -> Dequeued | None:
        """As `withdraw_lock`, a run whoever holds it. None if it is in progress no longer: then it stands as it is."""

    async def extend(self, held: Held, switch_reason: str, ttl_ms: int, most_ms: int) -> LeaseWord:
        """From now; a `ttl_ms` of 0 is what it was last for."""

    async def complete(self, held: Held, completion: Completion) -> LeaseWord: ...

    async def fail(self, held: Held, error_code: str, error_hash: str) -> LeaseWord: ...

    async def cancel(self, held: Held, reason: str) -> LeaseWord: ...

    async def show(self, named: Named, *, with_result: bool) -> Shown: ...

    async def running(self, scope: Scope, call_id: str) -> int:
        """How long the lease of that digest still holds, ms; 0 if it is not in progress."""

    def settled(self) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Digests of leases, as they are settled, from the moment the context is entered."""
