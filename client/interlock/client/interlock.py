"""`Interlock`: the client for programs that wait for their answers. `AsyncInterlock` is its twin for asyncio."""

from collections.abc import Callable, Sequence
from typing import Literal, Self

import httpx

from interlock.client.account import Account
from interlock.client.carrying import HttpCarrier
from interlock.client.governance import Governance
from interlock.client.holding import Holding, held
from interlock.client.leases import LeaseOperations, WorkResult
from interlock.client.locks import JsonObject, LockOperations
from interlock.client.request import Group
from interlock.client.retrying import DEFAULT_RETRIES, NO_RETRIES, RetryPolicy
from interlock.client.runs import Action, RunOperations
from interlock.client.settings import Connecting
from interlock.client.timelines import Timelines
from interlock.client.working import (
    Obtained,
    Work,
    drive,
    giving_up,
    obtaining,
    recording,
    running,
    takes_lease,
    waiting_for,
)


class Leases(LeaseOperations, Group):
    """`Interlock.leases`."""


class Interlock(LockOperations, RunOperations, Group):
    """The API over a pool of connections; may be used from several threads. Close it, or use it as a context.

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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        connecting = Connecting.made_of(api_key, base_url, namespace, max_connections)
        http = httpx.Client(**connecting.settings(), timeout=timeout_s, transport=transport)
        carrier = HttpCarrier(http, retries, fail_open=fail_open)
        super().__init__(carrier)
        self._http = http
        self._patient = carrier
        self._heartbeat = HttpCarrier(http, NO_RETRIES, fail_open=False)
        self.leases = Leases(carrier)
        self.governance = Governance(carrier)
        self.account = Account(carrier)
        self.timelines = Timelines(carrier)

    def run_fn(
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
        """Runs `function` here if nobody has run it under `key`, and answers with its recorded result if somebody has.

        Who comes second waits for `timeout_s`, or with `wait=False` is told `in_progress`. If the function has a
        parameter `lease`, it gets the `Lease`. What it raises is raised here, and recorded as failed for good; with
        `on_error="free"` the next one may try. Errors: LeaseLostError, NotRecordedError, WaitTimeoutError, ApiError.
        """
        work = Work(key, ttl, metadata, wait, timeout_s, error_code, on_error)
        obtained = drive(self._patient, obtaining(work))
        if isinstance(obtained, WorkResult):
            return obtained
        return self._work(work, obtained, function)

    def _work(self, work: Work, obtained: Obtained, function: Callable[..., object]) -> WorkResult:
        holding = Holding(obtained.answer, obtained.asked_at)
        try:
            with held(self._heartbeat, holding) as lease:
                value = function(lease=lease) if takes_lease(function) else function()
        except Exception as error:
            drive(self._patient, giving_up(holding, error, work.error_code, work.on_error))
            raise
        return drive(self._patient, recording(holding, value))

    def wait(self, key: str, *, timeout_s: float = 60.0) -> WorkResult:
        """What a key's work came to, once it is known; the server holds the question. Errors: WaitTimeoutError."""
        return drive(self._patient, waiting_for(key, timeout_s))

    def run_and_wait(
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
        return drive(self._patient, running(request, key, timeout_s))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
