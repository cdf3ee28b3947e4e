"""The load: wrk (https://github.com/wg/wrk), as many connections as asked, one call after the other on each."""

import asyncio
import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bench.failure import BenchError

SCRIPT = Path(__file__).with_name("load.lua")
HEADERS = {"Content-Type": "application/json"}
ANSWER_WITHIN_S = 5
ENDS_WITHIN_S = 30


class Calls(StrEnum):
    """Whether each call is a new one, or all are the same: then the first is executed and the others are replays."""

    DIFFER = "differ"
    REPEAT = "repeat"


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of wrk. Latencies in µs; `errors` are calls without an answer, or with one that is not 2xx."""

    calls: int
    seconds: float
    p50_us: int
    p99_us: int
    errors: int

    @property
    def calls_per_s(self) -> float:
        return self.calls / self.seconds


def _body() -> str:
    """The arguments of an order that no other run has; load.lua counts its number up."""
    order = {"order": f"{secrets.token_hex(8)}-{0:012}", "amount_usd": 12.5, "currency": "EUR", "note": "a small one"}
    return json.dumps(order)


def find_wrk() -> str:
    """Raises BenchError."""
    if found := shutil.which("wrk"):
        return found
    raise BenchError("wrk is not on PATH; it makes the load. On Debian and Ubuntu: apt-get install wrk")


class Load:
    """Runs wrk. All runs of one Load that repeat send the same body; of those that differ no two send the same."""

    def __init__(self) -> None:
        self._wrk = find_wrk()
        self.repeated_body = _body()

    async def run(
        self, url: str, headers: Mapping[str, str], calls: Calls, *, connections: int, seconds: int
    ) -> Sample:
        """Loads a URL for so long. wrk counts answers from 400 on as errors; nothing here redirects."""
        body = self.repeated_body if calls is Calls.REPEAT else _body()
        fields = [part for name, value in {**headers, **HEADERS}.items() for part in ("-H", f"{name}: {value}")]
        size = ("-t", "1", "-c", str(connections), "-d", str(seconds), "--timeout", str(ANSWER_WITHIN_S))
        said = await self._said(*size, *fields, "-s", str(SCRIPT), url, "--", calls, body)
        told = json.loads(said.rpartition("RESULT ")[2])
        return Sample(
            calls=told["calls"],
            seconds=told["duration_us"] / 1e6,
            p50_us=told["p50_us"],
            p99_us=told["p99_us"],
            errors=sum(told["errors"].values()),
        )

    async def _said(self, *arguments: str) -> str:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            self._wrk, *arguments, stdout=pipe, stderr=asyncio.subprocess.STDOUT
        )
        try:
            async with asyncio.timeout(ENDS_WITHIN_S):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        said = output.decode(errors="replace")
        if process.returncode or "RESULT " not in said:
            raise BenchError(f"wrk failed: {said.strip()}")
        return said
