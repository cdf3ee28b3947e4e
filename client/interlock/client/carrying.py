"""Carrying a request out: tries, and what they come to. `Attempts` decides; the two carriers only send and sleep."""

import asyncio
import time
from typing import Generic, TypeVar

import httpx

from interlock.client.answers import decoded, error_of
from interlock.client.errors import InterlockError, InvalidAnswerError, UnavailableError, UnreachableError
from interlock.client.request import Answer, Request, present
from interlock.client.retrying import (
    RetryPolicy,
    is_in_doubt,
    may_repeat_after_failure,
    may_repeat_after_status,
    retry_after_s,
)

T = TypeVar("T")


class Attempts(Generic[T]):
    """One request over its tries. `answered` and `broke` say how long to wait for the next, or None: then `result`."""

    def __init__(self, request: Request[T], policy: RetryPolicy, *, fail_open: bool) -> None:
        self._request = request
        self._policy = policy
        self._fail_open = fail_open
        self._tried = 0
        self._doubtful = False
        self._response: httpx.Response | None = None
        self._error: InterlockError | None = None

    def answered(self, response: httpx.Response) -> float | None:
        self._tried += 1
        status = response.status_code
        if response.is_success or status in self._request.good:
            self._response, self._error = response, None
            return None
        self._error = error_of(response)
        pause = None
        if may_repeat_after_status(self._request.repeat, status):
            pause = self._policy.pause_s(self._tried, retry_after_s(response.headers))
        self._doubtful |= status >= 500
        return pause

    def broke(self, failure: httpx.TransportError) -> float | None:
        self._tried += 1
        in_doubt = is_in_doubt(failure)
        self._doubtful |= in_doubt
        what = f"no answer to {self._request.method} {self._request.url}: {type(failure).__name__} {failure}".rstrip()
        timed_out = isinstance(failure, httpx.TimeoutException)
        self._error = UnreachableError(what, in_doubt=self._doubtful, timed_out=timed_out)
        self._error.__cause__ = failure
        if not may_repeat_after_failure(self._request.repeat, failure):
            return None
        return self._policy.pause_s(self._tried)

    def result(self) -> T:
        """What the request came to. Errors: InterlockError."""
        if self._response is not None:
            return self._request.read(Answer(decoded(self._response), self._response))
        error = self._error
        assert error is not None  # noqa: S101 - for the type checker: a try was made
        if self._fail_open and self._request.fail_open is not None and _is_outage(error):
            return self._request.fail_open(error.reason)
        raise error


def _is_outage(error: InterlockError) -> bool:
    """What failing open is for: no answer, or a 5xx. Never a refusal: 401, 402, 403, 422 and 429 say no."""
    return isinstance(error, UnreachableError | UnavailableError)


class HttpCarrier:
    """Requests over a pool of connections."""

    def __init__(self, http: httpx.Client, policy: RetryPolicy, *, fail_open: bool) -> None:
        self.http = http
        self._policy = policy
        self._fail_open = fail_open

    def carry(self, request: Request[T]) -> T:
        attempts = Attempts(request, self._policy, fail_open=self._fail_open)
        prepared = _prepared(self.http, request)
        while True:
            try:
                pause_s = attempts.answered(self.http.send(prepared))
            except httpx.TransportError as failure:
                pause_s = attempts.broke(failure)
            except httpx.DecodingError as failure:
                raise InvalidAnswerError("invalid_answer", f"the answer cannot be read: {failure}") from failure
            if pause_s is None:
                return attempts.result()
            time.sleep(pause_s)


class AsyncHttpCarrier:
    """The same for asyncio."""

    def __init__(self, http: httpx.AsyncClient, policy: RetryPolicy, *, fail_open: bool) -> None:
        self.http = http
        self._policy = policy
        self._fail_open = fail_open

    async def carry(self, request: Request[T]) -> T:
        attempts = Attempts(request, self._policy, fail_open=self._fail_open)
        prepared = _prepared(self.http, request)
        while True:
            try:
                pause_s = attempts.answered(await self.http.send(prepared))
            except httpx.TransportError as failure:
                pause_s = attempts.broke(failure)
            except httpx.DecodingError as failure:
                raise InvalidAnswerError("invalid_answer", f"the answer cannot be read: {failure}") from failure
            if pause_s is None:
                return attempts.result()
            await asyncio.sleep(pause_s)


def _prepared(http: httpx.Client | httpx.AsyncClient, request: Request[T]) -> httpx.Request:
    return http.build_request(
        request.method,
        request.url,
        params=present(request.params),
        json=request.sent_body(),
        headers=present(request.headers),
        timeout=_timeout(http.timeout, request.timeout_s),
    )


def _timeout(usual: httpx.Timeout, answer_s: float | None) -> httpx.Timeout:
    if answer_s is None:
        return usual
    reaching = answer_s if usual.connect is None else min(usual.connect, answer_s)
    return httpx.Timeout(answer_s, connect=reaching, pool=reaching)
