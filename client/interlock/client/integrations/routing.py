"""An httpx transport by which tool calls that are there already go through the sidecar, without a word of them changed.

`httpx.Client(transport=RoutingTransport({"https://api.pay.example/": "pay"}))` sends what was meant for that address to
`/tools/pay` of the sidecar. What the tool answers comes back as it is; that a call was refused, or that there is no
answer of the tool's, is raised as a typed error, since the tool has not said it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

import httpx

from interlock.client.answers import decoded
from interlock.client.errors import CallRefusedError, ConfigurationError, InterlockError, InvalidAnswerError
from interlock.client.retrying import retry_after_s
from interlock.client.settings import api_key, base_url, is_loopback

PROBLEM_TYPE = "https://interlock.dev/problems/"
TOLD_BY_TOOL = frozenset({"executed", "dedup"})
"""Decisions beside which the answer is the tool's, unless it is a problem of Interlock's."""
OWN_ERRORS = frozenset({409, 502, 503, 504})
"""Statuses of such problems."""
NOT_SENT_ON = ("host", "authorization", "cookie", "proxy-authorization", "origin")
"""What the caller had for the tool itself: the sidecar injects the tool's own credential, which no agent sees."""


class UnroutedError(InterlockError):
    """An address that no tool stands for: nothing was sent. Register a tool, or name a transport for all others."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where calls to one address go."""

    origin: str
    path: str
    tool: str

    @classmethod
    def of(cls, address: str, tool: str) -> "Route":
        """Errors: ConfigurationError for an address that is no http(s) URL, or has a query."""
        url = httpx.URL(address)
        if url.scheme not in {"http", "https"} or not url.host or url.query or url.fragment or not tool:
            raise ConfigurationError("invalid_route", f"{address!r} to {tool!r} is no route")
        return cls(_origin(url), _path(url).rstrip("/"), tool)

    def below(self, url: httpx.URL) -> str | None:
        """The rest of the URL's path, or None if the URL is not this address or below it."""
        path = _path(url)
        if _origin(url) != self.origin or not (path == self.path or path.startswith(f"{self.path}/")):
            return None
        return path.removeprefix(self.path).rstrip("/") and path.removeprefix(self.path)


def _origin(url: httpx.URL) -> str:
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return f"{url.scheme}://{url.host}:{port}"


def _path(url: httpx.URL) -> str:
    return url.raw_path.partition(b"?")[0].decode("ascii")


class Routes:
    """Which calls go where, and what they say: shared by both transports."""

    def __init__(
        self,
        tools: Mapping[str, str],
        *,
        key: str | None,
        url: str | None,
        agent_id: str | None,
        run_id: str | None,
        wait_s: int | None,
    ) -> None:
        found = [Route.of(address, tool) for address, tool in tools.items()]
        self._routes = sorted(found, key=lambda route: len(route.path), reverse=True)
        self.sidecar = httpx.URL(base_url(url)).join("/")
        said = {
            "Authorization": f"Bearer {api_key(key)}",
            "Interlock-Agent": agent_id,
            "Interlock-Run-Id": run_id,
            "Prefer": None if wait_s is None else f"wait={wait_s}",
        }
        self._said = {name: value for name, value in said.items() if value is not None}

    def routed(self, request: httpx.Request) -> httpx.Request | None:
        """The same call as the sidecar takes it, or None if no tool stands for its address."""
        for route in self._routes:
            below = route.below(request.url)
            if below is not None:
                return self._rewritten(request, route.tool, below)
        return None

    def _rewritten(self, request: httpx.Request, tool: str, below: str) -> httpx.Request:
        query = request.url.query
        target = f"/tools/{quote(tool, safe='')}{below}".encode() + (b"?" + query if query else b"")
        headers = [(name, value) for name, value in request.headers.multi_items() if name.lower() not in NOT_SENT_ON]
        given = {name.lower() for name, _ in headers}
        # What the call says for itself stands before what was said for all.
        said = [(name, value) for name, value in self._said.items() if name.lower() not in given]
        return httpx.Request(
            request.method,
            self.sidecar.copy_with(raw_path=target),
            headers=[("Host", self.sidecar.netloc.decode("ascii")), *headers, *said],
            stream=request.stream,
            extensions=request.extensions,
        )


def is_refusal(response: httpx.Response) -> bool:
    """Whether Interlock says this: the sidecar lets no such field of a tool's pass. Errors: InvalidAnswerError."""
    decision = response.headers.get("Interlock-Decision")
    if decision is None:
        raise InvalidAnswerError("invalid_answer", "what answered is no sidecar: it told no Interlock-Decision")
    if decision not in TOLD_BY_TOOL:
        return True
    return response.status_code in OWN_ERRORS and response.headers.get("Content-Type") == "application/problem+json"


def raise_refusal(response: httpx.Response) -> None:
    """Errors: CallRefusedError, unless a whole answer is a problem document of the tool's own; InvalidAnswerError."""
    told = decoded(response)
    if not isinstance(told, dict):
        raise InvalidAnswerError("invalid_answer", "a refusal is a problem document")
    decision = response.headers["Interlock-Decision"]
    if decision in TOLD_BY_TOOL and not str(told.get("type", "")).startswith(PROBLEM_TYPE):
        return
    raise CallRefusedError(
        str(told.get("reason", f"http_{response.status_code}")),
        str(told.get("detail", "no reason was given")),
        decision=decision,
        status=response.status_code,
        detail=told,
        request_id=response.headers.get("X-Request-Id"),
        retry_after_s=retry_after_s(response.headers),
    )


class RoutingTransport(httpx.BaseTransport):
    """For `httpx.Client`. `tools` maps the beginnings of addresses to tools' names; the longest that fits counts.

    Key and sidecar are found as by `Interlock`. A call may carry its own `Idempotency-Key`, `Interlock-Agent`,
    `Interlock-Run-Id`, `Interlock-Spend-Usd` and `Prefer`. Other addresses are refused (UnroutedError), unless `others`
    is a transport that takes them there ungoverned. With `raising=False` refusals come back as the problem documents
    that they are. Errors: CallRefusedError; those of httpx if there is no answer.
    """

    def __init__(
        self,
        tools: Mapping[str, str],
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        wait_s: int | None = None,
        raising: bool = True,
        others: httpx.BaseTransport | None = None,
    ) -> None:
        self._routes = Routes(tools, key=api_key, url=base_url, agent_id=agent_id, run_id=run_id, wait_s=wait_s)
        self._raising = raising
        self._others = others
        self._inner = httpx.HTTPTransport(trust_env=not is_loopback(str(self._routes.sidecar)))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        routed = self._routes.routed(request)
        if routed is None:
            if self._others is None:
                raise UnroutedError("unrouted", f"no tool stands for {request.url.copy_with(query=None)}")
            return self._others.handle_request(request)
        response = self._inner.handle_request(routed)
        if self._raising:
            try:
                if is_refusal(response):
                    response.read()
                    raise_refusal(response)
            except InterlockError:
                response.close()
                raise
        return response

    def close(self) -> None:
        self._inner.close()
        if self._others is not None:
            self._others.close()


class AsyncRoutingTransport(httpx.AsyncBaseTransport):
    """For `httpx.AsyncClient`; otherwise as `RoutingTransport`."""

    def __init__(
        self,
        tools: Mapping[str, str],
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        wait_s: int | None = None,
        raising: bool = True,
        others: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._routes = Routes(tools, key=api_key, url=base_url, agent_id=agent_id, run_id=run_id, wait_s=wait_s)
        self._raising = raising
        self._others = others
        self._inner = httpx.AsyncHTTPTransport(trust_env=not is_loopback(str(self._routes.sidecar)))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        routed = self._routes.routed(request)
        if routed is None:
            if self._others is None:
                raise UnroutedError("unrouted", f"no tool stands for {request.url.copy_with(query=None)}")
            return await self._others.handle_async_request(request)
        response = await self._inner.handle_async_request(routed)
        if self._raising:
            try:
                if is_refusal(response):
                    await response.aread()
                    raise_refusal(response)
            except InterlockError:
                await response.aclose()
                raise
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()
        if self._others is not None:
            await self._others.aclose()
