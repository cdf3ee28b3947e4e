"""The operator commands' way to the API: where it is, the key to it, and what its failures mean to a script.

Exit codes: 0 done · 1 refused or failed · 2 wrong usage · 3 the API cannot be reached · 4 not found.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import typer

from interlock.governance.errors import InterlockError

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

Json = Any
Params = Mapping[str, str | int | None]


class ApiError(InterlockError):
    """A request to the API did not succeed; `exit_code` says so to scripts."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__("api_error", message)
        self.exit_code = exit_code


class Client:
    """The REST API. Methods give the decoded answer or raise ApiError."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def get(self, *segments: str, **params: str | int | None) -> Json:
        """GETs the path made of `segments`; parameters that are None are left out."""
        return self._send("GET", segments, params)

    def post(self, *segments: str, body: Mapping[str, object], **params: str | int | None) -> Json:
        """POSTs a JSON body."""
        return self._send("POST", segments, params, body)

    def delete(self, *segments: str, **params: str | int | None) -> Json:
        """DELETEs what the path names."""
        return self._send("DELETE", segments, params)

    def _send(
        self, method: str, segments: tuple[str, ...], params: Params, body: Mapping[str, object] | None = None
    ) -> Json:
        path = "/".join(quote(segment, safe="") for segment in segments)
        given = {name: value for name, value in params.items() if value is not None}
        try:
            response = self._http.request(method, path, params=given, json=body)
        except httpx.TransportError as error:
            raise ApiError(f"{self._http.base_url} cannot be reached: {error}", UNREACHABLE) from error
        return decoded(response)


@contextmanager
def connected() -> Iterator[Client]:
    """A client as the environment describes it. A failure inside ends the command: its message, its exit code."""
    try:
        root = base_url(os.environ.get("INTERLOCK_BASE_URL") or DEFAULT_BASE_URL)
        key = api_key(os.environ.get("INTERLOCK_API_KEY", ""))
        with httpx.Client(
            base_url=root,
            headers={"Authorization": f"Bearer {key}"},
            timeout=TIMEOUT_S,
            trust_env=urlsplit(root).hostname not in LOOPBACK,  # HTTP_PROXY shall not see a key meant for this machine
        ) as http:
            yield Client(http)
    except ApiError as error:
        typer.echo(f"Error: {error.message}", err=True)
        raise typer.Exit(error.exit_code) from error


def base_url(given: str) -> str:
    """The API's root for the address of a sidecar, with or without `/v1`. Raises ApiError if it is no http(s) URL."""
    parts = urlsplit(given.strip())
    if parts.scheme not in {"http", "https"} or not parts.netloc:
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


def decoded(response: httpx.Response) -> Json:
    """The JSON of a good answer. Raises ApiError for any other, with what the API says of it."""
    try:
        answer = response.json()
    except ValueError as error:
        raise ApiError(f"no answer of Interlock's: HTTP {response.status_code} without JSON") from error
    if response.is_success:
        return answer
    detail = answer.get("detail", answer) if isinstance(answer, dict) else answer
    # The router's own 404 has text for a detail: then it is the address that is wrong, not a name.
    missing = response.status_code == httpx.codes.NOT_FOUND and isinstance(detail, dict)
    raise ApiError(explained(response.status_code, detail), NOT_FOUND if missing else FAILED)


def explained(status: int, detail: Json) -> str:
    """An error's `detail` in one line, or a line for each invalid value."""
    if status == httpx.codes.UNPROCESSABLE_ENTITY and isinstance(detail, list):
        return "\n".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in detail)
    if isinstance(detail, dict) and "message" in detail:
        return f"{detail['message']} ({detail.get('error', status)})"
    return f"{detail} (HTTP {status})"
