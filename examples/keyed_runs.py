"""Keyed runs: hand a list of calls over, and leave. A worker makes each of them once, whatever dies meanwhile."""

import secrets

from back_end import SECRET, serving

from interlock.client import Action, Interlock

mark = secrets.token_hex(4)
agent, tool, order = f"worker-{mark}", f"step-{mark}", f"order-{mark}"

with Interlock() as interlock, serving() as url:
    interlock.governance.put_tool(tool, url, secret=SECRET, max_retries=0)
    steps = [Action(tool, {"step": step}) for step in ("reserve", "charge", "ship")]
    done = interlock.run_and_wait(order, actions=steps, agent_id=agent, timeout_s=30)
    print(done.status, "ok:", done.ok)
    again = interlock.run_and_wait(order, actions=steps, agent_id=agent)
    print("again:", again.status, "actions:", interlock.governance.metrics(agent).total_actions)
    failed = interlock.run_and_wait(f"{order}-b", actions=[Action(tool, {"fail": True})], agent_id=agent)
    print(failed.status, "code:", failed.error_code is not None)
