"""Logs and metrics: what an agent did, exactly."""

import secrets

from back_end import SECRET, serving

from interlock.client import Interlock

mark = secrets.token_hex(4)
agent, tool = f"busy-{mark}", f"search-{mark}"

with Interlock() as interlock, serving() as url:
    interlock.governance.put_tool(tool, url, secret=SECRET, dedup={"mode": "off"})
    interlock.governance.put_policy(agent, {"max_actions_per_hour": 3})
    for _ in range(5):
        interlock.run_tool(agent, tool, spend_usd=0.25)
    newest_first = interlock.governance.logs(agent)
    print([item.decision for item in newest_first])
    metrics = interlock.governance.metrics(agent, "hour")
    print(metrics.total_actions, "actions,", metrics.blocked_actions, "blocked,", metrics.total_spend_usd, "USD")
    print("top tool:", metrics.top_tools[0].tool == tool)
