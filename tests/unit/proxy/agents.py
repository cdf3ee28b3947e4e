"""Agents of a sidecar: one that speaks httpx, one on a bare socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from interlock.proxy.app import Sidecar

KEY = {"Authorization": "Bearer once_live_x"}


@asynccontextmanager
async def client(sidecar: Sidecar) -> AsyncIterator[httpx.AsyncClient]:
    base = f"http://127.0.0.1:{sidecar.port}"
    async with httpx.AsyncClient(base_url=base, headers=KEY, timeout=30) as speaking:
        yield speaking


async def spoken(sidecar: Sidecar, request: bytes) -> bytes:
    """What comes back on a bare socket until the sidecar closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
    writer.write(request)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return answer


def request_bytes(target: str = "/tools/charge", headers: str = "", body: bytes = b"", method: str = "POST") -> bytes:
    head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer k\r\nConnection: close\r\n{headers}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def body_of(answer: bytes) -> bytes:
    return answer.split(b"\r\n\r\n", 1)[1]


def reason_of(answer: bytes) -> str:
    return str(json.loads(body_of(answer))["reason"])
