"""What alerts need of their surroundings, as small protocols. Where Redis is away the store raises UnavailableError."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from interlock.governance.letters import Mail, Post, Sent
from interlock.policy.alerts import Alert, Channel, Delivery, DeliveryState, Fold
from interlock.policy.anomalies import Anomaly, Behaviour, Usual
from interlock.policy.model import Scope, Sealed


@dataclass(frozen=True, slots=True)
class Sighting:
    """An event of a trail as the watcher sees it; `facts` is JSON that is read only where it is needed."""

    seq: int
    at_ms: int
    type: str
    tool: str
    call_id: str
    verdict: str
    reason: str
    charged_micros: int
    facts: bytes


@dataclass(frozen=True, slots=True)
class Watched:
    """How far an agent's trail has been looked at, and all that further looks rest on.

    `told_budgets` are marks by their name, `folds` what waits to be told by kind and tool.
    """

    seq: int = 0
    behaviour: Behaviour = field(default_factory=Behaviour)
    folds: Mapping[str, Fold] = field(default_factory=dict)
    told_budgets: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Raised:
    """One step of watching: what is to stand after it instead of the record `before` (empty: none), and the alerts that
    it raises, each with the channels it is to go by.
    """

    scope: Scope
    before: str
    after: Watched
    alerts: Sequence[tuple[Alert, tuple[Channel, ...]]] = ()


class Watch(Protocol):
    """Agents' trails as the watcher reads them, and where it stands."""

    async def lead(self, holder: str, ttl_ms: int) -> int | None:
        """Takes or keeps the lease by which one watcher at a time works: its fence, or None while another has it."""

    async def stop_leading(self, holder: str) -> None:
        """Gives the lease back."""

    async def now_ms(self) -> int:
        """The time by which events are recorded."""

    async def since_ms(self) -> int:
        """When anybody watched first: what was recorded before is not looked at."""

    async def records(self, scopes: Sequence[Scope]) -> Mapping[Scope, str]:
        """Where watching stands, of those agents that were looked at."""

    def watched_of(self, record: str) -> Watched:
        """What a record says."""

    async def past(self, scope: Scope) -> Behaviour:
        """What an agent did before it was watched, as far as its counters tell."""

    async def news(self, after: Mapping[Scope, int], limit: int) -> Mapping[Scope, Sequence[Sighting]]:
        """For each agent at most `limit` events after a seq, in its order; agents without are left out."""

    async def usual(self, scope: Scope, now_ms: int) -> Usual:
        """The agent's usual rate."""

    async def calls_today(self, scope: Scope, tools: Sequence[str], now_ms: int) -> Mapping[str, int]:
        """Calls of each tool in the UTC day."""

    async def note_anomaly(self, scope: Scope, anomaly: Anomaly, evidence: "Evidence") -> bool:
        """Records it in the agent's trail, raises its risk and, if asked to, pulls its switch, in one step and once.

        False, and nothing is written: an anomaly of that subject was noted lately, or the agent has been enabled since.
        """

    async def commit(self, steps: Sequence[Raised]) -> Sequence[str | None]:
        """Takes each step, the alerts with it, if what stands there is still its `before`: the record as it is then.

        None: it was another's, and nothing is written.
        """

    async def forget(self, namespace: str, agents: Sequence[str]) -> None:
        """Drops where watching stands, of agents that are gone."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an anomaly rests on: the last event that was looked at, and what follows from it."""

    seq: int
    disable: bool
    quiet_ms: int
    risk_ms: int


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a namespace's alerts go by its own word; empty and None: as the engine's settings say."""

    webhook_url: str = ""
    secret: Sealed | None = None
    secret_mask: str = ""
    recipients: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery to be tried now."""

    namespace: str
    alert: Alert
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Listed:
    """An alert with its deliveries."""

    alert: Alert
    deliveries: tuple[Delivery, ...]


class Outbox(Protocol):
    """Alerts that were raised, and their deliveries."""

    async def destination(self, namespace: str) -> Destination:
        """Where a namespace's alerts go."""

    async def put_destination(self, namespace: str, destination: Destination | None, facts: str) -> None:
        """Says where; None: as the engine's settings say. `facts` stand in the namespace's trail."""

    async def take(self, namespaces: Sequence[str], limit: int, claim_ms: int) -> Sequence[Due]:
        """Deliveries that are due, at most `limit` of each namespace; nobody else gets them for `claim_ms`."""

    async def conclude(self, due: Due, delivery: Delivery, again_in_ms: int) -> bool:
        """Says how a try went; a waiting one is due again in that time. False if the alert is gone."""

    async def listed(self, namespace: str, state: DeliveryState | None, limit: int) -> Sequence[Listed]:
        """Alerts, newest first."""

    async def redeliver(self, namespace: str, alert_id: str) -> int:
        """Has dead letters of an alert (empty: of all) tried again; how many that were."""


class Courier(Protocol):
    """Posts and mails. Never fails: what goes wrong is told."""

    async def post(self, post: Post) -> Sent: ...

    async def mail(self, mail: Mail) -> Sent: ...


class AlertRecorder(Protocol):
    """Where figures go. One method an event."""

    def watches(self, *, leads: bool) -> None:
        """Whether it is this engine that watches."""

    def anomaly(self, kind: str) -> None:
        """An anomaly was recorded."""

    def alert_raised(self, kind: str) -> None:
        """An alert was raised."""

    def alert_tried(self, channel: str, outcome: str) -> None:
        """A delivery was tried: `delivered`, `failed` (it is tried again) or `dead`."""
