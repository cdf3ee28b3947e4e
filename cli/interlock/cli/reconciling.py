"""Has an engine ask tools what became of calls of unknown outcome: the HTTP that the engine itself does not know."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from interlock.policy.engine import Engine
from interlock.proxy.asking import OutcomeAsker
from interlock.proxy.credential import Credentials
from interlock.proxy.destinations import Destinations
from interlock.proxy.metrics import Metrics
from interlock.proxy.oauth import Tokens
from interlock.proxy.upstream import Upstream

TOKEN_TIMEOUT_S = 10.0


@asynccontextmanager
async def reconciling(engine: Engine, destinations: Destinations, metrics: Metrics) -> AsyncIterator[None]:
    """While the context is open."""
    async with AsyncExitStack() as stack:
        upstream = Upstream(destinations)
        await upstream.start()
        stack.push_async_callback(upstream.close)
        tokens = Tokens(upstream, metrics, timeout_s=TOKEN_TIMEOUT_S)
        stack.push_async_callback(tokens.close)
        reconciler = engine.reconciler(OutcomeAsker(upstream, Credentials(tokens)), metrics)
        stack.push_async_callback(reconciler.close)
        reconciler.start()
        yield
