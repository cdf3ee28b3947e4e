"""The kill switch: it holds for the very next call."""

import secrets

from back_end import SECRET, serving

from interlock.client import Interlock

mark = secrets.token_hex(4)
agent, tool = f"rogue-{mark}", f"delete-{mark}"

with Interlock() as interlock, serving() as url:
    interlock.governance.put_tool(tool, url, secret=SECRET, dedup={"mode": "off"})
    print(interlock.run_tool(agent, tool).decision)
    pulled = interlock.governance.disable_agent(agent, "deletes too much")
    print("enabled:", pulled.is_enabled, "because:", pulled.disabled_reason)
    refused = interlock.run_tool(agent, tool)
    print(refused.decision, refused.policy_reason)
    interlock.governance.enable_agent(agent)
    print(interlock.run_tool(agent, tool).decision)
