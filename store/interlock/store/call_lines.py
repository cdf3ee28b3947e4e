"""The lines that a call writes into the timeline of its run, read as events. `include/timeline.lua` writes them."""

import json
from collections.abc import Mapping
from typing import Any

from interlock.policy.timeline_ports import TimelineEvent

MICROS = 1_000_000
TOLD = ("args_hash", "risk_level", "matched_rule", "method", "outcome", "status", "size")
"""Of the facts of a decision or a settlement, what a timeline shows."""


def event_of_call(kept: Mapping[str, Any], run_id: str, second: int, at_ms: int, number: int) -> TimelineEvent:
    """One line: when it happened (unix s) and was recorded (unix ms); `number` tells it from others of its strand."""
    call_id, facts = kept.get("call", ""), kept.get("facts", {})
    data = {name: kept[name] for name in ("decision", "policy_reason") if kept.get(name)}
    data |= {"http_status" if name == "status" else name: facts[name] for name in TOLD if name in facts}
    if "charged" in kept:
        data["spend_usd"] = kept["charged"] / MICROS
    return TimelineEvent(
        event_id=f"ev_{call_id.removeprefix('call_') or kept['attempt']}_{number}",
        run_id=run_id,
        type=kept["type"],
        ts=second,
        agent_id=kept["agent"],
        status=kept["status"],
        tool=kept["tool"],
        req_id=call_id,
        message=kept.get("message", ""),
        duration_ms=kept.get("ms"),
        data=json.dumps(data, separators=(",", ":")) if data else "",
        recorded_at_ms=at_ms,
    )
