"""One request to the REST API, as its handler sees it: what it brings, and the engine to ask."""

from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import TypeVar

from aiohttp import web
from grpc.aio import UnaryUnaryMultiCallable
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from interlock.proxy import strict_json
from interlock.proxy.answering import read_body
from interlock.proxy.api.errors import InvalidField, InvalidFieldsError
from interlock.proxy.api.port import Api
from interlock.proxy.money import exact_or_whole

Model = TypeVar("Model", bound=BaseModel)
Question = TypeVar("Question")
Answer = TypeVar("Answer")

MASK = "**********"
SECRETS = frozenset({"auth", "secret", "upstream_credential"})
"""Fields of bodies from which nothing is repeated."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A request with the bearer key it came with, and the namespace it wants to act in if that is not the key's own.

    The engine judges both; here they are only handed on.
    """

    api: Api
    request: web.Request
    credential: str
    namespace: str = ""

    async def ask(
        self, rpc: UnaryUnaryMultiCallable[Question, Answer], question: Question, timeout_s: float | None = None
    ) -> Answer:
        """Asks the engine in the caller's name. Raises AioRpcError, which `v1_errors` translates."""
        return await rpc(question, metadata=self.metadata, timeout=timeout_s or self.api.timeout_s)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Who asks, for the engine."""
        acting_in = (("interlock-namespace", self.namespace),) if self.namespace else ()
        return (("authorization", f"Bearer {self.credential}"), *acting_in)

    async def body(self, model: type[Model], max_bytes: int | None = None) -> Model:
        """The body, read up to the limit and validated; an empty one is `{}`. Raises InvalidRequestError, `busy`."""
        raw = await read_body(self.request, max_bytes or self.api.max_body_bytes)
        return await self.api.bodies.read(raw, self.credential, partial(judged, model, raw))

    def query(self, model: type[Model]) -> Model:
        """The query, validated. Raises InvalidFieldsError, also for parameters that are unknown or given twice."""
        names = Counter(name for name, _ in self.request.query.items())
        if repeated := [name for name, times in names.items() if times > 1]:
            raise InvalidFieldsError([InvalidField("repeated", ("query", repeated[0]), "Input should be given once")])
        try:
            return model.model_validate(dict(self.request.query))
        except ValidationError as error:
            raise _invalid(error, "query") from None

    def path(self, name: str, kind: TypeAdapter[str]) -> str:
        """A segment of the path, validated. Raises InvalidFieldsError."""
        try:
            return kind.validate_python(self.request.match_info[name])
        except ValidationError as error:
            raise _invalid(error, "path", name) from None


def judged(model: type[Model], raw: bytes) -> Model:
    """A body, validated; an empty one is `{}`. Raises InvalidRequestError."""
    try:
        return model.model_validate(strict_json.parse(raw, parse_float=exact_or_whole) if raw else {})
    except ValidationError as error:
        raise _invalid(error, "body") from None


def _invalid(error: ValidationError, *place: str) -> InvalidFieldsError:
    """Pydantic's findings with their place in the request. Raise it `from None`: the cause's text holds the values."""
    return InvalidFieldsError(
        [
            InvalidField(found["type"], (*place, *found["loc"]), found["msg"], _shown(found))
            for found in error.errors(include_url=False, include_context=False)
        ]
    )


def _shown(found: ErrorDetails) -> object:
    """The offending value as an answer may repeat it: no secret, nothing of unknown meaning, no whole objects."""
    if SECRETS.intersection(found["loc"]) or found["type"] == "extra_forbidden":
        return MASK
    value = found["input"]
    if isinstance(value, Decimal):
        return str(value)
    return None if isinstance(value, dict | list) else value
