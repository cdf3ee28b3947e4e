"""What the engine needs of its surroundings, as small protocols, which `interlock.store` implements.

Every method raises UnavailableError if Redis cannot be reached; what it asked for may or may not have happened
then, and may be asked again: each of them is idempotent.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from interlock.governance.errors import ExhaustedError
from interlock.governance.values import dataclass
from interlock.policy.model import (
    AgentStanding,
    Answer,
    ApiKey,
    CallRecord,
    Decision,
    Epochs,
    Event,
    Figures,
    Limits,
    Namespace,
    Outcome,
    Permit,
    Policy,
    Progress,
    Scope,
    Settlement,
    Snapshot,
    Switch,
    Tool,
    TrailState,
    VersionedPolicy,
)


@dataclass(frozen=True, slots=True)
class Reservation:
    """One call put to the ledger: what was judged so far, and what the ledger must count.

    `switch_reason` and `rule_reason` are the engine's rulings, empty for no objection. A call that is not `repeatable`
    can never come again under its key. `quota_reason` says that the namespace's plan leaves no room for it, which
    matters only if it would cost something. `facts` is a JSON object kept with the event. `basis` and `policy_version`
    say what the rulings rest on. A call of a run (`run_id`) is told of in its timeline; `part_of_run`: others tell of
    the run's beginning and end.
    """

    scope: Scope
    attempt_id: str
    call_id: str
    key: str
    fingerprint: str
    tool: str
    policy_version: int
    switch_reason: str
    rule_reason: str
    limits: Limits
    lease_ms: int
    hold: bool
    ttl_ms: int
    will_wait: bool
    awaited_call_id: str
    basis: Epochs
    facts: str
    repeatable: bool = True
    quota_reason: str = ""
    run_id: str = ""
    part_of_run: bool = False


@dataclass(frozen=True, slots=True)
class DegradedCall:
    """A call that went through unjudged, put to the ledger: what it cost by the rules, and what became of it.

    `age_ms` is how long ago it was let through; `ttl_ms` how long its success is replayed. Else as `Reservation`.
    """

    scope: Scope
    attempt_id: str
    call_id: str
    key: str
    fingerprint: str
    tool: str
    outcome: Outcome
    cost_micros: int
    fence: int
    repeatable: bool
    ttl_ms: int
    age_ms: int
    reason: str
    failure: str
    answer: Answer | None
    facts: str
    run_id: str = ""


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """How it was taken. Not `recorded`: it was on record before."""

    recorded: bool
    charged_micros: int


@dataclass(frozen=True, slots=True)
class PolicyMoved:
    """The policy is no longer the one the ruling rests on; nothing was written."""

    policy: VersionedPolicy


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision, and the epochs as they were right after it."""

    decision: Decision
    epochs: Epochs


@dataclass(frozen=True, slots=True)
class Renewed:
    """RENEWED, LOST or DISABLED, with the agent's policy version then, and the epochs right after it."""

    word: str
    policy_version: int
    epochs: Epochs


@dataclass(frozen=True, slots=True)
class Room:
    """How many tools a namespace may have under its plan; -1 is no limit. The plan's name says what this rests on."""

    plan: str
    tools: int


ANY_NUMBER = Room("", -1)


class NoRoomError(ExhaustedError):
    """The namespace has as many tools as its plan allows."""


class Ledger(Protocol):
    """Decisions, settlements and what they count."""

    async def authorize(self, reservation: Reservation) -> Decided | PolicyMoved:
        """Decides a call and records the decision, in one step. The same attempt gets the same decision."""

    async def withdraw(self, reservation: Reservation, decision: Decision) -> None:
        """Takes a decision back that rests on epochs which have moved."""

    async def abandon(self, scope: Scope, attempt_id: str) -> None:
        """Takes back what an attempt reserved, or will never reserve, because nobody heard its decision."""

    async def renew(self, permit: Permit, lease_ms: int) -> Renewed: ...

    async def settle(
        self, permit: Permit, outcome: Outcome, answer: Answer | None, failure: str, *, event: str, facts: str
    ) -> Settlement:
        """Records what became of a call, once; a repetition, or a stale permit, changes nothing.

        `failure` says why there is no answer; `event` is what the trail calls it: settlement, resolution or withdrawal;
        `facts` is a JSON object kept with it.
        """

    async def record_degraded(self, call: DegradedCall) -> RecordedCall:
        """Counts, charges and records it once, and settles its key unless that is another call's by now."""

    async def call(self, scope: Scope, call_id: str) -> tuple[CallRecord, Permit] | None:
        """A call's record with the permit it runs or ran under, or None if it is not, or no longer, known."""

    async def open_calls(self, scope: Scope) -> Sequence[CallRecord]:
        """Running and unknown calls, by end of lease."""

    async def events(self, scope: Scope, *, after_seq: int, limit: int) -> Sequence[Event]:
        """At most `limit` events with a greater seq, in its order."""

    async def latest_events(self, scope: Scope, *, before_seq: int | None, limit: int) -> Sequence[Event]:
        """At most `limit` events with a lower seq (None: the last ones), newest first."""

    async def figures(self, scope: Scope, period: str) -> Figures:
        """Over `hour` (the running minute and 60 before), `day` (the running hour and 24 before) or `week` (168)."""

    async def running(self, scope: Scope, call_id: str) -> int:
        """How long the call's lease still holds, ms; 0 if it is no longer running."""

    def settled(self) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Ids of calls that had waiters, as they settle, from the moment the context is entered."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a trail stands: the seq and the time of an event, 0 before the first one."""

    seq: int = 0
    at_ms: int = 0


class Overview(Protocol):
    """What is read of many agents at once, a few round trips for all of them."""

    async def standings(self, scopes: Sequence[Scope]) -> Sequence[AgentStanding]:
        """How each stands, in their order; of one nobody knows, that nothing is."""

    async def now_ms(self) -> int:
        """The time by which events are recorded."""

    async def seen_since(self, namespace: str, at_ms: int) -> Sequence[str]:
        """Agents that an engine met at or after that time."""

    async def ends(self, scopes: Sequence[Scope], before_ms: int) -> Mapping[Scope, Position]:
        """The last event of each that was recorded before that time."""

    async def news(self, after: Mapping[Scope, int], limit: int) -> Mapping[Scope, Sequence[Event]]:
        """For each agent at most `limit` events after a seq, in its order; agents without are left out."""

    async def last_of(self, upto: Mapping[Scope, int], limit: int) -> Mapping[Scope, Sequence[Event]]:
        """For each agent its last `limit` events up to a seq, in its order."""


@dataclass(frozen=True, slots=True)
class ToolChange:
    """A tool before and after: None before it is there, None after it is deleted; the very same is left alone."""

    before: Tool | None
    after: Tool | None


@dataclass(frozen=True, slots=True)
class RunReservation:
    """Whether an attempt has a run of the month, how many are used with it, and when that was (unix ms)."""

    granted: bool
    used: int
    at_ms: int


class Quotas(Protocol):
    """What namespaces use of what their plans limit."""

    async def reserve_run(self, scope: Scope, attempt_id: str, limit: int) -> RunReservation:
        """A run for an attempt, which keeps the one it has; a limit of -1 is none."""

    async def release_run(self, scope: Scope, attempt_id: str) -> None:
        """Gives it back, once, unless it was used up."""

    async def use_run(self, scope: Scope, attempt_id: str) -> None:
        """It will not be given back any more."""

    async def used_runs(self, namespace: str) -> int:
        """Runs of the running month, as a plan with a limit counts them."""


class Directory(Protocol):
    """Tools, policies, switches, keys and agents."""

    async def snapshot(self, namespace: str) -> Snapshot:
        """Switches and tools, at least as new as the epochs that come with them."""

    async def epochs(self, namespace: str) -> Epochs:
        """As they are now."""

    def changes(self) -> AbstractAsyncContextManager[AsyncIterator[str | None]]:
        """Namespaces (None: all of them) whose epochs are raised, from the moment the context is entered.

        A hint: nobody is told again of what was missed.
        """

    async def policy(self, scope: Scope) -> VersionedPolicy:
        """An agent's policy; version 0 without one."""

    async def policies(self, scopes: Sequence[Scope]) -> Sequence[VersionedPolicy]:
        """The same for many, in their order, in one round trip."""

    async def put_policy(
        self,
        scope: Scope,
        policy: Policy,
        facts: str,
        *,
        managed_by: str | None = None,
        replaces: int | None = None,
    ) -> int:
        """Returns the new version, or 0 if the version is no longer `replaces` (None: any will do).

        `managed_by` None leaves it whose it is.
        """

    async def delete_policy(self, scope: Scope, facts: str, *, replaces: int | None = None) -> int | None:
        """Returns the new version, 0 if there was none, or None if the version is no longer `replaces`."""

    async def switch_agent(self, scope: Scope, switch: Switch, facts: str) -> Switch:
        """Pulls or lifts an agent's switch; pulled again, it keeps the time of the first pull."""

    async def agent_switch(self, scope: Scope) -> Switch:
        """As it stands; lifted for an agent nobody knows."""

    async def agent_switches(self, scopes: Sequence[Scope]) -> Sequence[Switch]:
        """The same for many, in their order, in one round trip."""

    async def put_tool(
        self, namespace: str, tool: Tool, replaces: Tool | None, *, room: Room = ANY_NUMBER, facts: str = "{}"
    ) -> Tool | None:
        """The tool with its revision, or None if another change came first. Raises NoRoomError."""

    async def change_tools(
        self, namespace: str, changes: Sequence[ToolChange], *, room: Room = ANY_NUMBER, facts: str = "{}"
    ) -> int | None:
        """All of them in one step: the revision of those that are put, or None if another change came first.

        Raises NoRoomError.
        """

    async def delete_tool(self, namespace: str, scope_id: str, name: str, *, facts: str = "{}") -> bool:
        """False if there was none."""

    async def set_switch(self, namespace: str | None, switch: Switch, *, facts: str = "{}") -> Switch:
        """Of a namespace, or (None) of everything."""

    async def create_key(self, sha256_hex: str, key: ApiKey, *, facts: str = "{}") -> bool:
        """False if that key existed before, revoked or not."""

    async def key(self, sha256_hex: str) -> ApiKey | None:
        """A key by the SHA-256 of its value, revoked ones included."""

    async def keys(self, namespace: str) -> Sequence[ApiKey]:
        """All of a namespace, oldest first."""

    async def revoke_key(self, namespace: str, key_id: str, *, facts: str = "{}") -> ApiKey | None:
        """Ends a key for every engine's next decision. None if the namespace has no such key."""

    async def namespace(self, name: str) -> Namespace:
        """Its record; revision 0 without one."""

    async def trail(self, namespace: str | None, *, after_seq: int, limit: int) -> Sequence[Event]:
        """What was changed in a namespace (None: of the global switch), in the order of its seq."""

    async def namespaces(self) -> Sequence[Namespace]:
        """All that have a record, deleted ones included, by name."""

    async def put_namespace(
        self, namespace: Namespace, month: str, runs: int, *, facts: str = "{}"
    ) -> Namespace | None:
        """The namespace with its new revision, or None if another change came first: the revision given is the one
        replaced. `runs` were let through in `month` so far, at least.
        """

    async def delete_namespace(self, namespace: Namespace, *, force: bool, facts: str = "{}") -> Namespace | None:
        """As it then stands, or None if another change came first. Raises ConflictError `namespace_in_use` if it has
        tools.
        """

    async def see_agent(self, scope: Scope) -> None:
        """Puts an agent into its namespace's index."""

    async def agents(self, namespace: str) -> Sequence[str]:
        """Those seen in the last 400 days, by name."""

    async def check(self) -> str:
        """Why the store must not be used (its `maxmemory-policy`, its version); empty if it may."""


@dataclass(frozen=True, slots=True)
class HeldCall:
    """A call that must not be repeated, as it stands. Times are ms, and of Redis' clock.

    `lease_over_ms` is how long its lease has been over, negative while it holds; `lease_ms` how long it was at first, 0
    if that is not known; `left` says that nobody is asked about it any more. `facts` is the JSON object that was kept
    with its decision, empty if that is not known.
    """

    permit: Permit
    unknown: bool
    lease_over_ms: int
    lease_ms: int
    age_ms: int
    first_seen_ms: int
    tries: int
    facts: str
    left: bool


@dataclass(frozen=True, slots=True)
class Taken:
    """Held calls that were due, those of them that are over, and how many are known to be unknown in all."""

    unknown: int
    calls: Sequence[HeldCall]
    over: Sequence[tuple[Scope, str]]


class Held(Protocol):
    """Calls that must not be repeated: when each is looked at, by one engine at a time."""

    async def take(self, limit: int, claim_ms: int) -> Taken:
        """Those that are due, at most `limit`, in two round trips; nobody else gets them for `claim_ms`."""

    async def schedule(self, scope: Scope, key: str, in_ms: int | None, *, unknown: bool) -> None:
        """When the call of that key is due again; None: never."""

    async def forget(self, over: Sequence[tuple[Scope, str]]) -> None:
        """These need no looking after any more."""

    async def hold(self, permit: Permit, patience_ms: int) -> bool:
        """Whether the call is unknown: it was so, or its lease has been over for `patience_ms` and it now is."""

    async def leave(self, permit: Permit, reason: str, facts: str) -> bool:
        """Records, once, that nobody is asked about an unknown call any more. False if it was before."""


class Trails(Protocol):
    """Every agent's trail, for who exports it."""

    async def namespaces(self) -> Sequence[str]:
        """All there are, by name."""

    async def agents(self, namespace: str) -> Sequence[Scope]:
        """Those of a namespace that may have a trail."""

    async def take_grown(self, limit: int) -> Sequence[Scope]:
        """Agents whose trails have grown, at most `limit` of a namespace; who takes them must see to them.

        A hint may be lost with who gave or took it, so all trails must be looked through now and then.
        """

    async def states(self, scopes: Sequence[Scope]) -> Sequence[TrailState]:
        """In their order, in one round trip."""

    async def read(self, after: Sequence[tuple[Scope, int]], limit: int) -> Sequence[Sequence[Event]]:
        """At most `limit` events of each, with a greater seq and in its order, in one round trip.

        What was folded in a minute that is over has become an event.
        """

    async def note(
        self, progress: Sequence[Progress], befores: Sequence[int], sinks: Sequence[str], fence: int
    ) -> Sequence[bool]:
        """Notes how far a sink has got, in one round trip, and trims what all `sinks` have and nobody needs.

        One word each: False, and nothing is noted, if the sink was not at the seq that stood there `before`, or if an
        exporter with a higher fence has been there.
        """

    async def lead(self, holder: str, ttl_ms: int) -> int | None:
        """Takes or keeps the lease by which one exporter at a time works: its fence, or None while another has it."""

    async def stop_leading(self, holder: str) -> None:
        """Gives the lease back."""
