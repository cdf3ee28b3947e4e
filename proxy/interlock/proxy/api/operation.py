"""One operation of the REST API: how it is reached, who answers it, and what the OpenAPI document says of it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from interlock.proxy.api.visit import Visit

Answering = Callable[[Visit], Awaitable[object]]
"""Answers a visit with a pydantic model, a JSON value, or a response that is ready (one with headers of its own, or a
stream, which the handler writes itself). Raises InterlockError or AioRpcError, which `v1_errors` translates."""

Role = Literal["own", "viewer", "operator", "admin"]
"""The least role whose keys may ask. `own`: an agent's key may, for what is its own."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A route under `/v1`. `body` and `query` are the models that `answering` validates by, and no others."""

    method: str
    path: str
    """As in OpenAPI: `/v1/tools/{name}`."""
    answering: Answering | None
    """None for `/v1/ai/run`, which the pipeline of calls answers itself."""
    summary: str
    """What it does, in a few words: `Create or replace a tool`. What stands before a comma names it, too."""
    answer: Any
    """The type of the answer with status 200: a pydantic model, or `list[…]` of one."""
    body: Any = None
    query: type[BaseModel] | None = None
    role: Role = "own"
    description: str = ""
    """More than the summary, in Markdown."""
    refusals: tuple[int, ...] = ()
    """Statuses of errors beside those of every operation: 402 and 409 are what there may be."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Fields of the answer's header of its own, and what they say."""
    takes: Mapping[str, str] = field(default_factory=dict)
    """Fields of the request's header of its own, and what they say."""
    media_type: str = "application/json"
    """Of the answer. A stream's `answer` is that of a line."""
    example: Mapping[str, object] | None = None
    """A body that works."""
