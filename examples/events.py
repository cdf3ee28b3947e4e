"""Events: a run's timeline, told by Interlock and by whoever takes part."""

import secrets

from back_end import SECRET, serving

from interlock.client import Interlock

mark = secrets.token_hex(4)
run, tool = f"run-{mark}", f"search-{mark}"

with Interlock() as interlock, serving() as url:
    interlock.governance.put_tool(tool, url, secret=SECRET)
    interlock.timelines.post_event(run, "note", message="the customer asked twice", colour="red")
    interlock.run_tool(f"agent-{mark}", tool, {"q": "receipt"}, run_id=run)
    timeline = interlock.timelines.timeline(run)
    print([event.type for event in timeline.events])
    posted = timeline.events[0]
    print(posted.type, posted.message, posted.raw["colour"])
    listed = interlock.timelines.runs(prefix=run)
    print("runs:", listed.total, "events:", listed.items[0].events_count == timeline.total)
