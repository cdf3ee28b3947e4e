"""The tools registry: an agent's own tool hides the global one, and no secret is ever told."""

import secrets

from back_end import SECRET, serving

from interlock.client import Interlock, NotFoundError

mark = secrets.token_hex(4)
agent, tool = f"special-{mark}", f"search-{mark}"

with Interlock() as interlock, serving() as everyones, serving() as own:
    governance = interlock.governance
    created = governance.put_tool(tool, everyones, secret=SECRET)
    print("secret:", created.has_secret, "told:", SECRET in str(created.raw))
    governance.put_tool(tool, own, secret=SECRET, scope_id=f"agent:{agent}")
    print(
        [
            governance.tool(tool, scope_id=scope).url == url
            for scope, url in (("global", everyones), (f"agent:{agent}", own))
        ]
    )
    governance.toggle_tool(tool, enabled=False)
    print(interlock.run_tool("anybody", tool).policy_reason, interlock.run_tool(agent, tool).policy_reason)
    print("deleted:", governance.delete_tool(tool).deleted)
    try:
        interlock.run_tool("anybody", tool)
    except NotFoundError as error:
        print(error.reason)
