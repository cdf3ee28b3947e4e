"""A process that works under a lease, with the stock client: `lease_worker.py WAY URL API_KEY KEY JOURNAL TTL SECONDS`.

Each time the work is begun and ended it writes a line into the journal; what came of it, as JSON, to its output.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable
from pathlib import Path

from onceonly import OnceOnly
from onceonly.ai_models import AiResult
from onceonly.decorators import idempotent_ai

POLL_S = 0.1


def note(journal: str, word: str) -> None:
    with Path(journal).open("a") as lines:
        lines.write(f"{word} {os.getpid()}\n")


def main() -> None:
    way, url, api_key, key, journal, ttl, seconds = sys.argv[1:]
    client = OnceOnly(api_key, base_url=f"{url}/v1", timeout=30)

    def work() -> dict[str, int]:
        note(journal, "began")
        time.sleep(float(seconds))
        note(journal, "ended")
        return {"by": os.getpid()}

    async def work_async() -> dict[str, int]:
        note(journal, "began")
        await asyncio.sleep(float(seconds))
        note(journal, "ended")
        return {"by": os.getpid()}

    async def carried_out(working: Awaitable[AiResult]) -> AiResult:
        try:
            return await working
        except asyncio.CancelledError:
            # 3.0.5 ends its own heartbeat so, behind the lease that it has completed, and lets that out.
            return await client.ai.result_async(key)

    def carry_out() -> AiResult:
        if way == "run_fn":
            return client.ai.run_fn(key, work, ttl=int(ttl), poll_min=POLL_S)
        if way == "run_fn_async":
            return asyncio.run(carried_out(client.ai.run_fn_async(key, work_async, ttl=int(ttl), poll_min=POLL_S)))
        decorated = idempotent_ai(client, key_fn=lambda: key, ttl=int(ttl), poll_min=POLL_S)
        if way == "idempotent_ai":
            return decorated(work)()  # type: ignore[return-value]
        return asyncio.run(carried_out(decorated(work_async)()))  # type: ignore[arg-type]

    result = carry_out()
    told = {"status": result.status, "result": result.result, "ok": result.ok, "hash": result.result_hash}
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
