"""What is told of the rounds: one table of medians, what Interlock counted of itself, and the first bars."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.figures import NONE, STEPS, Figures
from bench.load import Calls, Sample
from bench.rounds import DIRECT, EMBEDDED, NGINX, Cell, Measured

LABELS = {DIRECT: "the tool itself", NGINX: "nginx", EMBEDDED: "Interlock embedded", "remote": "Interlock remote"}
HEAD = ("calls", "conn.", "way", "calls/s", "of nginx", "p50 ms", "added", "p99 ms", "errors")

BAR_CONNECTIONS = 16
LEAST_RATIO = 0.05
ROUND_TRIPS = 2
MOST_RESIDENT_MIB = 120


@dataclass(frozen=True, slots=True)
class Line:
    """Medians of one cell. `to_nginx` is a ratio of calls/s, `added_ms` the p50 less that of the tool itself."""

    cell: Cell
    calls_per_s: float
    to_nginx: float | None
    p50_ms: float
    added_ms: float
    p99_ms: float
    errors: int


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that has to hold, and whether it does. An exact one fails the benchmark; speed is the machine's."""

    what: str
    found: float
    holds: bool
    exact: bool


def lines(measured: Measured) -> list[Line]:
    """The table's, in the order they were measured in: by kind of calls, connections, way."""
    median_of = {cell: _median(samples) for cell, samples in measured.samples.items()}
    return [_line(cell, median_of) for cell in sorted(median_of, key=_place)]


def table(told: Sequence[Line]) -> Iterator[str]:
    """As Markdown that also reads well where it is not rendered."""
    rows = [HEAD, *(_cells(line) for line in told)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    for number, row in enumerate(rows):
        yield _row(
            [
                text.ljust(width) if column in {0, 2} else text.rjust(width)
                for column, (text, width) in enumerate(zip(row, widths, strict=True))
            ]
        )
        if number == 0:
            yield _row(
                ["-" * width if column in {0, 2} else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
            )


def counted(measured: Measured) -> dict[str, Any]:
    """What each Interlock counted of itself, by way."""
    return {
        way: {
            "resident_mib": weights,
            "executed": _own_account(_total(measured, way, Calls.DIFFER)),
            "steps_us": _steps(measured, way),
            "cpu_us_per_call": _processor(measured, way, [*weights, "redis"]),
        }
        for way, weights in measured.resident_mib.items()
    }


def bars(told: Sequence[Line], account: Mapping[str, Any]) -> list[Bar]:
    """The first ones; the hot path gets higher ones of its own."""
    found = [Bar("errors: 0", (errors := sum(line.errors for line in told)), errors == 0, exact=True)]
    for way, own in account.items():
        trips = own["executed"]["scripts_per_settled_call"]
        what = f"{LABELS[way]}: {ROUND_TRIPS} Redis round trips a settled call"
        found.append(Bar(what, trips, trips == ROUND_TRIPS, exact=True))
    ratio = next((line.to_nginx for line in told if line.cell == Cell(Calls.DIFFER, BAR_CONNECTIONS, EMBEDDED)), None)
    what = f"{LABELS[EMBEDDED]}: calls that differ at least {LEAST_RATIO} of nginx at {BAR_CONNECTIONS} connections"
    if ratio is not None:
        found.append(Bar(what, ratio, ratio >= LEAST_RATIO, exact=False))
    for way, own in account.items():
        for role, weights in own["resident_mib"].items():
            if (weight := weights[-1]) is not None:
                what = f"{LABELS[way]}: {role} in at most {MOST_RESIDENT_MIB} MiB of resident memory"
                found.append(Bar(what, weight, weight <= MOST_RESIDENT_MIB, exact=False))
    return found


def account_told(account: Mapping[str, Any]) -> Iterator[str]:
    """The same in words."""
    for way, own in account.items():
        executed, label = own["executed"], LABELS[way]
        trips, asked = executed["scripts_per_settled_call"], executed["asked_of_redis_per_settled_call"]
        yield f"{label}: {executed['calls']:,} calls executed; each took {trips:g} scripts, {asked:g} round trips"
        yield f"{label}: mean time of a step at the fewest connections: {_list(own['steps_us'], 'µs')}"
        yield f"{label}: processor time of a call at the most connections: {_list(own['cpu_us_per_call'], 'µs')}"
        resident = {role: f"{weights[0]} … {weights[-1]}" for role, weights in own["resident_mib"].items()}
        yield f"{label}: resident memory after the first … the last round: {_list(resident, 'MiB')}"


def bars_told(found: Sequence[Bar]) -> Iterator[str]:
    """One line each."""
    for bar in found:
        yield f"{'holds ' if bar.holds else 'MISSED'}  {bar.what} (found {bar.found:g})"


def _list(named: Mapping[str, object], unit: str) -> str:
    return ", ".join(f"{name} {value} {unit}" for name, value in named.items())


def _median(samples: Sequence[Sample]) -> Sample:
    """Of each figure by itself; errors are summed up."""
    return Sample(
        calls=round(median(sample.calls_per_s for sample in samples)),
        seconds=1,
        p50_us=round(median(sample.p50_us for sample in samples)),
        p99_us=round(median(sample.p99_us for sample in samples)),
        errors=sum(sample.errors for sample in samples),
    )


def _line(cell: Cell, median_of: Mapping[Cell, Sample]) -> Line:
    own = median_of[cell]
    direct = median_of[Cell(cell.calls, cell.connections, DIRECT)]
    nginx = median_of.get(Cell(cell.calls, cell.connections, NGINX))
    return Line(
        cell=cell,
        calls_per_s=own.calls_per_s,
        to_nginx=round(own.calls_per_s / nginx.calls_per_s, 3) if nginx and nginx.calls else None,
        p50_ms=own.p50_us / 1000,
        added_ms=round((own.p50_us - direct.p50_us) / 1000, 3),
        p99_ms=own.p99_us / 1000,
        errors=own.errors,
    )


def _place(cell: Cell) -> tuple[int, int, int]:
    return list(Calls).index(cell.calls), cell.connections, list(LABELS).index(cell.way)


def _cells(line: Line) -> tuple[str, ...]:
    ratio = "-" if line.to_nginx is None else f"{line.to_nginx:.3f}"
    added = "" if line.cell.way == DIRECT else f"{line.added_ms:+.2f}"
    return (
        *(line.cell.calls, str(line.cell.connections), LABELS[line.cell.way], f"{line.calls_per_s:,.0f}", ratio),
        *(f"{line.p50_ms:.2f}", added, f"{line.p99_ms:.2f}", str(line.errors)),
    )


def _row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _total(measured: Measured, way: str, calls: Calls) -> Figures:
    return sum((grown for cell, grown in measured.figures.items() if (cell.way, cell.calls) == (way, calls)), NONE)


def _own_account(grown: Figures) -> dict[str, float]:
    settled = max(1, grown.settled)
    return {
        "calls": grown.executed,
        "settled": grown.settled,
        "scripts_per_settled_call": round(grown.scripts_run / settled, 4),
        "asked_of_redis_per_settled_call": round(grown.asked_of_redis / settled, 4),
    }


def _steps(measured: Measured, way: str) -> dict[str, float]:
    """Mean times of the steps of a call where as few as possible ran at once, µs."""
    fewest = min(cell.connections for cell in measured.figures)
    grown = measured.figures[Cell(Calls.DIFFER, fewest, way)]
    return {step: grown.mean_us(step) for step in STEPS.values()}


def _processor(measured: Measured, way: str, processes: Sequence[str]) -> dict[str, float]:
    """Processor time for each executed call where as many as possible ran at once, µs."""
    most = max(cell.connections for cell in measured.figures)
    grown = measured.figures[Cell(Calls.DIFFER, most, way)]
    return {process: round(grown.cpu_us(process) / max(1, grown.executed)) for process in processes}
