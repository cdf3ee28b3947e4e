"""The vocabulary of a call on its way: intercept → identify → authorize → sign → forward → settle.

Everything here is frozen. A stage takes a `Call` and returns a fuller one; what no stage has said yet is empty.
"""

import math
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import field
from enum import StrEnum
from typing import Protocol, TypeAlias

from interlock.governance.v1 import governance_pb2 as pb
from interlock.governance.values import dataclass
from interlock.proxy.fingerprint import Fingerprint

Headers = tuple[tuple[str, str], ...]
Outcome: TypeAlias = "pb.Outcome.ValueType"

NO_FINGERPRINT = Fingerprint(call=b"", arguments=b"")

WHOLE_DEADLINE = math.inf
"""A wait as long as the tool itself may take."""


class Decision(StrEnum):
    """What became of a call, in the one word of the `Interlock-Decision` header."""

    EXECUTED = "executed"
    DEDUP = "dedup"
    BLOCKED = "blocked"
    IN_FLIGHT = "in_flight"
    MISMATCH = "mismatch"
    UNKNOWN = "unknown"
    ERROR = "error"


_DECISIONS = {
    pb.VERDICT_UNSPECIFIED: Decision.ERROR,
    pb.VERDICT_EXECUTE: Decision.EXECUTED,
    pb.VERDICT_REPLAY: Decision.DEDUP,
    pb.VERDICT_BLOCKED: Decision.BLOCKED,
    pb.VERDICT_IN_FLIGHT: Decision.IN_FLIGHT,
    pb.VERDICT_MISMATCH: Decision.MISMATCH,
    pb.VERDICT_UNKNOWN: Decision.UNKNOWN,
    pb.VERDICT_TOOL_CHANGED: Decision.ERROR,
}


@dataclass(frozen=True, slots=True)
class Incoming:
    """An agent's request, read whole, before anybody judged it. `target` is the raw request target, `deadline` when the
    agent gives up, monotonic seconds.
    """

    method: str
    target: str
    headers: Headers
    body: bytes
    request_id: str = ""
    deadline: float = math.inf


@dataclass(frozen=True, slots=True)
class Ask:
    """What an agent asks for, whichever way it came. `subpath`, `query` and `arguments` are raw.

    `path` is what the fingerprint knows the call by. `agent_id` is empty for an agent's own key. `traced_by_argument`
    says that the arguments' `run_id` is tracing, unless the tool makes an argument of it; `part_of_run` that others
    tell of the run's beginning and end. `wider_tool` is meant if `tool` does not exist. `run_action` counts the actions
    of a keyed run from 1, with the digest of what was queued.
    """

    tool: str = ""
    wider_tool: str = ""
    method: str = "POST"
    path: str = ""
    subpath: str = ""
    query: str = ""
    content_type: str = ""
    arguments: bytes = b""
    headers: Headers = ()
    credential: str = ""
    agent_id: str = ""
    idempotency_key: str = ""
    spend_micros: int = 0
    run_id: str = ""
    traced_by_argument: bool = False
    part_of_run: bool = False
    wait_s: float = 0.0
    run_action: int = 0
    run_action_digest: bytes = b""


@dataclass(frozen=True, slots=True)
class Lease:
    """How long a permit holds: monotonic seconds, counted from before it was asked for."""

    until: float = 0.0
    length_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Draft:
    """What goes to the tool, all but the signatures: those bear the time of each try."""

    method: str = ""
    url: str = ""
    headers: Headers = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Forwarded:
    """What became of a call at its tool.

    Without an answer `status` is 0 and `failure` says why; with a status and a failure the answer broke off. `headers`
    are those the agent may see, `body` what was collected, all of it if `whole`. `final` rules out another try.
    `passed` says that the head has left to the agent: `last` is then what is withheld until the call is settled.
    `trailers` are a gRPC tool's, with its status.
    """

    outcome: Outcome = pb.OUTCOME_UNSPECIFIED
    status: int = 0
    headers: Headers = ()
    trailers: Headers = ()
    body: bytes = b""
    whole: bool = False
    size: int = 0
    digest: bytes = b""
    failure: str = ""
    retry_after_s: float | None = None
    final: bool = False
    passed: bool = False
    last: bytes = b""
    upstream_s: float = 0.0

    @property
    def answered(self) -> bool:
        """Whether the tool's answer came, to its end."""
        return self.status != 0 and not self.failure


class Agent(Protocol):
    """The agent's end of one call, while the tool's answer still comes. Nothing here fails if the agent has left."""

    @property
    def begun(self) -> bool:
        """Whether the head of an answer has left."""

    @property
    def gone(self) -> bool:
        """Whether the agent was seen to have left, or to take nothing any more."""

    @property
    def takes_pieces(self) -> bool:
        """False if this agent is only ever given the whole."""

    async def begin(self, call: "Call", head: Forwarded) -> None:
        """The head leaves, before the call is settled."""

    async def pass_on(self, piece: bytes) -> None:
        """A piece of the body leaves."""


class Entrance(Protocol):
    """One way in: how a request is read, which requests a tool takes by it, and what the tool is sent."""

    async def read(self, incoming: Incoming) -> Ask:
        """What is asked for. Errors: InvalidRequestError, UnauthenticatedError, `busy`."""

    def refusal(self, ask: Ask, tool: pb.ToolRoute) -> Exception | None:
        """Why this tool does not take this request, if so."""

    def draft(self, call: "Call") -> Draft:
        """What the tool is sent."""


class SentTrace(Protocol):
    """The trace of one try of a call at its tool."""

    def on(self, draft: Draft) -> Draft:
        """The draft with this try as the parent of what the tool traces (W3C Trace Context)."""

    def ended(self, tried: Forwarded) -> None:
        """What became of the try."""


class CallTrace(Protocol):
    """The trace of one call on its way."""

    @property
    def trace_id(self) -> str:
        """32 hex digits; empty where the SDK is disabled."""

    async def through(self, stage: Callable[["Call"], Awaitable["Call"]], call: "Call") -> "Call":
        """Takes the call through a stage, which has a span of its own if it is worth one."""

    def sending(self, call: "Call", tries: int) -> AbstractContextManager[SentTrace]:
        """A try, while the context is open."""

    def ended(self, call: "Call", reason: str, *, failed: bool) -> None:
        """The call is over; `failed` says that a stage raised an error, whose reason this is."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call, as far as the stages have come with it.

    `degraded` says why the verdict is the sidecar's own, if it is: nobody could be asked.
    """

    entrance: Entrance
    agent: Agent
    incoming: Incoming
    ask: Ask = Ask()
    fingerprint: Fingerprint = NO_FINGERPRINT
    tool: pb.ToolRoute = field(default_factory=pb.ToolRoute)
    verdict: pb.AuthorizeResponse = field(default_factory=pb.AuthorizeResponse)
    lease: Lease = Lease()
    draft: Draft = Draft()
    forwarded: Forwarded = Forwarded()
    settled: bool = False
    degraded: str = ""
    began: float = field(default_factory=time.monotonic)
    trace: CallTrace | None = None

    @property
    def goes_on(self) -> bool:
        """False once the engine has decided that the tool is not to be called."""
        return self.verdict.verdict in (pb.VERDICT_UNSPECIFIED, pb.VERDICT_EXECUTE)

    @property
    def executed(self) -> bool:
        return self.verdict.verdict == pb.VERDICT_EXECUTE

    @property
    def decision(self) -> Decision:
        if self.executed and self.forwarded.outcome == pb.OUTCOME_NOT_SENT:
            return Decision.ERROR
        return _DECISIONS[self.verdict.verdict]

    @property
    def held(self) -> bool:
        """Whether the same call is not let through again: it may have happened, and its tool must not repeat it."""
        ambiguous = self.executed and self.forwarded.outcome == pb.OUTCOME_AMBIGUOUS
        return ambiguous and self.tool.on_ambiguous == pb.ON_AMBIGUOUS_HOLD and self.repeatable

    @property
    def repeatable(self) -> bool:
        """Whether the engine takes the same call for the same: what `DedupMode` says, unless the agent sent a key."""
        mode = self.tool.dedup_mode
        off = mode == pb.DEDUP_MODE_OFF
        if mode == pb.DEDUP_MODE_UNSPECIFIED:
            off = self.tool.read_only or self.ask.method in ("GET", "HEAD")
        return bool(self.ask.idempotency_key or self.ask.run_action) or not off

    @property
    def reason(self) -> str:
        """The stable reason of what became of the call."""
        return self.forwarded.failure or self.verdict.reason
