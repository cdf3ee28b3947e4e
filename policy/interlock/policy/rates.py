"""How many requests a minute a namespace's plan allows, whoever of it asks, whatever for, at whichever engine.

Every RPC with a key counts, and every governed call; what goes on under a call that was let through does not. Kill
switches are never refused for this: a crowd must not keep anybody from stopping it.
"""

from interlock.governance.errors import ExhaustedError
from interlock.policy.account_ports import Requests
from interlock.policy.model import Namespace
from interlock.policy.plans import Plans


class Rates:
    """Counts requests where a plan limits them, and asks nobody where it does not."""

    def __init__(self, requests: Requests, plans: Plans) -> None:
        self._requests = requests
        self._plans = plans

    async def refusal(self, namespace: Namespace, attempt: str = "") -> ExhaustedError | None:
        """Why this request must wait: `rate_limited`, or None if it was counted. An attempt is counted once."""
        plan = self._plans.shown(namespace)
        limit = plan.requests_per_minute
        if limit is None:
            return None
        admission = await self._requests.admit(namespace.name, limit, attempt)
        if admission.admitted:
            return None
        message = f"the plan {plan.name} allows {limit} requests a minute"
        wait_s = -(-admission.retry_after_ms // 1000)
        return ExhaustedError("rate_limited", message, plan=plan.name, limit=str(limit), retry_after_s=str(wait_s))
