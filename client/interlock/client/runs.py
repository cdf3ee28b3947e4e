"""Calls of tools, and keyed runs that a worker of Interlock's executes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from interlock.client.leases import LeaseAnswer, LeaseChange
from interlock.client.reading import read
from interlock.client.request import Request, operation
from interlock.client.retrying import Repeat

JsonObject = Mapping[str, object]

TOOL_TIMEOUT_S = 120.0
"""A tool may take as long as its own registration says, and a duplicate waits for the first; this is for both."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What became of a call: `decision` is `executed`, `dedup` (answered from the record) or `blocked`.

    `policy_reason` says why, `ok` whether the tool succeeded, now or then; `result` is its JSON object.
    """

    ok: bool
    allowed: bool
    decision: str
    policy_reason: str | None = None
    risk_level: str | None = None
    result: dict[str, Any] | None = None

    @property
    def executed(self) -> bool:
        return self.decision == "executed"

    @property
    def blocked(self) -> bool:
        return not self.allowed


@dataclass(frozen=True, slots=True)
class Action:
    """One call of a keyed run."""

    tool: str
    args: JsonObject = field(default_factory=dict)
    spend_usd: float | None = None

    def as_json(self) -> dict[str, object]:
        spend = {} if self.spend_usd is None else {"spend_usd": self.spend_usd}
        return {"tool": self.tool, "args": dict(self.args), **spend}


class RunOperations:
    """What Interlock executes."""

    @operation
    def run_tool(
        self,
        agent_id: str,
        tool: str,
        args: JsonObject | None = None,
        *,
        spend_usd: float | None = None,
        run_id: str | None = None,
        idempotency_key: str | None = None,
        timeout_s: float = TOOL_TIMEOUT_S,
    ) -> Request[ToolResult]:
        """Calls a tool as an agent. A refusal is no error but a result, with `blocked` and the reason.

        Without an `idempotency_key` the tool's `dedup` says which calls are the same. With one, a call whose answer is
        lost is tried again, whatever the tool; without, only if it certainly did not happen.
        """
        body = {"agent_id": agent_id, "tool": tool, "args": args or None, "spend_usd": spend_usd}
        return Request(
            "POST",
            ("ai", "run"),
            lambda answer: read(ToolResult, answer.json),
            body=body,
            headers={"Idempotency-Key": quoted(idempotency_key), "Interlock-Run-Id": run_id},
            repeat=Repeat.HARMLESS if idempotency_key else Repeat.HARMFUL_UNLESS_UNAVAILABLE,
            timeout_s=timeout_s,
        )

    @operation
    def run(
        self,
        key: str,
        *,
        actions: Sequence[Action] | None = None,
        agent_id: str | None = None,
        ttl: int | None = None,
        run_id: str | None = None,
        dry_run: bool | None = None,
        metadata: JsonObject | None = None,
    ) -> Request[LeaseAnswer]:
        """Starts a run, or finds it started: one for each `key`. A worker executes up to 50 `actions` as `agent_id`.

        `metadata` holds further facts, or, without actions, the arguments of the namespace's handler.
        """
        listed = None if actions is None else [action.as_json() for action in actions]
        given = {"agent_id": agent_id, "run_id": run_id, "dry_run": dry_run, "actions": listed}
        told = {name: value for name, value in given.items() if value is not None}
        return Request(
            "POST",
            ("ai", "run"),
            lambda answer: read(LeaseAnswer, answer.json),
            body={"key": key, "ttl": ttl, "metadata": {**(metadata or {}), **told} or None},
        )

    @operation
    def cancel_run(self, key: str, *, reason: str | None = None, agent_id: str | None = None) -> Request[LeaseChange]:
        """Ends a run, whether it waits or is worked on; what it did stands. An operator names whose it is (`agent_id`).

        Errors: NotFoundError; ConflictError if it is over.
        """
        return Request(
            "POST",
            ("ai", "run", "cancel"),
            lambda answer: read(LeaseChange, answer.json),
            body={"key": key, "reason": reason, "agent_id": agent_id},
        )


def quoted(key: str | None) -> str | None:
    """An `Idempotency-Key` as the IETF draft has it, a quoted string; characters that no header has are not let in."""
    if key is None:
        return None
    if not key or not key.isascii() or not key.isprintable():
        raise ValueError("an idempotency key is 1-256 printable ASCII characters")
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
