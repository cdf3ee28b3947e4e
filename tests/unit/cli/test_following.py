import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from interlock.cli.client import FAILED, UNREACHABLE, ApiError
from interlock.cli.following import Follower

Line = dict[str, Any] | str | ApiError


def event(agent: str, seq: int) -> Line:
    return {"type": "decision", "agent_id": agent, "seq": seq}


def cursor(at: str) -> Line:
    return {"type": "cursor", "cursor": at}


def end(reason: str, message: str = "") -> Line:
    return {"type": "end", "reason": reason, "message": message}


LOST = ApiError("gone", UNREACHABLE, reason="unreachable")


class Connections:
    """The API, scripted: a list of lines for each connection."""

    def __init__(self, *connections: list[Line]) -> None:
        self._connections = [*connections]
        self.asked: list[dict[str, Any]] = []

    @contextmanager
    def lines(self, *_: str, stall_s: float, **asked: Any) -> Iterator[Iterator[str]]:
        self.asked.append({name: value for name, value in asked.items() if value is not None})
        yield self._lines(self._connections.pop(0))

    def _lines(self, lines: list[Line]) -> Iterator[str]:
        for line in lines:
            if isinstance(line, ApiError):
                raise line
            yield line if isinstance(line, str) else json.dumps(line)


def followed(api: Any, pauses: list[float] | None = None, *, on: bool = True) -> list[tuple[str, int]]:
    """What is shown until there is no way to go on."""
    follower = Follower(api, agent=None, last=3, on=on, sleep=(pauses if pauses is not None else []).append)
    seen: list[tuple[str, int]] = []
    try:
        for shown in follower.events():
            seen.append((shown["agent_id"], shown["seq"]))  # noqa: PERF401 - what came before a failure counts
    except ApiError as error:
        assert error.reason == "invalid_key", error
    return seen


def test_what_comes_again_after_the_cursor_is_shown_once() -> None:
    api = Connections(
        [cursor("t1"), event("a", 1), event("b", 4), LOST],
        [event("a", 1), event("b", 4), event("a", 2), cursor("t2"), event("a", 3), end("draining")],
        [event("a", 2), event("a", 3), event("c", 1), end("invalid_key")],
    )
    assert followed(api) == [("a", 1), ("b", 4), ("a", 2), ("a", 3), ("c", 1)]
    assert api.asked == [{"last": 3}, {"cursor": "t1"}, {"cursor": "t2"}]


@pytest.mark.parametrize("first", [[LOST], [end("too_many_followers", "64 follow")], ["<html>"], ["[]"]])
def test_who_never_began_is_told_at_once(first: list[Line]) -> None:
    with pytest.raises(ApiError) as raised:
        [*Follower(Connections(first), agent=None, last=0, on=True, sleep=pytest.fail).events()]  # type: ignore[arg-type] # scripted
    assert raised.value.exit_code in (UNREACHABLE, FAILED)


def test_a_stream_that_breaks_off_without_a_word_goes_on() -> None:
    assert followed(Connections([cursor("t1"), event("a", 1)], [event("a", 2), end("invalid_key")])) == [
        ("a", 1),
        ("a", 2),
    ]


def test_the_pauses_grow_to_a_limit_and_begin_anew_after_a_connection_that_held() -> None:
    pauses: list[float] = []
    followed(Connections([cursor("t1"), LOST], *[[LOST]] * 8, [cursor("t2"), LOST], [end("invalid_key")]), pauses)
    assert all(
        longest / 2 <= pause <= longest
        for pause, longest in zip(pauses, [0.2, 0.4, 0.8, 1.6, 3.2, *[5] * 4, 0.2], strict=True)
    )


def test_it_says_when_it_does_not_follow_and_when_it_does_again_once_each(capsys: pytest.CaptureFixture[str]) -> None:
    followed(Connections([cursor("t1"), LOST], [LOST], [LOST], [cursor("t2"), cursor("t3"), end("invalid_key")]))
    assert capsys.readouterr().err == "Not following: gone. Trying again …\nFollowing again.\n"


def test_a_gap_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    followed(Connections([cursor("t1"), event("a", 1), event("a", 9), end("invalid_key")]))
    assert "7 events of a are no longer kept" in capsys.readouterr().err


def test_up_to_now_ends_by_itself() -> None:
    api = Connections([event("a", 1), cursor("t1"), end("ended")])
    assert followed(api, on=False) == [("a", 1)]
    assert api.asked == [{"last": 3, "until_now": "true"}]


def test_a_server_in_trouble_is_asked_again_and_a_refusal_is_not() -> None:
    for status, tried in ((503, 2), (500, 2), (403, 1), (422, 1)):
        api = Connections(
            [cursor("t1"), LOST], [ApiError("no", FAILED, reason="x", status=status)], [end("invalid_key")]
        )
        follower = Follower(api, agent=None, last=0, on=True, sleep=lambda _: None)  # type: ignore[arg-type] # scripted
        with pytest.raises(ApiError):
            [*follower.events()]
        assert len(api.asked) == 1 + tried
