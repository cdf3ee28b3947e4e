"""Names of agents and tools for the shell's completion: from the API if it answers at once, else none.

A shell that waits for a TAB must neither hang nor see an error: whatever goes wrong, there is nothing to offer.
"""
# ruff: noqa: PLC0415 - loaded on a TAB only

import contextlib
import json
import os
import threading
from typing import Any
from urllib.parse import quote, urlsplit

from interlock.cli.client import DEFAULT_BASE_URL, api_key, base_url

WITHIN_S = 0.7
OFFERED = 200


def agent_names(incomplete: str) -> list[str]:
    """Agents whose ids begin so, as many as are worth to be offered."""
    before = quote(incomplete[:-1], safe="")
    after = f"&after={before}" if before else ""
    return [name for name in _names(f"agents?limit={OFFERED}{after}", "agent_id") if name.startswith(incomplete)]


def tool_names(incomplete: str) -> list[str]:
    """Tools whose names begin so."""
    return [name for name in _names("tools", "name") if name.startswith(incomplete)]


def _names(path: str, field: str) -> list[str]:
    """One field of each item of a list. The thread is left behind if it takes long: a name server, a slow answer."""
    found: list[str] = []

    def ask() -> None:
        with contextlib.suppress(Exception):  # see above: there is nobody to be told
            found.extend(sorted({str(item[field]) for item in _asked(path)}))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(WITHIN_S)
    return [*found]


def _asked(path: str) -> Any:
    from http.client import HTTPConnection, HTTPSConnection

    root = urlsplit(base_url(os.environ.get("INTERLOCK_BASE_URL") or DEFAULT_BASE_URL))
    kind = HTTPSConnection if root.scheme == "https" else HTTPConnection
    key = api_key(os.environ.get("INTERLOCK_API_KEY", ""))
    named = os.environ.get("INTERLOCK_NAMESPACE", "")
    acting_in = {"Interlock-Namespace": named} if named else {}
    with contextlib.closing(kind(root.hostname or "", root.port, timeout=WITHIN_S)) as connection:
        connection.request("GET", f"{root.path}{path}", headers={"Authorization": f"Bearer {key}", **acting_in})
        return json.loads(connection.getresponse().read())
