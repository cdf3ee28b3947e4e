"""The vocabulary of the engine: frozen values that decisions are made of. Money is integer micro-USD."""

import re
from collections.abc import Mapping
from dataclasses import field
from enum import IntEnum, StrEnum
from typing import NamedTuple

from interlock.governance.values import dataclass

NAMESPACE = re.compile(r"[a-z0-9-]{1,63}", re.ASCII)
DEFAULT_NAMESPACE = "default"
"""It was always there, and cannot be deleted."""
AGENT_ID = re.compile(r"[A-Za-z0-9_.@:-]{1,128}", re.ASCII)
TOOL_NAME = re.compile(r"[a-zA-Z0-9_.:-]{1,128}", re.ASCII)
OWNER = re.compile(r"[A-Za-z0-9_.@:/-]{1,128}", re.ASCII)
ATTEMPT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
CALL_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
METHOD = re.compile(r"[A-Za-z]{1,16}", re.ASCII)
CALL_ID = re.compile(r"call_[0-9A-Za-z]{22}", re.ASCII)

MAX_SPEND_MICROS = 10**12
"""One call may declare at most a million dollars; with day limits ≤ 10^13 no Lua number reaches 10^14."""
MAX_DAY_MICROS = 10**13


class Role(IntEnum):
    """What a key may do; a greater role may do all that a lesser one may. Numbers as in the proto."""

    AGENT = 1
    VIEWER = 2
    OPERATOR = 3
    ADMIN = 4


class Verdict(StrEnum):
    """What the engine says of a call; names as in the proto and in the audit trail."""

    EXECUTE = "EXECUTE"
    REPLAY = "REPLAY"
    BLOCKED = "BLOCKED"
    IN_FLIGHT = "IN_FLIGHT"
    MISMATCH = "MISMATCH"
    UNKNOWN = "UNKNOWN"


class Outcome(StrEnum):
    """What became of a forwarded call; names as in the proto and in the audit trail."""

    SUCCEEDED = "SUCCEEDED"
    REJECTED = "REJECTED"
    NOT_SENT = "NOT_SENT"
    AMBIGUOUS = "AMBIGUOUS"


class Dedup(StrEnum):
    """How a tool's key is found."""

    DERIVED = "derived"
    HEADER = "header"
    OFF = "off"


class Scope(NamedTuple):
    """An agent in its namespace: everything one decision touches lives under it."""

    namespace: str
    agent_id: str


@dataclass(frozen=True, slots=True)
class Identity:
    """What a bearer key stands for."""

    key_id: str
    namespace: str
    role: Role
    agent_id: str = ""
    run: str = ""
    """With a run's grant instead of a key: the digest of the run."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept: its SHA-256 is its address, its value is nowhere."""

    identity: Identity
    label: str
    created_at_ms: int
    revoked_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Sealed:
    """A secret at rest: AES-256-GCM under the master key `key_id`. Nonce and ciphertext are base64."""

    key_id: str
    nonce: str
    ciphertext: str


@dataclass(frozen=True, slots=True)
class ToolSecret:
    """A signing secret. `until_ms` is 0 for the current one, else when a replaced one stops signing."""

    secret_id: str
    mask: str
    sealed: Sealed
    until_ms: int = 0


AUTHORIZATION, BEARER = "Authorization", "Bearer"


@dataclass(frozen=True, slots=True)
class OAuth2:
    """How a tool's token is had: OAuth 2.0 client credentials (RFC 6749 4.4), and how it is shown to the tool.

    `in_body` shows the client's secret in the body, not in Authorization; an empty `scheme` shows the bare token.
    """

    token_url: str
    client_id: str
    scope: str = ""
    audience: str = ""
    in_body: bool = False
    header: str = AUTHORIZATION
    scheme: str = BEARER
    params: tuple[tuple[str, str], ...] = ()
    secret: Sealed | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A registered tool.

    `managed_by` names who applied it from a file, if that gave a name. Not enabled and not `disabled_by_file`, it was
    switched off by hand.
    """

    name: str
    scope_id: str
    url: str
    timeout_ms: int = 15_000
    max_retries: int = 2
    enabled: bool = True
    description: str = ""
    methods: tuple[str, ...] = ("POST",)
    subpaths: bool = False
    dedup: Dedup | None = None
    dedup_ttl_s: int = 86_400
    dedup_ignore: tuple[str, ...] = ()
    dedup_run_id: bool = False
    hold: bool = False
    read_only: bool = False
    risk: str = "low"
    replay_max_bytes: int = 65_536
    secrets: tuple[ToolSecret, ...] = ()
    upstream_header: str = ""
    upstream_value: Sealed | None = None
    upstream_oauth2: OAuth2 | None = None
    upstream_mask: str = ""
    managed_by: str = ""
    disabled_by_file: bool = False
    revision: int = 0
    updated_at_ms: int = 0
    fails_open: bool = False
    open_max_calls_per_minute: int = 10
    reconcile_url: str = ""
    reconcile_deadline_s: int = 86_400
    reconcile_timeout_ms: int = 5_000
    disabled_reason: str = ""
    disabled_at_ms: int = 0
    disabled_by: str = ""


@dataclass(frozen=True, slots=True)
class PricingRule:
    """What a call of the tools that `tool` (a name or `*` glob) matches costs."""

    tool: str
    price_micros: int


@dataclass(frozen=True, slots=True)
class Policy:
    """What an agent may do. None is no limit.

    `allow_read_only` allows tools that are declared to change nothing, beside `allowed_tools`. With neither of the two,
    everything is allowed that is not blocked.
    """

    allowed_tools: tuple[str, ...] | None = None
    blocked_tools: tuple[str, ...] = ()
    max_actions_per_hour: int | None = None
    max_spend_micros_per_day: int | None = None
    max_calls_per_tool: Mapping[str, int] = field(default_factory=dict)
    pricing_rules: tuple[PricingRule, ...] = ()
    on_anomaly: str = ""
    allow_read_only: bool = False


@dataclass(frozen=True, slots=True)
class VersionedPolicy:
    """An agent's policy as stored; version 0 and None where there is none.

    `risk` is what an anomaly made of the agent's calls until `risk_until_ms`: it moves the version as a policy does.
    """

    policy: Policy | None = None
    version: int = 0
    managed_by: str = ""
    risk: str = ""
    risk_until_ms: int = 0


@dataclass(frozen=True, slots=True)
class Switch:
    """A kill switch. Pulled, nothing goes through. `changed_by` is the id of a key; `changed_at_us` is Redis' time, 0
    where it is not known so exactly.
    """

    pulled: bool = False
    reason: str = ""
    changed_at_ms: int = 0
    changed_by: str = ""
    changed_at_us: int = 0


class DefaultRule(StrEnum):
    """What holds for an agent without a policy of its own: `engine` is what the engine's settings say."""

    ENGINE = "engine"
    ALLOW = "allow"
    DENY = "deny"
    POLICY = "policy"


@dataclass(frozen=True, slots=True)
class DefaultPolicy:
    """A namespace's rule for agents without a policy of their own; a policy comes with the rule `policy` alone."""

    rule: DefaultRule = DefaultRule.ENGINE
    policy: Policy | None = None


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace as it is kept. No plan is the engine's default. Revision 0: there is no record of it.

    `run_handler` is the tool that keyed runs without actions are given to; empty for none.
    """

    name: str
    description: str = ""
    plan: str = ""
    default_policy: DefaultPolicy = DefaultPolicy()
    created_at_ms: int = 0
    deleted_at_ms: int = 0
    revision: int = 0
    run_handler: str = ""

    @property
    def exists(self) -> bool:
        return self.name == DEFAULT_NAMESPACE or (self.revision > 0 and not self.deleted_at_ms)


class Epochs(NamedTuple):
    """Versions of the two things a decision takes from outside its agent's slot. Any change raises one."""

    world: int = 0
    namespace: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A namespace as the engine knows it, true as of `epochs`.

    Tools are by (scope_id, name); `read_at_us` is Redis' time.
    """

    epochs: Epochs
    world_switch: Switch
    namespace_switch: Switch
    tools: Mapping[tuple[str, str], Tool]
    namespace: Namespace
    read_at_us: int = 0

    def tool_for(self, agent_id: str, name: str) -> Tool | None:
        """The tool an agent means: its own hides the global one of that name."""
        return self.tools.get((f"agent:{agent_id}", name)) or self.tools.get(("global", name))


@dataclass(frozen=True, slots=True)
class Terms:
    """The policy a call is held to, None where nothing is allowed; `origin` stands before the rules of one that is not
    the agent's own.
    """

    policy: Policy | None
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """The numbers a decision is held to; -1 is no limit. `cost_micros` is what this call will charge."""

    cost_micros: int
    actions_per_hour: int = -1
    calls_of_tool: int = -1
    spend_micros_per_day: int = -1


@dataclass(frozen=True, slots=True)
class Ruling:
    """What lists and switches say of a call, before anything is counted. An empty reason is no objection."""

    reason: str = ""
    matched_rule: str = ""


@dataclass(frozen=True, slots=True)
class Permit:
    """A reservation. `lease_ms` counts from before Authorize was sent; `fence` grows with every reservation.

    `run_id` is empty for a call of no run.
    """

    scope: Scope
    tool: str
    key: str
    call_id: str
    fence: int
    attempt_id: str
    lease_ms: int
    run_id: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A tool's answer. `head` is opaque to the engine; the body is empty unless `kept`."""

    status: int
    head: bytes = b""
    body: bytes = b""
    kept: bool = True
    size: int = 0
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class Remaining:
    """What is left of each limit after a decision; -1 where there is none."""

    actions: int = -1
    calls_of_tool: int = -1
    spend_micros: int = -1
    day_resets_in_ms: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision as it was written. `basis` are the epochs it was judged on."""

    verdict: Verdict
    reason: str
    call_id: str
    basis: Epochs
    permit: Permit | None = None
    answer: Answer | None = None
    failure: str = ""
    retry_after_ms: int = 0
    charged_micros: int = 0
    remaining: Remaining = field(default_factory=Remaining)


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a settlement was taken. Not `applied`: the permit was stale; it is recorded and changed nothing."""

    applied: bool
    outcome: Outcome
    charged_micros: int


@dataclass(frozen=True, slots=True)
class CallRecord:
    """What is kept of a key. State: in_flight, expired, unknown, succeeded or open. Times unix ms."""

    call_id: str
    agent_id: str
    tool: str
    key: str
    state: str
    first_seen_ms: int
    lease_until_ms: int
    charged_micros: int
    fence: int
    tries: int
    status: int


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the audit trail; `seq` is gapless per agent, `facts` is what the writer knew beside."""

    seq: int
    at_ms: int
    type: str
    agent_id: str
    tool: str
    call_id: str
    verdict: str
    reason: str
    charged_micros: int
    facts: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Figures:
    """An agent's figures over a period."""

    actions: int
    blocked: int
    spend_micros: int
    by_tool: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class ChainPoint:
    """How far a chain of hashes has come: the seq of an event, and its SHA-256 in hex."""

    seq: int
    hash: str


NO_EXPORT = -1
"""The backlog cap where nothing is exported."""
GENESIS = "0" * 64
"""What the first event of a chain holds for the hash of the one before it."""


@dataclass(frozen=True, slots=True)
class TrailState:
    """An agent's trail as it stands. `last_seq` is 0 for an agent without events.

    `sinks` says how far each has got, `heads` up to where a head was signed for it; `points` are all that are known of
    the chain. `folding`: refusals were counted in a minute that may be over.
    """

    scope: Scope
    last_seq: int
    folding: bool
    sinks: Mapping[str, ChainPoint]
    heads: Mapping[str, int]
    points: tuple[ChainPoint, ...]

    def seq_of(self, sink: str) -> int:
        """How far a sink has got; 0 if it has nothing."""
        return self.sinks[sink].seq if sink in self.sinks else 0

    def chain_before(self, seq: int) -> ChainPoint | None:
        """The newest known point before an event."""
        return max((point for point in self.points if point.seq < seq), key=lambda point: point.seq, default=None)


@dataclass(frozen=True, slots=True)
class Progress:
    """A sink has durably got an agent's events up to `point`, whose event happened at `at_ms`; perhaps a head, too."""

    scope: Scope
    sink: str
    point: ChainPoint
    at_ms: int
    head_seq: int | None = None


@dataclass(frozen=True, slots=True)
class AgentStanding:
    """How an agent stands now. `running` calls hold a lease; of `unknown` ones nobody knows whether they happened."""

    agent_id: str
    switch: Switch
    policy: VersionedPolicy
    last_seen_ms: int
    actions_in_hour: int
    actions_per_minute: float
    spend_today_micros: int
    blocked_today: int
    running: int
    unknown: int
