"""The account: whose key it is, what the plan allows, and what was used of it."""

import secrets

from interlock.client import Interlock

with Interlock() as interlock:
    print("plan:", interlock.account.me().plan)
    before = interlock.account.usage("make").usage
    key = f"order-{secrets.token_hex(6)}"
    for _ in range(3):
        interlock.check_lock(key)  # one of them locks: a duplicate costs nothing
    used = interlock.account.usage("make")
    print("used at least:", used.usage - before >= 1, "limit:", used.limit)
    print(sorted(interlock.account.usage_all())[:2] != [])
