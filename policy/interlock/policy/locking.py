"""Locks and leases: who may have what, at what cost, and for how long.

Each act is one script on the namespace's slot, which compares the epoch that was judged on: the caller's key, its plan
and the namespace's switch are as it was judged, or nothing is written and it is judged again. What stands in other
slots, the global switch and the agent's, is read right behind the script; a grant that they speak against is withdrawn.
"""

import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from interlock.governance.errors import ConflictError, DeniedError, ExhaustedError, NotFoundError, UnavailableError
from interlock.governance.ids import new_id
from interlock.governance.values import dataclass, replace
from interlock.policy import access, rules
from interlock.policy.credentials import Credential
from interlock.policy.knowledge import Knowledge, Standing
from interlock.policy.lock_ports import (
    AcquiredWord,
    After,
    Completion,
    Grounds,
    Held,
    Lease,
    LeaseStatus,
    LeaseWord,
    Locks,
    LockWord,
    Named,
    Queued,
    Shown,
    Wanted,
)
from interlock.policy.model import Identity, Role, Scope
from interlock.policy.plans import Plan, Plans
from interlock.policy.ports import Directory
from interlock.policy.rates import Rates
from interlock.policy.run_timeline import RunTimeline
from interlock.policy.waiting import Waits

log = structlog.get_logger(__name__)

ROUNDS = 8
"""How often an act is judged again before we say that what it rests on will not hold still."""
MAX_WAIT_MS = 60_000
GRANTED = ("LOCKED", "ACQUIRED")

Word = TypeVar("Word", LockWord, AcquiredWord)


@dataclass(frozen=True, slots=True)
class Question:
    """A lock or a lease that is asked for. `metadata` is a JSON object or empty, an empty `attempt_id` is none.

    With a `run`, that is queued with the lease.
    """

    key: str
    ttl_s: int | None = None
    metadata: bytes = b""
    attempt_id: str = ""
    run: Queued | None = None


@dataclass(frozen=True, slots=True)
class Holder:
    """What a holder shows of a lease; a `version` of None is any."""

    key: str
    lease_id: str
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease as it was acquired or found; `limit` None is none, and `lease_id` is empty for all but the holder."""

    lease: Lease
    lease_id: str
    charged: int
    usage: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question as it is judged in one round."""

    wanted: Wanted
    plan: Plan
    world: int


class Locking:
    """Judges and carries out what is asked of locks and leases."""

    def __init__(
        self,
        locks: Locks,
        directory: Directory,
        knowledge: Knowledge,
        plans: Plans,
        rates: Rates,
        run_timeline: RunTimeline,
    ) -> None:
        self._locks = locks
        self._run_timeline = run_timeline
        self._rates = rates
        self._directory = directory
        self._knowledge = knowledge
        self._plans = plans
        self._waits = Waits(locks)
        self._draining = False

    async def close(self) -> None:
        await self._waits.close()

    def drain(self) -> None:
        """Whoever waits is answered with what is known."""
        self._draining = True
        self._waits.release()

    async def check(self, credential: Credential, question: Question) -> LockWord:
        """Locks a key, or finds it locked.

        Errors: ExhaustedError `payment_required`, DeniedError `kill_switch`, `agent_disabled` among them.
        """

        def limit(plan: Plan) -> int | None:
            return plan.check_locks_per_month

        async def act(asked: _Asked) -> LockWord:
            word = await self._locks.check(asked.wanted)
            if word.word == "LOCKED" and _is_withdrawn(asked, word):
                await self._locks.withdraw_lock(asked.wanted, word.month)
            return word

        _, word = await self._wanted(credential, question, "lock", limit, act)
        return word

    async def acquire(self, credential: Credential, question: Question) -> Granted:
        """Takes a lease, or says how it stands. Of a run its worker is the holder, and nobody is told the lease's id.

        Errors: as `check`, and ExhaustedError `run_queue_full`.
        """

        def limit(plan: Plan) -> int | None:
            return plan.runs_per_month

        async def act(asked: _Asked) -> AcquiredWord:
            word = await self._locks.acquire(asked.wanted)
            if word.word != "ACQUIRED" or not _is_withdrawn(asked, word):
                return word
            withdrawn = await self._locks.withdraw_lease(asked.wanted, word.month)
            if withdrawn is None and question.run is not None:
                # A worker was through with it before this came: that stands, as each of its actions was judged.
                return replace(word, after=After(asked.world, agent_off=False))
            if withdrawn is not None:
                await self._run_timeline.cut_short(asked.wanted.named, withdrawn, "withdrawn")
            return word

        asked, word = await self._wanted(credential, question, "lease", limit, act)
        lease = _known(word.lease)
        if word.took_over:
            log.warning("lease.taken_over", **_named(asked.wanted.named), version=lease.version)
        lease_id = word.lease_id if question.run is None else ""
        return Granted(lease, lease_id, word.charged, word.used, asked.plan.runs_per_month)

    async def cancel_run(self, credential: Credential, key: str, agent_id: str, reason: str) -> Lease:
        """Ends a run, whoever works on it. Errors: NotFoundError, ConflictError `lease_settled`, `lease_not_held`."""
        identity = await self._knowledge.authenticate(credential)
        owner = acting_owner(identity)
        if agent_id:
            owner = access.acting_agent(identity, agent_id)
        run = named(owner, key)
        word, dequeued = await self._locks.cancel_run(run, reason)
        lease = _settled(word)
        await self._run_timeline.cut_short(run, dequeued, reason or "cancelled")
        return lease

    async def extend(self, credential: Credential, holder: Holder, ttl_s: int | None) -> Lease:
        """Errors: NotFoundError `not_found`, ConflictError `lease_not_held`, DeniedError as `check`."""

        async def act(held: Held, standing: Standing) -> LeaseWord:
            plan = self._plans.of(standing.snapshot.namespace)
            reason = await self._switch_reason(standing, held.named.owner)
            ttl_ms = 0 if ttl_s is None else plan.ttl_s(ttl_s) * 1000
            word = await self._locks.extend(held, reason, ttl_ms, plan.max_ttl_s * 1000)
            if word.word == "SWITCHED":
                raise _switched(reason)
            return word

        # Nothing is withdrawn that was prolonged, so the switches are looked at as they are now.
        return await self._held(credential, holder, act, fresh=True)

    async def complete(self, credential: Credential, holder: Holder, completion: Completion) -> Lease:
        """Errors: NotFoundError `not_found`, ConflictError `lease_not_held`, `lease_settled`."""

        async def act(held: Held, _: Standing) -> LeaseWord:
            return await self._locks.complete(held, completion)

        return await self._held(credential, holder, act)

    async def fail(self, credential: Credential, holder: Holder, error_code: str, error_hash: str) -> Lease:
        """Errors: as `complete`."""

        async def act(held: Held, _: Standing) -> LeaseWord:
            word = await self._locks.fail(held, error_code, error_hash)
            if word.word == "DONE":
                log.info("lease.failed", **_named(held.named), error_code=error_code)
            return word

        return await self._held(credential, holder, act)

    async def cancel(self, credential: Credential, holder: Holder, reason: str) -> Lease:
        """Errors: as `complete`."""

        async def act(held: Held, _: Standing) -> LeaseWord:
            return await self._locks.cancel(held, reason)

        return await self._held(credential, holder, act)

    async def show(
        self, credential: Credential, key: str, agent_id: str, *, wait_ms: int, with_result: bool
    ) -> tuple[Lease, bytes | None]:
        """How a lease stands once it is no longer in progress, or after `wait_ms`; and the result, if asked for.

        Errors: NotFoundError `not_found`, DeniedError.
        """
        await self._admit(credential)
        until = time.monotonic() + min(wait_ms, MAX_WAIT_MS) / 1000
        while True:
            owner, shown = await self._look(credential, key, agent_id, with_result=with_result)
            lease = _known(shown.lease)
            left_ms = int((until - time.monotonic()) * 1000)
            if lease.status is not LeaseStatus.IN_PROGRESS or left_ms <= 0 or self._draining:
                return lease, shown.result
            await self._waits.until_over(owner, digest_of(owner, key), left_ms)

    async def _wanted(
        self,
        credential: Credential,
        question: Question,
        kind: str,
        limit: Callable[[Plan], int | None],
        act: Callable[[_Asked], Awaitable[Word]],
    ) -> tuple[_Asked, Word]:
        """Asks, until it was judged on what still held right behind it."""
        await self._admit(credential)
        for _ in range(ROUNDS):
            asked = await self._asked(credential, question, kind, limit)
            word, reason = await act(asked), asked.wanted.grounds.switch_reason
            if word.word == "MOVED" or (word.after.world != asked.world and word.word in ("SWITCHED", *GRANTED)):
                await self._knowledge.refresh(asked.wanted.named.owner.namespace)
                continue
            if word.word == "FULL":
                raise ExhaustedError("run_queue_full", "too many runs of this namespace wait; try again later")
            if word.word == "EXHAUSTED":
                raise _exhausted(asked.plan, limit(asked.plan), word.used)
            if word.word == "SWITCHED" or (word.after.agent_off and word.word in GRANTED):
                raise _switched(reason or "agent_disabled")
            return asked, word
        raise _unsettled()

    async def _asked(
        self, credential: Credential, question: Question, kind: str, limit: Callable[[Plan], int | None]
    ) -> _Asked:
        standing = await self._standing(credential)
        owner = acting_owner(standing.identity)
        plan, epochs = self._plans.of(standing.snapshot.namespace), standing.snapshot.epochs
        most = limit(plan)
        wanted = Wanted(
            named=named(owner, question.key),
            grounds=Grounds(epochs.namespace, await self._switch_reason(standing, owner)),
            token=new_id(kind),
            attempt_id=question.attempt_id,
            ttl_ms=plan.ttl_s(question.ttl_s) * 1000,
            limit=-1 if most is None else most,
            metadata=question.metadata,
            run=question.run,
        )
        return _Asked(wanted, plan, epochs.world)

    async def _held(
        self,
        credential: Credential,
        holder: Holder,
        act: Callable[[Held, Standing], Awaitable[LeaseWord]],
        *,
        fresh: bool = False,
    ) -> Lease:
        for _ in range(ROUNDS):
            standing = await self._standing(credential, fresh=fresh)
            owner = acting_owner(standing.identity)
            epoch = standing.snapshot.epochs.namespace
            word = await act(Held(named(owner, holder.key), epoch, holder.lease_id, holder.version), standing)
            if word.word != "MOVED":
                return _settled(word)
            await self._knowledge.refresh(owner.namespace)
        raise _unsettled()

    async def _look(self, credential: Credential, key: str, agent_id: str, *, with_result: bool) -> tuple[Scope, Shown]:
        for _ in range(ROUNDS):
            standing = await self._standing(credential)
            owner = readable_owner(standing.identity, agent_id)
            shown = await self._locks.show(named(owner, key), with_result=with_result)
            epochs = standing.snapshot.epochs
            if (shown.world, shown.namespace) == (epochs.world, epochs.namespace):
                return owner, shown
            await self._knowledge.refresh(owner.namespace)
        raise _unsettled()

    async def _standing(self, credential: Credential, *, fresh: bool = False) -> Standing:
        """Who asks, with a snapshot of the namespace that is acted in."""
        if credential.namespace:
            identity = await self._knowledge.authenticate(credential, counted=False)
            return Standing(identity, await self._knowledge.up_to_date(identity.namespace))
        standing = await self._knowledge.identify(credential.key)
        if fresh and await self._knowledge.up_to_date(standing.identity.namespace) is not standing.snapshot:
            return await self._knowledge.identify(credential.key)
        return standing

    async def _admit(self, credential: Credential) -> None:
        """Counts a request; one under a lease that is held is none. Errors: ExhaustedError `rate_limited`."""
        if credential.namespace:
            await self._knowledge.authenticate(credential)
            return
        standing = await self._knowledge.identify(credential.key)
        refusal = await self._rates.refusal(standing.snapshot.namespace)
        if refusal is None:
            return
        snapshot = await self._knowledge.up_to_date(standing.identity.namespace)
        if snapshot is standing.snapshot or (await self._rates.refusal(snapshot.namespace)) is not None:
            raise refusal

    async def _switch_reason(self, standing: Standing, owner: Scope) -> str:
        reason = rules.switches(standing.snapshot).reason
        if reason or not owner.agent_id:
            return reason
        return "agent_disabled" if (await self._directory.agent_switch(owner)).pulled else ""


def acting_owner(identity: Identity) -> Scope:
    """Whose what an identity makes is: an agent's own, or its namespace's. Errors: DeniedError for a viewer."""
    if identity.role is not Role.AGENT:
        access.require(identity, Role.OPERATOR)
    return Scope(identity.namespace, identity.agent_id)


def readable_owner(identity: Identity, agent_id: str) -> Scope:
    """Whose is read: an agent's own, or for a viewer the namespace's or that of the agent that is named.

    Errors: DeniedError for another's, InvalidRequestError.
    """
    if identity.role is Role.AGENT or agent_id:
        return access.readable_agent(identity, agent_id or identity.agent_id)
    return Scope(identity.namespace, "")


def named(owner: Scope, key: str) -> Named:
    return Named(owner, key, digest_of(owner, key))


def digest_of(owner: Scope, key: str) -> str:
    """By what a key is kept, 64 hex digits: whose it is, is part of it, each part behind its length."""
    parts = (b"interlock/lock/1", owner.namespace.encode(), owner.agent_id.encode(), key.encode())
    return hashlib.sha256(b"".join(len(part).to_bytes(4) + part for part in parts)).hexdigest()


def _is_withdrawn(asked: _Asked, word: LockWord | AcquiredWord) -> bool:
    return word.after.world != asked.world or word.after.agent_off


def _settled(word: LeaseWord) -> Lease:
    """Errors: NotFoundError, ConflictError."""
    lease = _known(word.lease)
    if word.word == "LOST":
        raise ConflictError("lease_not_held", "this lease_id does not hold the lease, or no longer")
    if word.word == "SETTLED":
        raise ConflictError("lease_settled", f"the lease is {lease.status} already, and not as said now")
    return lease


def _known(lease: Lease | None) -> Lease:
    if lease is None:
        raise NotFoundError("not_found", "there is no lease of that key")
    return lease


def _exhausted(plan: Plan, limit: int | None, used: int) -> ExhaustedError:
    message = f"the plan {plan.name} allows {limit} of these in a month"
    return ExhaustedError("payment_required", message, plan=plan.name, limit=str(limit), usage=str(used))


def _switched(reason: str) -> DeniedError:
    whose = "this agent is switched off" if reason == "agent_disabled" else "a kill switch is pulled"
    return DeniedError(reason, f"{whose}: nothing is locked, leased or extended")


def _unsettled() -> UnavailableError:
    return UnavailableError("governance_unavailable", "what this rests on changed faster than it could be judged")


def _named(of: Named) -> dict[str, str]:
    return {"namespace": of.owner.namespace, "agent": of.owner.agent_id, "digest": of.digest}
