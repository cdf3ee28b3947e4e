"""What the engine needs of its surroundings for keyed runs: the RunQueue port, which `interlock.store` implements.

As in `ports.py`, every method raises UnavailableError if Redis cannot be reached, and may be asked again.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from interlock.governance.values import dataclass
from interlock.policy.model import Scope
from interlock.policy.ports import Reservation


@dataclass(frozen=True, slots=True)
class RunName:
    """A run: its namespace, and the digest of its owner and key (64 hex digits)."""

    namespace: str
    digest: str


@dataclass(frozen=True, slots=True)
class Holding:
    """A run with the token of the worker that holds it."""

    run: RunName
    token: str


@dataclass(frozen=True, slots=True)
class Due:
    """Namespaces whose queues are due, and when they are due again (unix ms) if nobody says otherwise."""

    namespaces: Sequence[str]
    again_ms: int


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a queue that a worker took; without one `run` is None. `waiting` entries stand in the queue."""

    id: str
    run: RunName | None
    waiting: int


@dataclass(frozen=True, slots=True)
class Begun:
    """A run that a worker holds: what it was queued with, how many actions are over, how many workers were lost since
    one was, and how much is kept of what came of the actions.
    """

    plan: bytes
    done: int
    lost: int
    kept_bytes: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What a run was queued with, and what came of the actions that are over, by index."""

    plan: bytes
    outcomes: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class Granted:
    """Whom a run acts for: its agent, and the address of the key it was queued with."""

    agent_id: str
    key_address: str


@dataclass(frozen=True, slots=True)
class Assumed:
    """What earlier actions of a dry run would have used of the limits."""

    actions: int = 0
    tool_calls: int = 0
    spend_micros: int = 0


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What the ledger would say of a call; `policy_version` is the agent's, as it was read."""

    verdict: str
    reason: str
    charged_micros: int
    policy_version: int


class Foresight(Protocol):
    """The ledger, asked what it would say."""

    async def foresee(self, reservation: Reservation, assumed: Assumed) -> Foreseen:
        """What the ledger would say of a call now; changes nothing."""


class RunQueue(Foresight, Protocol):
    """Runs that wait and runs that are worked on."""

    async def due(self, limit: int, claim_ms: int) -> Due:
        """Nobody else is told of them for `claim_ms`."""

    async def schedule(self, namespace: str, due: Due, in_ms: int | None) -> None:
        """When it is due again, unless a run was queued since; None: when one is."""

    async def recover(self) -> None:
        """Makes every queue due that has entries, also where the word of it was lost."""

    async def take(self, namespace: str, worker: str, lease_ms: int) -> Entry:
        """An entry that nobody has had, or whose worker was lost."""

    async def begin(self, entry: Entry, token: str, worker: str, lease_ms: int) -> Begun | None:
        """Makes the worker the run's holder. None if there is nothing to do."""

    async def renew(self, holding: Holding, lease_ms: int) -> bool:
        """False if it is no longer held; so of all that follow."""

    async def checkpoint(self, holding: Holding, lease_ms: int, index: int, outcome: bytes) -> bool:
        """Notes what came of an action, once, and prolongs the lease."""

    async def give_back(self, holding: Holding) -> bool:
        """Another worker may take it at once."""

    async def kept(self, holding: Holding) -> Kept | None:
        """None if it is no longer held."""

    async def finish(self, holding: Holding, *, result: bytes, result_hash: str, error_code: str) -> bool:
        """Ends the run: completed, or with an error code failed."""

    async def granted(self, holding: Holding) -> Granted | None:
        """None if it is no longer held."""

    def queued(self) -> AbstractAsyncContextManager[AsyncIterator[None]]:
        """Each time a run is queued, from the moment the context is entered: a hint."""


def agent_of(name: RunName, granted: Granted) -> Scope:
    return Scope(name.namespace, granted.agent_id)
