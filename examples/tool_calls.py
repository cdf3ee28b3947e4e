"""Tool calls: executed once, answered from the record after that, and refused where policy says so."""

import secrets

from back_end import SECRET, serving

from interlock.client import Interlock

mark = secrets.token_hex(4)
agent, tool = f"shopper-{mark}", f"charge-{mark}"

with Interlock() as interlock, serving() as url:
    interlock.governance.put_tool(tool, url, secret=SECRET, max_retries=0, risk="high")
    interlock.governance.put_policy(agent, {"max_spend_usd_per_day": 10})
    for cents in (990, 990, 100):
        told = interlock.run_tool(agent, tool, {"cents": cents}, spend_usd=cents / 100, run_id=f"run-{mark}")
        print(told.decision, told.policy_reason, told.result, f"risk: {told.risk_level}")
    failed = interlock.run_tool(agent, tool, {"fail": True})
    print(failed.decision, failed.policy_reason, failed.ok)
