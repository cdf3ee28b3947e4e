"""What Interlock and its Redis count of themselves, read before and after a run: the difference belongs to the run."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from redis.asyncio import Redis

from bench.failure import BenchError
from bench.interlocks import Interlock
from bench.processes import cpu_seconds

QUIET_WITHIN_S = 15
QUIET_FOR_S = 0.03
OWN_SCRIPTS = frozenset(
    ("take_held", "take_queues", "schedule_queue", "take_deliveries", "lead", "raise_alerts", "note_anomaly", "unfold")
)
"""What an engine runs by itself, calls or none: it looks for calls that nobody settled, for runs, and for alerts."""
OWN_QUESTIONS = frozenset(
    ("check", "watch", "namespaces", "agents", "follow", "standings", "notifications", "alerting")
)
"""And what else it asks Redis for that, and for its own health."""

# Histograms of the sidecar: where a call spends its time.
STEPS = {
    'interlock_engine_call_seconds{method="authorize"}': "authorize",
    "interlock_call_upstream_seconds": "tool",
    'interlock_engine_call_seconds{method="settle"}': "settle",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """Counters of one moment, or their growth between two: `later - earlier`."""

    counted: Mapping[str, float]

    def __sub__(self, earlier: "Figures") -> "Figures":
        return Figures({name: value - earlier.of(name) for name, value in self.counted.items()})

    def __add__(self, other: "Figures") -> "Figures":
        return Figures({name: self.of(name) + other.of(name) for name in {*self.counted, *other.counted}})

    @property
    def executed(self) -> int:
        return int(self.of("decided EXECUTE"))

    @property
    def replayed(self) -> int:
        return int(self.of("decided REPLAY"))

    @property
    def settled(self) -> int:
        return int(self.of("settle count"))

    @property
    def scripts_run(self) -> int:
        """EVALSHA, as Redis itself has counted, but for what the engine runs by itself."""
        return int(self.of("evalsha") - self.of("own scripts"))

    @property
    def asked_of_redis(self) -> int:
        """Round trips of every kind, as the engine has counted, but for its own."""
        return int(self.of("asked of redis"))

    def mean_us(self, step: str) -> float:
        """Mean time of a step, µs, as the sidecar sees it."""
        return round(1e6 * self.of(f"{step} sum") / max(1, self.of(f"{step} count")), 1)

    def cpu_us(self, process: str) -> float:
        """Processor time that a process (a role, or `redis`) used, µs."""
        return 1e6 * self.of(f"cpu {process}")

    def of(self, name: str) -> float:
        """One counter; 0 where nothing was counted yet."""
        return self.counted.get(name, 0)


NONE = Figures({})


async def figures(interlock: Interlock) -> Figures:
    """The figures once all is quiet: wrk hangs up on the last calls, and they are executed and settled all the same.

    No call in flight is not enough to know it by: some may still be unread in the sockets.
    """
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client, Redis.from_url(interlock.redis_url) as redis:
        try:
            async with asyncio.timeout(QUIET_WITHIN_S):
                earlier, now = NONE, await _counters(client, redis, interlock)
                while now != earlier or now.of("in flight"):
                    await asyncio.sleep(QUIET_FOR_S)
                    earlier, now = now, await _counters(client, redis, interlock)
        except TimeoutError:
            raise BenchError(f"calls are still handled {QUIET_WITHIN_S} s after their agents have gone") from None
        server = await redis.info("server")
    processes = {**interlock.processes, "redis": server["process_id"]}
    return now + Figures({f"cpu {name}": cpu_seconds(pid) or 0 for name, pid in processes.items()})


async def _counters(client: httpx.AsyncClient, redis: Redis, interlock: Interlock) -> Figures:
    commands = await redis.info("commandstats")
    scripts = commands.get("cmdstat_evalsha", {}).get("calls", 0)
    return Figures({**await _metrics(client, interlock.metrics_urls), "evalsha": scripts})


async def _metrics(client: httpx.AsyncClient, urls: Iterable[str]) -> dict[str, float]:
    """The series that matter here, under names of ours, summed over all processes."""
    read: dict[str, float] = defaultdict(float)
    for url in urls:
        for family in text_string_to_metric_families((await client.get(url)).text):
            for sample in family.samples:
                if name := _name_of(sample):
                    read[name] += sample.value
    return read


def _asked(operation: str) -> str:
    if operation in OWN_SCRIPTS:
        return "own scripts"
    return "" if operation in OWN_QUESTIONS else "asked of redis"


def _name_of(sample: Sample) -> str:
    """What a series is called here; empty for those of no interest."""
    metric, _, part = sample.name.rpartition("_")
    if sample.name == "interlock_decisions_total":
        return f"decided {sample.labels['verdict']}"
    if sample.name == "interlock_calls_in_flight":
        return "in flight"
    if sample.name == "interlock_redis_call_seconds_count":
        return _asked(sample.labels["operation"])
    method = sample.labels.get("method")
    step = STEPS.get(f'{metric}{{method="{method}"}}' if method else metric)
    return f"{step} {part}" if step and part in {"sum", "count"} else ""
