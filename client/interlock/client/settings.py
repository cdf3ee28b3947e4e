"""Where Interlock is, and the key to it: from what is given, else from the environment."""

import os
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from interlock.client.errors import ConfigurationError

DEFAULT_BASE_URL = "http://localhost:8400/v1"
VERSION = "0.1.0"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def base_url(given: str | None) -> str:
    """The API's root, with `/v1/`, of the address of a sidecar with or without. Errors: ConfigurationError."""
    named = (given or os.environ.get("INTERLOCK_BASE_URL") or DEFAULT_BASE_URL).strip()
    try:
        parts = urlsplit(named)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise ConfigurationError("invalid_base_url", f"not the address of a sidecar: {named!r}")
    return named.rstrip("/").removesuffix("/v1") + "/v1/"


def api_key(given: str | None) -> str:
    """The bearer key. Errors: ConfigurationError, which does not repeat it."""
    key = (given if given is not None else os.environ.get("INTERLOCK_API_KEY", "")).strip()
    if not key:
        raise ConfigurationError("missing_key", "no key: give api_key, or set INTERLOCK_API_KEY")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError("invalid_key", "the key holds characters that no key has")
    return key


def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine: then no HTTP_PROXY shall see the key."""
    return urlsplit(url).hostname in LOOPBACK


@dataclass(frozen=True, slots=True)
class Connecting:
    """How the API is reached."""

    base_url: str
    headers: dict[str, str]
    max_connections: int

    @classmethod
    def made_of(cls, key: str | None, url: str | None, namespace: str | None, max_connections: int) -> Self:
        """Errors: ConfigurationError."""
        headers = {"Authorization": f"Bearer {api_key(key)}", "User-Agent": f"interlock-client/{VERSION}"}
        acting_in = {"Interlock-Namespace": namespace} if namespace else {}
        return cls(base_url(url), headers | acting_in, max_connections)

    def settings(self) -> dict[str, Any]:
        """For `httpx.Client` and its twin."""
        return {
            "base_url": self.base_url,
            "headers": self.headers,
            "limits": httpx.Limits(max_connections=self.max_connections),
            "trust_env": not is_loopback(self.base_url),
            # Plain HTTP needs no certificates, and to load the system's takes longer than many a request.
            "verify": self.base_url.startswith("https:"),
        }
