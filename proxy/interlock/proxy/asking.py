"""Asks a tool's `reconcile_url` what became of a call: signed, with the tool's credential, and to no other address than
its calls may go to. What is no clear word is none: the call stays as it is, and the tool is asked again.
"""

import asyncio
import binascii
import json
import time
from base64 import b64decode
from collections.abc import AsyncIterator
from hashlib import sha256
from http import HTTPStatus
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from interlock.governance.errors import InvalidRequestError
from interlock.governance.ids import new_id
from interlock.governance.inquiries import Finding, Inquiry, Said
from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy import strict_json
from interlock.proxy.credential import Credential, Credentials
from interlock.proxy.headers import returnable
from interlock.proxy.masking import is_readable
from interlock.proxy.oauth import NoTokenError
from interlock.proxy.settings import KiB
from interlock.proxy.signing import Outgoing, signed_headers
from interlock.proxy.upstream import Upstream, UpstreamAnswer, UpstreamError, UpstreamRequest

JSON = "application/json"
ROOM = 64 * KiB
"""For all of an answer but the body to be replayed; that, written as JSON, may take twice its size."""
MAX_FIELDS = 64
MAX_FIELD_CHARACTERS = 8 * KiB
FRAMING = frozenset({"content-length", "content-encoding", "transfer-encoding"})


class _Unclear(Exception):  # noqa: N818 - it is no error of ours, but what the tool said
    """Why an answer is no word on the call. Nothing of what the tool wrote is in it."""


class Replay(BaseModel):
    """What the tool answers, or answered, to the call itself."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)

    status: Annotated[int, Field(ge=200, le=399)] = 200
    headers: Annotated[
        dict[str, Annotated[str, Field(max_length=MAX_FIELD_CHARACTERS)]], Field(max_length=MAX_FIELDS)
    ] = {}
    body: str | None = None
    body_base64: str | None = None

    @model_validator(mode="after")
    def _one_body(self) -> Self:
        if self.body is not None and self.body_base64 is not None:
            raise ValueError("body and body_base64 exclude each other")
        return self

    def content(self) -> bytes:
        """Errors: binascii.Error, ValueError."""
        if self.body_base64 is not None:
            return b64decode(self.body_base64, validate=True)
        return (self.body or "").encode()


class Word(BaseModel):
    """A tool's answer. What it holds beside is passed over."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)

    outcome: Literal["happened", "not_happened", "unknown"]
    answer: Replay | None = None


class OutcomeAsker:
    """Asks tools. Implements the engine's port."""

    def __init__(self, upstream: Upstream, credentials: Credentials) -> None:
        self._upstream = upstream
        self._credentials = credentials

    async def ask(self, inquiry: Inquiry, route: pb.ToolRoute, url: str, within_s: float) -> Finding:
        """Never fails: what goes wrong is told as a finding."""
        try:
            async with asyncio.timeout(within_s):
                credential = await self._credentials.of(route)
                body = await self._answer(inquiry, route, url, within_s, credential)
            return finding_of(body, route.replay_max_bytes)
        except _Unclear as unclear:
            return _none(str(unclear))
        except UpstreamError as error:
            return _none(error.reason)
        except NoTokenError as missing:
            return _none(missing.reason)
        except TimeoutError:
            return _none("upstream_timeout")

    async def _answer(
        self,
        inquiry: Inquiry,
        route: pb.ToolRoute,
        url: str,
        within_s: float,
        credential: Credential | None,
        *,
        renewed: bool = False,
    ) -> bytes:
        """The body of a 200. A token that is not accepted is renewed once. Errors: UpstreamError, _Unclear."""
        async with self._upstream.send(_request(inquiry, route, url, within_s, credential)) as answer:
            newer = None
            if answer.status == HTTPStatus.UNAUTHORIZED and credential is not None and not renewed:
                newer = await self._credentials.instead_of(credential, route)
            if newer is None:
                return await _read(answer, credential, 2 * route.replay_max_bytes + ROOM)
        return await self._answer(inquiry, route, url, within_s, newer, renewed=True)


def finding_of(body: bytes, replay_max_bytes: int) -> Finding:
    """What an answer says."""
    try:
        word = Word.model_validate(strict_json.parse(body))
        answer = _replayed(word.answer, replay_max_bytes) if word.answer is not None else None
    except (InvalidRequestError, ValidationError, binascii.Error, ValueError):
        return _none("the answer is not what docs/failure.md asks for")
    said = Said(word.outcome)
    return Finding(said, answer if said is Said.HAPPENED else None)


def _replayed(replay: Replay, replay_max_bytes: int) -> pb.Answer:
    """As a settlement would keep it: without a body that is too large."""
    content = replay.content()
    kept = len(content) <= replay_max_bytes
    told = (field for field in replay.headers.items() if field[0].lower() not in FRAMING)
    fields = returnable((name, _as_on_the_wire(value)) for name, value in told)
    return pb.Answer(
        status=replay.status,
        headers=[pb.Header(name=name, value=value) for name, value in fields],
        body=content if kept else b"",
        kept=kept,
        size=len(content),
        digest=sha256(content).digest(),
    )


def _as_on_the_wire(value: str) -> str:
    """A field's bytes, each as one character: of text that is UTF-8 (RFC 9110 5.5, obs-text)."""
    return value.encode().decode("iso-8859-1")


def _request(
    inquiry: Inquiry, route: pb.ToolRoute, url: str, within_s: float, credential: Credential | None
) -> UpstreamRequest:
    """The question has a key of its own: it is no repetition of the call, nor of the question before."""
    body = json.dumps(
        {
            "call_id": inquiry.call_id,
            "key": inquiry.key,
            "tool": inquiry.tool,
            "agent_id": inquiry.agent_id,
            "namespace": inquiry.namespace,
            "args_hash": inquiry.args_hash,
            "first_seen_ms": inquiry.first_seen_ms,
            "tries": inquiry.tries,
            "fence": inquiry.fence,
        },
        separators=(",", ":"),
    ).encode()
    outgoing = Outgoing("POST", url, body, inquiry.agent_id, inquiry.call_id, new_id("ask"), inquiry.fence)
    fields = (("Content-Type", JSON), ("Accept", JSON))
    headers = credential.on(fields) if credential is not None else fields
    signed = signed_headers(outgoing, route.secrets, route.secret_id, int(time.time()))
    return UpstreamRequest("POST", url, [*headers, *signed], body, within_s)


async def _read(answer: UpstreamAnswer, credential: Credential | None, most: int) -> bytes:
    """The body, with the tool's credential masked as in any answer. Errors: UpstreamError, _Unclear."""
    if answer.status != HTTPStatus.OK:
        raise _Unclear(f"status {answer.status}")
    if not is_readable(answer.headers):
        raise _Unclear("the answer is compressed")
    masked = credential.mask.pieces(answer.chunks()) if credential is not None and credential.mask else answer.chunks()
    return await _whole(masked, most)


async def _whole(pieces: AsyncIterator[bytes], most: int) -> bytes:
    body = bytearray()
    async for piece in pieces:
        body += piece
        if len(body) > most:
            raise _Unclear("the answer is too large")
    return bytes(body)


def _none(problem: str) -> Finding:
    return Finding(Said.NO_ANSWER, problem=problem)
