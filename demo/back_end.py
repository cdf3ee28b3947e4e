"""The back end of three tools, as its owner would write it: it serves signed calls only, and no key twice.

It listens on a free port of the loopback address and prints the port. TOOL_SECRET holds the secret.
"""

import asyncio
import hashlib
import hmac
import os
from collections import Counter
from collections.abc import Awaitable, Callable

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SECRET = os.environ["TOOL_SECRET"].encode()
SLOW_BANK_S = 60

charges: dict[str, dict[str, object]] = {}
"""What was charged, by Idempotency-Key."""
requests: Counter[str] = Counter()
"""How many signed requests came, by path."""


@web.middleware
async def signed_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Lets only those through whose body was signed with the secret."""
    signature = hmac.new(SECRET, await request.read(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(signature, request.headers.get("X-OnceOnly-Signature", "")):
        return web.json_response({"error": "not signed"}, status=401)
    requests[request.path] += 1
    return await handler(request)


async def charge(request: web.Request) -> web.Response:
    """Charges a card, once for each Idempotency-Key. A slow bank takes its time before it says so."""
    order = await request.json()
    key = request.headers["Idempotency-Key"]
    if key not in charges:
        charges[key] = {"receipt": f"ch_{len(charges) + 1}", "order": order["order"], "usd": order["usd"]}
        if order.get("bank") == "slow":
            await asyncio.sleep(SLOW_BANK_S)
    return web.json_response(charges[key])


async def search(request: web.Request) -> web.Response:
    """Finds nothing, but counts."""
    return web.json_response({"results": [], "query": (await request.json())["query"]})


async def send_mail(_: web.Request) -> web.Response:
    """Sends mail."""
    return web.json_response({"sent": True})


async def ledger(_: web.Request) -> web.Response:
    """What really happened, for whoever wants to check."""
    return web.json_response({"charges": list(charges.values()), "requests": requests})


async def serve() -> None:
    """Listens until it is ended."""
    tools = web.Application(middlewares=[signed_only])
    tools.add_routes([web.post("/charge", charge), web.post("/search", search), web.post("/mail", send_mail)])
    app = web.Application()
    app.add_routes([web.get("/ledger", ledger)])
    app.add_subapp("/tools", tools)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve())
