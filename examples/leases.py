"""Leases: three processes are given the same piece of work; one does it, and all get its result.

The worker holds its lease by heartbeats while it works, and would be told if it lost it.
"""

import secrets
import sys
from concurrent.futures import ProcessPoolExecutor
from time import sleep

from interlock.client import Interlock, Lease, WorkResult


def work(key: str) -> WorkResult:
    """One process."""

    def summarize(lease: Lease) -> dict[str, str]:
        sleep(3)  # longer than the lease lasts by itself
        lease.check()  # raises LeaseLostError if it is somebody else's by now
        return {"summary": "all is well"}

    with Interlock() as interlock:
        return interlock.run_fn(key, summarize, ttl=2)


if __name__ == "__main__":
    report = sys.argv[1] if len(sys.argv) > 1 else f"report-{secrets.token_hex(6)}"
    with ProcessPoolExecutor(3) as processes:
        results = list(processes.map(work, [report] * 3))
    print(f"executed by {sum(result.executed for result in results)} of {len(results)}")
    print({result.value["summary"] for result in results})
