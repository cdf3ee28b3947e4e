"""Doing a piece of work once: lease it or wait for who has, run it, record what it came to.

What is asked in which order stands here once, as generators that yield requests; the two clients drive them.
"""

import asyncio
import inspect
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from interlock.client.canonical import as_result
from interlock.client.carrying import AsyncHttpCarrier, HttpCarrier
from interlock.client.errors import (
    ConflictError,
    InterlockError,
    InvalidRequestError,
    LeaseLostError,
    NotFoundError,
    NotRecordedError,
    WaitTimeoutError,
)
from interlock.client.holding import Holding
from interlock.client.leases import FREE, LeaseAnswer, LeaseChange, LeaseOperations, WorkResult
from interlock.client.request import Request

JsonObject = Mapping[str, object]
R = TypeVar("R")

MAX_POLL_S = 20.0
"""One long poll: below what proxies on the way take for a dead connection."""
MIN_POLL_S = 0.5
"""Between polls of a server that does not wait."""
OPEN = "open"
"""A lease that there is none of, because the client failed open."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait this long, then go on."""

    seconds: float


Flow = Generator[Request[Any] | Pause, Any, R]


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work, and how to go about it."""

    key: str
    ttl: int = 300
    metadata: JsonObject | None = None
    wait: bool = True
    timeout_s: float = 60.0
    error_code: str = "fn_error"
    on_error: Literal["fail", "free"] = "fail"


@dataclass(frozen=True, slots=True)
class Obtained:
    """The right to do the work, and since when (monotonic seconds)."""

    answer: LeaseAnswer
    asked_at: float


def obtaining(work: Work) -> Flow[Obtained | WorkResult]:
    """The lease, or what the work came to elsewhere. Takes over from who held the lease and let it run out.

    Errors: WaitTimeoutError; and what asking may raise.
    """
    give_up_at = time.monotonic() + work.timeout_s
    while True:
        asked_at = time.monotonic()
        request = LeaseOperations.acquire(None, work.key, work.ttl, metadata=work.metadata)
        answer: LeaseAnswer = yield replace(request, fail_open=lambda _: LeaseAnswer(status=OPEN, key=work.key))
        if answer.acquired or answer.status == OPEN:
            return Obtained(answer, asked_at)
        if not work.wait and not answer.terminal:
            return WorkResult(status="in_progress", key=work.key, error_code="not_acquired")
        done = yield from waiting(work.key, give_up_at, work.timeout_s)
        if done.terminal:
            return done


def waiting(key: str, give_up_at: float, timeout_s: float) -> Flow[WorkResult]:
    """What a key's work came to, or that it is free again. Errors: WaitTimeoutError."""
    while True:
        asked_at = time.monotonic()
        wait_s = max(0.0, min(MAX_POLL_S, give_up_at - asked_at))
        try:
            told: WorkResult = yield LeaseOperations.result(None, key, wait_s=round(wait_s, 3))
        except NotFoundError:
            told = WorkResult(status="not_found", key=key)
        if told.terminal or told.status in FREE:
            return told
        now = time.monotonic()
        if now >= give_up_at:
            raise WaitTimeoutError(key, timeout_s)
        if now - asked_at < MIN_POLL_S:
            yield Pause(min(MIN_POLL_S, give_up_at - now))


def waiting_for(key: str, timeout_s: float) -> Flow[WorkResult]:
    """The same from now on."""
    return (yield from waiting(key, time.monotonic() + timeout_s, timeout_s))


def running(request: Request[LeaseAnswer], key: str, timeout_s: float) -> Flow[WorkResult]:
    """Starts a run, and waits for it. Errors: WaitTimeoutError, and InterlockError if nobody would execute it."""
    give_up_at = time.monotonic() + timeout_s
    answer: LeaseAnswer = yield request
    if answer.acquired and answer.lease_id:
        yield LeaseOperations.cancel(None, key, answer.lease_id, reason="no_handler")
        raise InterlockError("no_handler", f"{key!r} has no actions, and the namespace no handler, to execute it")
    return (yield from waiting(key, give_up_at, timeout_s))


def recording(holding: Holding, value: object) -> Flow[WorkResult]:
    """Records a result. Errors: LeaseLostError, NotRecordedError; both carry the result."""
    if not holding.guarded:
        return WorkResult("completed", holding.key, as_result(value), executed=True, failed_open=True)
    holding.check(value)
    try:
        result = as_result(value)
        told: LeaseChange = yield LeaseOperations.complete(None, holding.key, holding.lease_id, result=result)
    except (ConflictError, NotFoundError) as error:
        raise LeaseLostError(holding.key, error.message, value) from error
    except (TypeError, ValueError, InvalidRequestError) as error:
        # It ran, and will never be recordable: that it failed is better than that it runs again.
        yield from giving_up(holding, error, "result_not_recordable", "fail")
        raise NotRecordedError(holding.key, str(error), value) from error
    except InterlockError as error:
        raise NotRecordedError(holding.key, error.message, value) from error
    return WorkResult(told.status, told.key, result, executed=True)


def giving_up(holding: Holding, error: Exception, code: str, how: Literal["fail", "free"]) -> Flow[None]:
    """Records that the work failed, or frees its key. What goes wrong with that is a note on the error."""
    if not holding.guarded or holding.is_lost:
        return
    try:
        if how == "fail":
            yield LeaseOperations.fail(None, holding.key, holding.lease_id, error_code=code)
        else:
            yield LeaseOperations.cancel(None, holding.key, holding.lease_id, reason=code)
    except InterlockError as unrecorded:
        error.add_note(f"and that it failed was not recorded: {unrecorded.message}")


def drive(carrier: HttpCarrier, flow: Flow[R]) -> R:
    """Carries out what a flow yields, until it returns."""
    try:
        step = next(flow)
        while True:
            try:
                answer = _take(carrier, step)
            except InterlockError as error:
                step = flow.throw(error)
            else:
                step = flow.send(answer)
    except StopIteration as end:
        done: R = end.value
        return done


async def drive_async(carrier: AsyncHttpCarrier, flow: Flow[R]) -> R:
    """The same for asyncio."""
    try:
        step = next(flow)
        while True:
            try:
                answer = await _take_async(carrier, step)
            except InterlockError as error:
                step = flow.throw(error)
            else:
                step = flow.send(answer)
    except StopIteration as end:
        done: R = end.value
        return done


def _take(carrier: HttpCarrier, step: Request[Any] | Pause) -> Any:
    if not isinstance(step, Pause):
        return carrier.carry(step)
    time.sleep(step.seconds)
    return None


async def _take_async(carrier: AsyncHttpCarrier, step: Request[Any] | Pause) -> Any:
    if not isinstance(step, Pause):
        return await carrier.carry(step)
    await asyncio.sleep(step.seconds)
    return None


def takes_lease(function: Callable[..., object]) -> bool:
    """Whether it has a parameter `lease`, by which it wants to be told of its lease."""
    try:
        return "lease" in inspect.signature(function).parameters
    except ValueError:
        return False
