"""`interlock top`: the agents of a namespace at a glance, again and again."""

import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from interlock.cli.client import UNREACHABLE, ApiError, Client, connected
from interlock.cli.following import INTERRUPTED, until_interrupted
from interlock.cli.output import cell, show_json
from interlock.cli.sorting import Sort

Agent = Mapping[str, Any]

LONGEST_PAUSE_S = 10.0
SHARE_OF_TIME = 5
"""What a look takes, the pause takes so many times: with many agents the table is refreshed less often."""
BAR_CELLS = 10
TERMINATED = 128 + signal.SIGTERM
COLUMNS = ("agent", "on", "/min", "hour", "budget", "spent today", "blocked", "open", "?")
WORDS = frozenset({"agent", "on", "budget", "spent today"})
"""Columns that begin at the left; figures end at the right."""
NARROW, SHORTEST_NAME = 72, 8


@dataclass(frozen=True, slots=True)
class View:
    """What is shown: in which order, and how many at most."""

    sort: Sort
    limit: int | None


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen, when (unix s), and what is the matter if it is not new."""

    agents: Sequence[Agent]
    at: float
    problem: str = ""


def run(view: View, interval_s: float, *, once: bool, as_json: bool) -> None:
    """Shows it once, or until Ctrl-C: in place on a terminal, else one table after the other."""
    with connected() as api:
        if as_json:
            show_json(arranged(_agents(api), view))
        elif once:
            _plain(Look(_agents(api), time.time()), view)
        else:
            _again_and_again(api, view, interval_s)


def arranged(agents: Sequence[Agent], view: View) -> list[Agent]:
    """The agents in the order asked for; those that are equal in it by name."""
    by_name = sorted(agents, key=lambda agent: str(agent["agent_id"]))
    if view.sort is not Sort.AGENT:
        by_name.sort(key=_rank(view.sort), reverse=True)
    return by_name[: view.limit]


def _rank(sort: Sort) -> Any:
    fields = {
        Sort.RATE: lambda agent: (agent["actions_per_minute"], agent["actions_in_hour"]),
        Sort.SPEND: lambda agent: agent["spend_usd_today"],
        Sort.BUDGET: lambda agent: (used(agent) or 0, agent["spend_usd_today"]),
        Sort.BLOCKED: lambda agent: agent["blocked_today"],
        Sort.RUNNING: lambda agent: agent["running_calls"],
        Sort.UNKNOWN: lambda agent: agent["unknown_calls"],
        Sort.SEEN: lambda agent: agent["last_seen_at"] or "",
    }
    return fields[sort]


def used(agent: Agent) -> float | None:
    """Which share of the day's money is spent; None without a limit."""
    limit = agent["max_spend_usd_per_day"]
    if limit is None:
        return None
    return float(agent["spend_usd_today"] / limit) if limit else 1.0


def _agents(api: Client) -> list[Agent]:
    return api.pages("agents", by="agent_id")


def _again_and_again(api: Client, view: View, interval_s: float) -> None:
    console = Console()
    look = Look(_agents(api), time.time())
    if not console.is_terminal or console.is_dumb_terminal:
        with until_interrupted():
            while True:
                _plain(look, view)
                time.sleep(interval_s)
                look, _ = _looked(api, look)
    with _restored(), Live(console=console, screen=True, auto_refresh=False) as live, _resizes() as resized:
        pause_s = interval_s
        while True:
            live.update(_fitting(look, view, console), refresh=True)
            if _is_there_one(resized, pause_s):
                continue
            look, took_s = _looked(api, look)
            pause_s = min(max(interval_s, SHARE_OF_TIME * took_s), max(interval_s, LONGEST_PAUSE_S))


def _looked(api: Client, before: Look) -> tuple[Look, float]:
    """A new look, and how long it took, s. If nobody can be asked just now, the one before with what is the matter."""
    began = time.monotonic()
    try:
        look = Look(_agents(api), time.time())
    except ApiError as error:
        if error.exit_code != UNREACHABLE and error.status < 500:
            raise
        look = Look(before.agents, before.at, error.message)
    return look, time.monotonic() - began


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    """However it ends, the terminal is as it was: SIGTERM unwinds as Ctrl-C does."""

    def ended(*_: object) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, ended)
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _resizes() -> Iterator["SimpleQueue[None]"]:
    """One item each time that the terminal has got another size.

    A signal may come at any moment, also while the last one is being looked at: a SimpleQueue's `put` may interrupt its
    `get`, as its documentation says. An Event's `set` that interrupts its `clear` never ends.
    """
    resized: SimpleQueue[None] = SimpleQueue()
    before = signal.signal(signal.SIGWINCH, lambda *_: resized.put(None))
    try:
        yield resized
    finally:
        signal.signal(signal.SIGWINCH, before)


def _is_there_one(resized: "SimpleQueue[None]", within_s: float) -> bool:
    try:
        resized.get(timeout=within_s)
    except Empty:
        return False
    return True


def _plain(look: Look, view: View) -> None:
    """In a pipe so wide that no cell is broken; in a terminal without a cursor as wide as that."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    console = Console(width=width)
    console.print(Group(*_header(look, view), _table(arranged(look.agents, view), console)))
    sys.stdout.flush()


def _fitting(look: Look, view: View, console: Console) -> Group:
    """As many agents as the terminal has lines for."""
    header = _header(look, view)
    room = max(1, console.size.height - len(header) - 2)
    shown = arranged(look.agents, View(view.sort, min(room, view.limit or room)))
    return Group(*header, _table(shown, console))


def _header(look: Look, view: View) -> list[Text]:
    agents = look.agents
    off = sum(not agent["is_enabled"] for agent in agents)
    clock = datetime.fromtimestamp(look.at, UTC).strftime("%H:%M:%SZ")
    rate, spend = sum(of["actions_per_minute"] for of in agents), sum(of["spend_usd_today"] for of in agents)
    facts = [
        f"interlock {clock}",
        f"{len(agents)} agent{'' if len(agents) == 1 else 's'}" + (f", {off} off" if off else ""),
        f"{rate:.1f} calls/min",
        f"${spend:,.2f} today",
        f"by {view.sort}",
    ]
    lines = [Text(" · ".join(facts), style="bold", no_wrap=True, overflow="ellipsis")]
    if look.problem:
        lines.append(Text(f"as it was then: {cell(look.problem)}", style="red", no_wrap=True, overflow="ellipsis"))
    return lines


def _table(agents: Sequence[Agent], console: Console) -> Table:
    """The agents' ids take what room the figures leave them."""
    rows = [_row(agent, console) for agent in agents]
    columns = [column for column in COLUMNS if column != "budget" or console.width >= NARROW]
    taken = {name: max([len(name), *(len(row[name]) for row in rows)]) + 1 for name in columns}
    room = max(SHORTEST_NAME, console.width - sum(taken.values()) + taken["agent"])
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="reverse", pad_edge=False)
    for name in columns:
        width = min(taken[name] - 1, room - 1) if name == "agent" else taken[name] - 1
        table.add_column(
            name,
            justify="left" if name in WORDS else "right",
            no_wrap=True,
            overflow="ellipsis",
            min_width=width,
            max_width=width,
        )
    for row in rows:
        table.add_row(*(row[name] for name in columns))
    return table


def _row(agent: Agent, console: Console) -> dict[str, Text]:
    limit, share = agent["max_spend_usd_per_day"], used(agent)
    hour, most = agent["actions_in_hour"], agent["max_actions_per_hour"]
    spent = _short(agent["spend_usd_today"])
    return {
        "agent": Text(cell(agent["agent_id"])),
        "on": Text("on" if agent["is_enabled"] else "OFF", style="" if agent["is_enabled"] else "bold red"),
        "/min": Text(f"{agent['actions_per_minute']:.1f}"),
        "hour": Text(
            f"{hour}" if most is None else f"{hour}/{most}", style=_alarm(None if most is None else hour, most)
        ),
        "budget": Text("" if share is None else _bar(share, console), style=_alarm(share, 1)),
        "spent today": Text(f"${spent}" if limit is None else f"${spent}/{_short(limit)}"),
        "blocked": Text(str(agent["blocked_today"]), style="yellow" if agent["blocked_today"] else ""),
        "open": Text(str(agent["running_calls"])),
        "?": Text(str(agent["unknown_calls"]), style="bold red" if agent["unknown_calls"] else ""),
    }


def _alarm(used_up: float | None, limit: float | None) -> str:
    if used_up is None or limit is None:
        return ""
    return "red" if used_up >= limit else "yellow" if used_up >= 0.8 * limit else "green"


def _bar(share: float, console: Console) -> str:
    full, empty = ("█", "░") if console.encoding.startswith("utf") else ("#", ".")
    filled = min(BAR_CELLS, round(share * BAR_CELLS))
    return full * filled + empty * (BAR_CELLS - filled)


def _short(usd: float) -> str:
    """Dollars in few characters: 0.07, 12.50, 1200, 12k, 1.2M."""
    if usd < 1000:
        return f"{usd:.2f}"
    if usd < 10_000:
        return f"{usd:.0f}"
    return f"{usd / 1000:.0f}k" if usd < 1_000_000 else f"{usd / 1_000_000:.1f}M"
