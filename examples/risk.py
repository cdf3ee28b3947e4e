"""Risk and anomalies: an agent that runs wild is stopped by its own policy."""

import secrets

from back_end import SECRET, serving

from interlock.client import Interlock

mark = secrets.token_hex(4)
agent, tool = f"wild-{mark}", f"wipe-{mark}"

with Interlock() as interlock, serving() as url:
    interlock.governance.put_tool(tool, url, secret=SECRET, risk="high")
    policy = interlock.governance.put_policy(agent, {"blocked_tools": [tool], "on_anomaly": "disable"}).policy
    print("on anomaly:", policy.on_anomaly)
    refused = interlock.run_tool(agent, tool, {"all": True})
    print(refused.policy_reason, "risk:", refused.risk_level)
