"""What the events of a trail say of an agent's behaviour, and what of them is worth telling. Pure functions."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from interlock.policy.alert_ports import Sighting
from interlock.policy.alerts import AlertKind, Incident
from interlock.policy.anomalies import Act, Deed
from interlock.policy.model import Outcome, Verdict

REFUSING = frozenset({Verdict.BLOCKED, Verdict.MISMATCH, Verdict.UNKNOWN})
BLOCKING = frozenset({Verdict.BLOCKED, Verdict.UNKNOWN})
FAILING = frozenset({Outcome.REJECTED, Outcome.AMBIGUOUS})
UNREACHED = ("upstream_", "destination_refused", "no_token")
"""Why a call of which nothing was sent failed at its tool, and not at us."""


def deeds_of(seen: Iterable[Sighting]) -> list[Deed]:
    """What the agent did, in order. Money that was returned is spend of less than nothing."""
    return [deed for sighting in seen if (deed := _deed(sighting)) is not None]


def _deed(seen: Sighting) -> Deed | None:
    at, tool = seen.at_ms, seen.tool
    if seen.type == "degraded" or (seen.type == "decision" and seen.verdict == Verdict.EXECUTE):
        return Deed(Act.CALLED, at, tool, charged_micros=seen.charged_micros)
    if seen.type in ("decision", "refusals") and seen.verdict in REFUSING:
        count = count_of(seen) if seen.type == "refusals" else 1
        return Deed(Act.REFUSED, at, tool, seen.reason, count)
    if seen.type == "switch" and seen.verdict == "LIFTED":
        return Deed(Act.ENABLED, at)
    return Deed(Act.CALLED, at, tool, count=0, charged_micros=seen.charged_micros) if seen.charged_micros < 0 else None


def incidents_of(seen: Iterable[Sighting]) -> list[Incident]:
    """What somebody is to be told of."""
    return [incident for sighting in seen if (incident := _incident(sighting)) is not None]


def _incident(seen: Sighting) -> Incident | None:
    match seen.type:
        case "decision" if seen.verdict in BLOCKING:
            return _of_call(AlertKind.BLOCKED_CALL, seen)
        case "refusals" if seen.verdict in BLOCKING:
            facts = facts_of(seen)
            first = int(facts.get("first_at", seen.at_ms))
            return Incident(AlertKind.BLOCKED_CALL, seen.tool, seen.reason, seen.at_ms, count_of(seen), first)
        case "settlement" | "reconciliation" if _failed(seen):
            return _of_call(AlertKind.TOOL_ERROR, seen)
        case "failure":
            return _of_run(seen)
        case "anomaly":
            facts = facts_of(seen) | {"seq": seen.seq}
            return Incident(AlertKind.ANOMALY, seen.tool, seen.reason, seen.at_ms, facts=facts, folds=False)
    return None


def _of_call(kind: AlertKind, seen: Sighting) -> Incident:
    """The call that is named is the first of those that are told together."""
    named = ("matched_rule", "args_hash", "run_id", "status", "key_id")
    facts = facts_of(seen)
    about = {name: facts[name] for name in named if facts.get(name)}
    return Incident(kind, seen.tool, seen.reason or "tool_error", seen.at_ms, facts={"call_id": seen.call_id, **about})


def _of_run(seen: Sighting) -> Incident:
    facts = facts_of(seen)
    agent_id = str(facts.pop("agent_id", ""))
    return Incident(AlertKind.RUN_FAILED, "", seen.reason or "failed", seen.at_ms, facts=facts, agent_id=agent_id)


def _failed(seen: Sighting) -> bool:
    if seen.type == "reconciliation":
        return True
    if seen.verdict == Outcome.NOT_SENT:
        return seen.reason.startswith(UNREACHED)
    return seen.verdict in FAILING


def refusals_of(seen: Sequence[Sighting]) -> frozenset[tuple[str, str]]:
    """Tools, and the reasons that their calls were refused for."""
    return frozenset((one.tool, one.reason) for one in seen if one.verdict == Verdict.BLOCKED)


def count_of(seen: Sighting) -> int:
    """How many refusals one event tells together."""
    return int(facts_of(seen).get("count", 1))


def facts_of(seen: Sighting) -> dict[str, Any]:
    facts = json.loads(seen.facts)
    return facts if isinstance(facts, dict) else {}
