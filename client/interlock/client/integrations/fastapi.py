"""FastAPI dependencies: only signed calls, and requests that are handled once. Needs fastapi."""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException, Request

from interlock.client.async_interlock import AsyncInterlock
from interlock.client.errors import SignatureError, WaitTimeoutError
from interlock.client.signatures.middleware import MAX_BODY_BYTES, verified
from interlock.client.signatures.verification import MAX_AGE_S, Family, VerifiedCall


def signed_call(
    secrets: str | Sequence[str],
    *,
    family: Family = Family.RFC_9421,
    max_age_s: float = MAX_AGE_S,
    max_body_bytes: int = MAX_BODY_BYTES,
    origin: str | None = None,
) -> Callable[[Request], Awaitable[VerifiedCall]]:
    """A dependency that gives the `VerifiedCall`, and answers 401 to all calls that are not provably Interlock's.

    `origin` is what the tool's registered URL begins with, where a proxy stands in between. FastAPI may have read the
    body before this bounds it; the `SignatureMiddleware` bounds it first.
    """
    known = [secrets] if isinstance(secrets, str) else list(secrets)
    if not known or not all(known):
        raise ValueError("a call is verified under at least one secret, and none may be empty")

    async def dependency(request: Request) -> VerifiedCall:
        body = await request.body()
        if len(body) > max_body_bytes:
            raise HTTPException(413, f"the body is over {max_body_bytes} bytes")
        try:
            return verified(request.scope, body, known, family, max_age_s, origin)
        except SignatureError as error:
            raise HTTPException(401, error.message, {"WWW-Authenticate": "Signature"}) from error

    return dependency


@dataclass(frozen=True, slots=True)
class Once:
    """Handles a request once: `return await once(lambda: …)`."""

    client: AsyncInterlock
    key: str
    fingerprint: str
    ttl: int
    timeout_s: float

    async def __call__(self, handle: Callable[[], Any]) -> Any:
        """What `handle` gave, which has to be JSON, now or when the same request came first.

        Answers 409 while that one is at work still, or if it failed; 422 if the key came with another request.
        """

        async def handled() -> dict[str, Any]:
            told = handle()
            return {"fingerprint": self.fingerprint, "answer": await told if isinstance(told, Awaitable) else told}

        try:
            done = await self.client.run_fn(self.key, handled, ttl=self.ttl, timeout_s=self.timeout_s)
        except WaitTimeoutError as error:
            raise HTTPException(409, "the same request is being handled", {"Retry-After": "1"}) from error
        if not done.ok or done.result is None:
            raise HTTPException(409, "the same request failed before")
        if done.result["fingerprint"] != self.fingerprint:
            raise HTTPException(422, "this Idempotency-Key was used for another request")
        return done.result["answer"]


def idempotent_request(
    client: AsyncInterlock, *, ttl: int = 60, timeout_s: float = 30.0, prefix: str = ""
) -> Callable[[Request], Awaitable[Once]]:
    """A dependency that gives a `Once` for the request's `Idempotency-Key`; without that header it answers 400.

    A key counts for one method and path. Put whoever may not see another's answers apart by `prefix`, or behind
    something that knows them: keys are the callers' own choice.
    """

    async def dependency(request: Request) -> Once:
        given = request.headers.getlist("Idempotency-Key")
        if len(given) != 1 or not given[0]:
            raise HTTPException(400, "send one Idempotency-Key")
        whose = "\n".join((prefix, request.method, request.url.path, given[0]))
        content = "\n".join((request.url.query, hashlib.sha256(await request.body()).hexdigest()))
        return Once(client, f"request:{_digest(whose)}", _digest(content), ttl, timeout_s)

    return dependency


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
