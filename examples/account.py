"""The account: whose key it is, what the plan allows, and what was used of it."""

import secrets

from interlock.client import Interlock

with Interlock() as interlock:
    print("plan:", interlock.account.me().plan)
    before = interlock.account.usage("make")
    key = f"order-{secrets.token_hex(6)}"
    locks = [interlock.check_lock(key) for _ in range(3)]  # a duplicate costs nothing
    after = interlock.account.usage("make")
    print("locked:", sum(lock.locked for lock in locks), "counted:", after.usage > before.usage, "limit:", after.limit)
    print("in all:", interlock.account.usage_all()["plan"])
