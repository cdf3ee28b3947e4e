"""Events as they are recorded, over as many connections as it takes: none is lost between two, and none told twice."""

import contextlib
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import typer

from interlock.cli.client import UNREACHABLE, ApiError, Client

Event = Mapping[str, Any]

STALL_S = 15.0
"""The API says at least every five seconds where it stands; silence for longer is a dead connection."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
PASSING = frozenset({"governance_unavailable", "draining", "ended", "too_many_followers", "busy", "unreachable"})
"""Reasons for an end after which it is worth to connect again."""
INTERRUPTED = 130
"""As a shell says of what Ctrl-C ended."""


@contextlib.contextmanager
def until_interrupted() -> Iterator[None]:
    """Ctrl-C ends what is inside, without a word."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


class Follower:
    """What is read of the trail. The first connection must succeed; later ones are tried until one does."""

    def __init__(
        self, api: Client, *, agent: str | None, last: int, on: bool, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._api = api
        self._agent = agent
        self._last = last
        self._on = on
        self._sleep = sleep
        self._cursor: str | None = None
        self._seqs: dict[str, int] = {}
        self._pause_s = FIRST_PAUSE_S

    def events(self) -> Iterator[Event]:
        """Raises ApiError if there is no way to go on. Without `on` it ends with what is recorded now."""
        connected = False
        while True:
            try:
                for event in self._connection():
                    connected = True
                    yield event
                if not self._on:
                    return
                lost = "the other side ended the stream"
            except ApiError as error:
                passing = error.reason in PASSING or error.status >= 500
                if not passing or not (connected or self._cursor):
                    raise
                lost = error.message
            self._wait(lost)

    def _connection(self) -> Iterator[Event]:
        """The events of one connection that have not been told."""
        asked: dict[str, str | int | None] = {"agent_id": self._agent, "cursor": self._cursor}
        if self._cursor is None:
            asked["last"] = self._last
        if not self._on:
            asked["until_now"] = "true"
        with self._api.lines("audit", "follow", stall_s=STALL_S, **asked) as lines:
            for line in lines:
                told = _told(line)
                match told["type"]:
                    case "cursor":
                        self._went_on(told["cursor"])
                    case "end":
                        if told["reason"] != "ended":
                            raise ApiError(told.get("message") or told["reason"], reason=told["reason"])
                        return
                    case _ if self._is_new(told):
                        yield told
        raise ApiError("the stream broke off", UNREACHABLE, reason="unreachable")

    def _is_new(self, event: Event) -> bool:
        agent, seq = event["agent_id"], event["seq"]
        known = self._seqs.get(agent)
        if known is not None and seq <= known:
            return False
        if known is not None and seq > known + 1:
            typer.echo(f"{seq - known - 1} events of {agent} are no longer kept", err=True)
        self._seqs[agent] = seq
        return True

    def _went_on(self, cursor: str) -> None:
        if self._pause_s > FIRST_PAUSE_S:
            typer.echo("Following again.", err=True)
        self._cursor, self._pause_s = cursor, FIRST_PAUSE_S

    def _wait(self, why: str) -> None:
        if self._pause_s == FIRST_PAUSE_S:
            typer.echo(f"Not following: {why}. Trying again …", err=True)
        self._sleep(self._pause_s * random.uniform(0.5, 1))  # noqa: S311 - spreads who comes back, no secret
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)


def _told(line: str) -> dict[str, Any]:
    try:
        told = json.loads(line)
    except ValueError as error:
        raise ApiError("no answer of Interlock's: a line that is not JSON") from error
    if not isinstance(told, dict) or "type" not in told:
        raise ApiError("no answer of Interlock's: a line that is no event")
    return told
