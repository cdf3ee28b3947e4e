"""What a keyed run is to do, and what is told of it in the end."""

import hashlib
from collections.abc import Mapping

import orjson

from interlock.governance.values import dataclass

MAX_ACTIONS = 50
MAX_RESULT_BYTES = 1_048_576
WORKER_LOST = "worker_lost"


@dataclass(frozen=True, slots=True)
class PlannedAction:
    """One call of a tool; `args` is the JSON text of an object, as it was sent."""

    tool: str
    args: str
    declared_micros: int = 0


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run as it is queued."""

    agent_id: str
    run_id: str
    dry_run: bool
    actions: tuple[PlannedAction, ...]

    def as_json(self) -> bytes:
        return orjson.dumps(
            {
                "agent_id": self.agent_id,
                "run_id": self.run_id,
                "dry_run": self.dry_run,
                "actions": [[action.tool, action.args, action.declared_micros] for action in self.actions],
            }
        )


def plan_from_json(raw: bytes) -> RunPlan:
    kept = orjson.loads(raw)
    actions = tuple(PlannedAction(*action) for action in kept["actions"])
    return RunPlan(kept["agent_id"], kept["run_id"], kept["dry_run"], actions)


def result_of(plan: RunPlan, outcomes: Mapping[int, bytes], error_code: str) -> tuple[bytes, str]:
    """The result of a run, a JSON object with an entry for each action that is over, and its SHA-256 in hex."""
    told = orjson.dumps(
        {
            "run_id": plan.run_id,
            "agent_id": plan.agent_id,
            "dry_run": plan.dry_run,
            "planned": len(plan.actions),
            "error_code": error_code or None,
        }
    )
    result = b'%b,"actions":[%b]}' % (told[:-1], b",".join(outcomes[index] for index in sorted(outcomes)))
    return result, hashlib.sha256(result).hexdigest()
