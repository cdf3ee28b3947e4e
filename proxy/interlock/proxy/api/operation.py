"""One operation of the REST API: how it is reached, who answers it, and what the OpenAPI document says of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from interlock.proxy.api.visit import Visit

Answering = Callable[[Visit], Awaitable[object]]
"""Answers a visit with a pydantic model, a JSON value, or a response that is ready (one with headers of its own, or a
stream, which the handler writes itself). Raises InterlockError or AioRpcError, which `v1_errors` translates."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A route under `/v1`. `body` and `query` are the models that `answering` validates by, and no others."""

    method: str
    path: str
    """As in OpenAPI: `/v1/tools/{name}`."""
    answering: Answering
    summary: str
    """What it does, in a few words: `Create or replace a tool`."""
    answer: Any = None
    """The type of the answer with status 200: a pydantic model, or `list[…]` of one."""
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
