"""Policies: from a template, with overrides, and prices that no agent can under-declare."""

import secrets

from back_end import SECRET, serving

from interlock.client import Interlock

mark = secrets.token_hex(4)
agent, tool = f"support-{mark}", f"search-{mark}"

with Interlock() as interlock, serving() as url:
    governance = interlock.governance
    governance.put_tool(tool, url, secret=SECRET, dedup={"mode": "off"})
    prices = [{"tool": tool, "price_usd": 0.5}]
    limits = {"allowed_tools": [tool], "max_calls_per_tool": {tool: 2}, "pricing_rules": prices}
    policy = governance.policy_from_template(agent, "moderate", limits).policy
    print("allowed:", policy.allowed_tools == (tool,), "calls a day:", policy.max_calls_per_tool == {tool: 2})
    print([interlock.run_tool(agent, tool).policy_reason for _ in range(3)])
    print("spent:", governance.metrics(agent).total_spend_usd)
    print(agent in [found.agent_id for found in governance.policies()])
