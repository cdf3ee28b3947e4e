"""Risk and anomalies: an agent that asks for the same forbidden thing again and again is stopped by its own policy."""

import secrets
from time import sleep

from back_end import SECRET, serving

from interlock.client import Interlock

mark = secrets.token_hex(4)
agent, wipe, look = f"wild-{mark}", f"wipe-{mark}", f"look-{mark}"

with Interlock() as interlock, serving() as url:
    governance = interlock.governance
    for tool in (wipe, look):
        governance.put_tool(tool, url, secret=SECRET)
    governance.put_policy(agent, {"blocked_tools": [wipe], "on_anomaly": "disable"})
    before = interlock.run_tool(agent, look)
    print(before.decision, "risk:", before.risk_level)
    for attempt in range(12):
        interlock.run_tool(agent, wipe, {"attempt": attempt})
    while governance.agent(agent).is_enabled:  # whoever watches reads the audit trail, a moment later
        sleep(0.1)
    reason = governance.agent(agent).disabled_reason or ""
    print("disabled:", reason.partition(" (")[0])
    after = interlock.run_tool(agent, look, {"again": True})
    print(after.decision, after.policy_reason, "risk:", after.risk_level)
