"""`POST /v1/ai/run` as the OpenAPI document tells it. The pipeline of calls answers it, see `run_route.py`."""

from typing import Any, Literal

from interlock.proxy.api.answer import Answer
from interlock.proxy.api.leases import LeaseAnswer
from interlock.proxy.api.operation import Operation
from interlock.proxy.run_keyed import KeyedRunBody
from interlock.proxy.run_route import PATH, RunBody


class RunAnswer(Answer):
    """What was decided about a call, and what the tool said."""

    ok: bool
    """Whether the tool has done it, now or before."""
    allowed: bool
    """Whether it was let through, or answered from the record."""
    decision: Literal["executed", "dedup", "blocked"]
    """What became of it."""
    policy_reason: str
    """Why: `ok`, `tool_error`, `tool_idempotency`, or the reason of the refusal."""
    risk_level: str | None
    """The risk that was seen in it."""
    result: dict[str, Any] | None
    """What the tool answered: its object, another JSON value as `{"value": …}`; of a tool that failed, why."""


RUN = Operation(
    "POST",
    PATH,
    None,
    "Run, a tool or a key",
    RunAnswer | LeaseAnswer,
    body=RunBody | KeyedRunBody,
    description="With `key` it is a keyed run: a worker executes its `metadata.actions`, and the answer is its lease's."
    "\n\nWith `agent_id` and `tool` it is a call of that tool, answered 200 whatever was decided. `args.run_id`"
    " names the run, and is no part of what makes two calls the same. A call that is running already is waited for.",
    refusals=(402, 409),
    takes={
        "Idempotency-Key": "Names the call: with the same key it happens once. Without one, calls are the same if"
        " their content is.",
        "Interlock-Run-Id": "Names the run; `args.run_id` goes before it.",
    },
    headers={
        "Interlock-Decision": "What became of the call.",
        "Interlock-Call-Id": "The call in the audit trail, once it was judged.",
        "RateLimit": "What is left of the limits that hold.",
        "RateLimit-Policy": "The limits that hold.",
    },
    example={"agent_id": "shopper", "tool": "payments.charge", "args": {"amount": 5}, "spend_usd": 0.05},
)
