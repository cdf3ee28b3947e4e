"""Calls of tools by the way out alone, without a sidecar before it."""

from typing import Any

import pytest

from interlock.proxy.upstream import Upstream, UpstreamError, UpstreamRequest

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def request_to(url: str, **changes: Any) -> UpstreamRequest:
    request: dict[str, Any] = {"method": "POST", "url": url, "headers": [], "body": b"", "timeout_s": 5}
    return UpstreamRequest(**request | changes)


async def fetch(upstream: Upstream, request: UpstreamRequest) -> tuple[int, list[tuple[str, str]], bytes]:
    async with upstream.send(request) as answer:
        return answer.status, answer.headers, b"".join([chunk async for chunk in answer.chunks()])


async def failure(upstream: Upstream, request: UpstreamRequest) -> tuple[str, bool]:
    with pytest.raises(UpstreamError) as failed:
        await fetch(upstream, request)
    return failed.value.reason, failed.value.sent
