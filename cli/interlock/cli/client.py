"""The operator commands' way to the API: where it is, the key to it, and what its failures mean to a script.

Exit codes: 0 done · 1 refused or failed · 2 wrong usage · 3 the API cannot be reached · 4 not found.
"""
# ruff: noqa: PLC0415 - httpx takes longer to load than all else, and `--help` and completion need none of it

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import typer

from interlock.cli.acting import acting_in
from interlock.governance.errors import InterlockError

if TYPE_CHECKING:
    import httpx

DEFAULT_BASE_URL = "http://127.0.0.1:8400"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
TIMEOUT_S = 10.0

FAILED = 1
USAGE = 2
UNREACHABLE = 3
NOT_FOUND = 4

EXIT_CODES = (
    "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 the API cannot be reached, 4 not found. "
    "The API is found by INTERLOCK_BASE_URL and INTERLOCK_API_KEY."
)
"""The epilog of every command group's help."""

NEXT = {
    "unreachable": "is it running? `interlock dev` starts one; INTERLOCK_BASE_URL names another",
    "invalid_key": "INTERLOCK_API_KEY holds no key, or a revoked one; `interlock dev` prints one, and an operator makes"
    " others: interlock keys create --role viewer",
    "permission_denied": "take a key of a greater role: interlock keys create --role operator",
    "no_such_route": "INTERLOCK_BASE_URL is the address of a sidecar, as in http://127.0.0.1:8400; is it an older one?",
    "tool_not_found": "interlock tools list",
    "policy_not_found": "interlock policies list",
    "key_not_found": "interlock keys list",
    "call_not_found": "interlock calls list, or interlock audit tail: a call that is over is kept in the trail only",
    "call_not_open": "interlock calls show CALL",
    "governance_unavailable": "the engine or its Redis is away; the admin port's /readyz says when it is back",
}
"""What to do about a failure, by its reason."""

MAX_LISTED = 1000
"""As many as the API lists at once: the most that `--limit` may say."""

Json = Any
Params = Mapping[str, str | int | None]


class ApiError(InterlockError):
    """A request to the API did not succeed; `exit_code` says so to scripts."""

    def __init__(self, message: str, exit_code: int = FAILED, *, reason: str = "api_error", status: int = 0) -> None:
        super().__init__(reason, message)
        self.exit_code = exit_code
        self.status = status


class Client:
    """The REST API. Methods give the decoded answer or raise ApiError."""

    def __init__(self, http: "httpx.Client") -> None:
        self._http = http

    def get(self, *segments: str, **params: str | int | None) -> Json:
        """GETs the path made of `segments`; parameters that are None are left out."""
        return self._send("GET", segments, params)

    def post(self, *segments: str, body: Mapping[str, object], **params: str | int | None) -> Json:
        """POSTs a JSON body."""
        return self._send("POST", segments, params, body)

    def pages(self, *segments: str, of: int = MAX_LISTED, by: str) -> list[Json]:
        """All of a list that is told in pages: each begins after the `by` of the last item of the one before."""
        found: list[Json] = []
        after = None
        while True:
            page = self.get(*segments, limit=of, after=after)
            found += page
            if len(page) < of:
                return found
            after = page[-1][by]

    @contextmanager
    def lines(self, *segments: str, stall_s: float, **params: str | int | None) -> Iterator[Iterator[str]]:
        """The lines of an answer that goes on, as they come. Raises ApiError, UNREACHABLE when they break off."""
        import httpx

        given = {name: value for name, value in params.items() if value is not None}
        timeout = httpx.Timeout(TIMEOUT_S, read=stall_s)
        try:
            with self._http.stream("GET", _path(segments), params=given, timeout=timeout) as response:
                if not response.is_success:
                    response.read()
                    decoded(response)
                yield response.iter_lines()
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def delete(self, *segments: str, **params: str | int | None) -> Json:
        """DELETEs what the path names."""
        return self._send("DELETE", segments, params)

    def _send(
        self, method: str, segments: tuple[str, ...], params: Params, body: Mapping[str, object] | None = None
    ) -> Json:
        import httpx

        given = {name: value for name, value in params.items() if value is not None}
        try:
            response = self._http.request(method, _path(segments), params=given, json=body)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        return decoded(response)

    def _unreachable(self, error: Exception) -> ApiError:
        return ApiError(f"{self._http.base_url} cannot be reached: {error}", UNREACHABLE, reason="unreachable")


def _path(segments: tuple[str, ...]) -> str:
    return "/".join(quote(segment, safe="") for segment in segments)


@contextmanager
def connected(timeout_s: float = TIMEOUT_S) -> Iterator[Client]:
    """A client as the environment describes it. A failure inside ends the command: its message, its exit code."""
    import httpx

    try:
        root = base_url(os.environ.get("INTERLOCK_BASE_URL") or DEFAULT_BASE_URL)
        key = api_key(os.environ.get("INTERLOCK_API_KEY", ""))
        with httpx.Client(
            base_url=root,
            headers={"Authorization": f"Bearer {key}"} | acting_in(),
            timeout=timeout_s,
            trust_env=urlsplit(root).hostname not in LOOPBACK,  # HTTP_PROXY shall not see a key meant for this machine
        ) as http:
            yield Client(http)
    except ApiError as error:
        typer.echo(f"Error: {error.message}", err=True)
        if error.reason in NEXT:
            typer.echo(f"Next: {NEXT[error.reason]}", err=True)
        raise typer.Exit(error.exit_code) from error


def base_url(given: str) -> str:
    """The API's root for the address of a sidecar, with or without `/v1`. Raises ApiError if it is no http(s) URL."""
    try:
        parts = urlsplit(given.strip())
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ApiError(f"INTERLOCK_BASE_URL is not an http(s) URL: {given}", USAGE)
    root = given.strip().rstrip("/").removesuffix("/v1")
    return f"{root}/v1/"


def api_key(given: str) -> str:
    """The key from the environment. Raises ApiError if there is none, or none that a header could carry."""
    key = given.strip()
    if not key:
        raise ApiError("INTERLOCK_API_KEY is not set; `interlock dev` prints a key to begin with", USAGE)
    if not key.isascii() or not key.isprintable():
        raise ApiError("INTERLOCK_API_KEY holds characters that no key has", USAGE)
    return key


def decoded(response: "httpx.Response") -> Json:
    """The JSON of a good answer. Raises ApiError for any other, with what the API says of it."""
    try:
        answer = response.json()
    except ValueError as error:
        raise ApiError(f"no answer of Interlock's: HTTP {response.status_code} without JSON") from error
    if response.is_success:
        return answer
    detail = answer.get("detail", answer) if isinstance(answer, dict) else answer
    # The router's own 404 has text for a detail: then it is the address that is wrong, not a name.
    missing = response.status_code == 404 and isinstance(detail, dict)
    raise ApiError(
        explained(response.status_code, detail),
        NOT_FOUND if missing else FAILED,
        reason=_reason(response.status_code, detail),
        status=response.status_code,
    )


def _reason(status: int, detail: Json) -> str:
    if isinstance(detail, dict):
        return str(detail.get("error", "api_error"))
    return {401: "invalid_key", 403: "invalid_key", 404: "no_such_route"}.get(status, "api_error")


def explained(status: int, detail: Json) -> str:
    """An error's `detail` in one line, or a line for each invalid value."""
    if status == 422 and isinstance(detail, list):
        return "\n".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in detail)
    if isinstance(detail, dict) and "message" in detail:
        return f"{detail['message']} ({detail.get('error', status)})"
    return f"{detail} (HTTP {status})"
