"""`check_lock`: of all who ask for the same thing, one goes on.

A webhook is delivered five times at once, as webhooks are; one delivery is handled.
"""

import secrets
from concurrent.futures import ThreadPoolExecutor

from interlock.client import Interlock, idempotent

event = f"evt-{secrets.token_hex(6)}"

with Interlock() as interlock, ThreadPoolExecutor(5) as deliveries:
    locks = list(deliveries.map(lambda _: interlock.check_lock(event, ttl=60), range(5)))
    print(f"{sum(lock.locked for lock in locks)} of {len(locks)} deliveries handled")
    duplicate = next(lock for lock in locks if lock.duplicate)
    print("first seen:", duplicate.first_seen_at is not None)

    @idempotent(interlock, ttl=60, on_duplicate=lambda order: f"{order} was sent before")
    def send_receipt(order: str) -> str:
        return f"{order} sent"

    print([send_receipt(event).removeprefix(event).strip() for _ in range(2)])
