"""`AsyncInterlock`: the client for asyncio. `Interlock` is its twin for programs that wait for their answers."""

import inspect
from collections.abc import Callable, Sequence
from typing import Literal, Self

import httpx

from interlock.client.account import AsyncAccount
from interlock.client.carrying import AsyncHttpCarrier
from interlock.client.governance import AsyncGovernance
from interlock.client.holding import Holding, held_async
from interlock.client.leases import LeaseOperations, WorkResult
from interlock.client.locks import JsonObject, LockOperations
from interlock.client.request import AsyncGroup
from interlock.client.retrying import DEFAULT_RETRIES, NO_RETRIES, RetryPolicy
from interlock.client.runs import Action, RunOperations
from interlock.client.settings import Connecting
from interlock.client.timelines import AsyncTimelines
from interlock.client.working import (
    Obtained,
    Work,
    drive_async,
    giving_up,
    obtaining,
    recording,
    running,
    takes_lease,
    waiting_for,
)


class AsyncLeases(LeaseOperations, AsyncGroup):
    """`AsyncInterlock.leases`."""


class AsyncInterlock(LockOperations, RunOperations, AsyncGroup):
    """The API over a pool of connections, for one event loop. Close it, or use it as a context.

    `api_key` and `base_url` stand before INTERLOCK_API_KEY and INTERLOCK_BASE_URL. With `fail_open`, `check_lock` and
    `run_fn` go on where no answer can be had (no connection, time-out, 5xx); never after a refusal. `namespace` is for
    admins. `transport` carries the requests, if it is given. Errors: ConfigurationError.
    """

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        timeout_s: float = 10.0,
        retries: RetryPolicy = DEFAULT_RETRIES,
        fail_open: bool = False,
        namespace: str | None = None,
        max_connections: int = 100,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        connecting = Connecting.made_of(api_key, base_url, namespace, max_connections)
        http = httpx.AsyncClient(**connecting.settings(), timeout=timeout_s, transport=transport)
        carrier = AsyncHttpCarrier(http, retries, fail_open=fail_open)
        super().__init__(carrier)
        self._http = http
        self._patient = carrier
        self._heartbeat = AsyncHttpCarrier(http, NO_RETRIES, fail_open=False)
        self.leases = AsyncLeases(carrier)
        self.governance = AsyncGovernance(carrier)
        self.account = AsyncAccount(carrier)
        self.timelines = AsyncTimelines(carrier)

    async def run_fn(
        self,
        key: str,
        function: Callable[..., object],
        *,
        ttl: int = 300,
        metadata: JsonObject | None = None,
        wait: bool = True,
        timeout_s: float = 60.0,
        error_code: str = "fn_error",
        on_error: Literal["fail", "free"] = "fail",
    ) -> WorkResult:
        """Runs `function`, or awaits it, if nobody has under `key`; else answers with the recorded result.

        Who comes second waits for `timeout_s`, or with `wait=False` is told `in_progress`. If the function has a
        parameter `lease`, it gets the `AsyncLease`. What it raises is raised here, and recorded as failed for good;
        with `on_error="free"` the next one may try. Errors: LeaseLostError, NotRecordedError, WaitTimeoutError,
        ApiError.
        """
        work = Work(key, ttl, metadata, wait, timeout_s, error_code, on_error)
        obtained = await drive_async(self._patient, obtaining(work))
        if isinstance(obtained, WorkResult):
            return obtained
        return await self._work(work, obtained, function)

    async def _work(self, work: Work, obtained: Obtained, function: Callable[..., object]) -> WorkResult:
        holding = Holding(obtained.answer, obtained.asked_at)
        try:
            async with held_async(self._heartbeat, holding) as lease:
                value = function(lease=lease) if takes_lease(function) else function()
                if inspect.isawaitable(value):
                    value = await value
        except Exception as error:
            await drive_async(self._patient, giving_up(holding, error, work.error_code, work.on_error))
            raise
        return await drive_async(self._patient, recording(holding, value))

    async def wait(self, key: str, *, timeout_s: float = 60.0) -> WorkResult:
        """What a key's work came to, once it is known; the server holds the question. Errors: WaitTimeoutError."""
        return await drive_async(self._patient, waiting_for(key, timeout_s))

    async def run_and_wait(
        self,
        key: str,
        *,
        actions: Sequence[Action] | None = None,
        agent_id: str | None = None,
        ttl: int | None = None,
        run_id: str | None = None,
        dry_run: bool | None = None,
        metadata: JsonObject | None = None,
        timeout_s: float = 60.0,
    ) -> WorkResult:
        """`run`, and then `wait`. Errors: as both; InterlockError `no_handler` if there is nobody to execute it."""
        request = RunOperations.run(
            self,
            key,
            actions=actions,
            agent_id=agent_id,
            ttl=ttl,
            run_id=run_id,
            dry_run=dry_run,
            metadata=metadata,
        )
        return await drive_async(self._patient, running(request, key, timeout_s))

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
