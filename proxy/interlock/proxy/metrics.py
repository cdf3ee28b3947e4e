"""What Prometheus sees of one process: https://prometheus.io/docs/practices/naming/.

Times are seconds, every name starts with `interlock_`. Labels are bounded: verdicts, reasons and methods are ours, and
`tool` is the name of a registered tool, or empty where none was resolved. Agents come without bound, so `agent` stays
empty unless the process is told otherwise.
"""

import platform
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Info
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder

from interlock.proxy.tallies import Tally, Within
from interlock.proxy.timings import Timing, Timings

# 100 µs to 60 s: what Interlock adds is a fraction of a millisecond, what a tool takes may be a minute.
SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0),
)


class Metrics:
    """The figures of one process, in a registry of their own. One method an event."""

    def __init__(self, *, label_agents: bool = False) -> None:
        """`label_agents` gives every agent its own series of decisions: only where agents are few."""
        # Long, and a list: each metric with its name, its text and its labels.
        self._label_agents = label_agents
        self._registry = registry = CollectorRegistry()
        labels = ("verdict", "reason", "tool", "agent")
        self._decisions = Tally(
            registry, CounterMetricFamily, "interlock_decisions_total", "Decisions on calls.", *labels
        )
        self._in_flight = Tally(
            registry, GaugeMetricFamily, "interlock_calls_in_flight", "Calls being handled.", "tool"
        )
        self._settle_failures = _counts(
            registry, "interlock_settle_failures_total", "Settlements the engine did not acknowledge.", "reason"
        )
        self._degraded = _counts(
            registry,
            "interlock_degraded_calls_total",
            "Calls let through unjudged, because nobody could be asked.",
            "tool",
        )
        self._reconciliations = _counts(
            registry,
            "interlock_reconciliations_total",
            "Looks at calls of unknown outcome, by what came of them.",
            "result",
        )
        self._connections_refused = _counts(
            registry,
            "interlock_connections_refused_total",
            "Connections closed at once, because too many were open.",
            "listener",
        )
        self._token_fetches = _counts(
            registry,
            "interlock_token_fetches_total",
            "Tokens asked for at tools' token endpoints.",
            "tool",
            "outcome",
        )
        self._spans = _counts(
            registry, "interlock_trace_spans_total", "Spans of traces, by what became of them.", "outcome"
        )
        self._unknown = Gauge("interlock_calls_unknown", "Calls of unknown outcome.", registry=registry)
        self._added = _seconds(registry, "interlock_call_added_seconds", "Time that Interlock added to a call.", "tool")
        self._upstream = _seconds(registry, "interlock_call_upstream_seconds", "Time a call spent at its tool.", "tool")
        self._engine = _seconds(registry, "interlock_engine_call_seconds", "Time of an RPC to the engine.", "method")
        self._redis = _seconds(registry, "interlock_redis_call_seconds", "Time of a call to Redis.", "operation")
        self._propagation = _seconds(
            registry,
            "interlock_switch_propagation_seconds",
            "Time from the change of a kill switch until this engine knew it.",
            "scope",
        )
        self._spool = Gauge("interlock_spool_depth", "What waits on disk to be told to the engine.", registry=registry)
        self._audit = _AuditMetrics(registry)
        self._watching = Gauge("interlock_alerts_watching", "1 in the engine that raises alerts.", registry=registry)
        self._anomalies = _counts(
            registry, "interlock_anomalies_total", "Anomalies in agents' behaviour that were noted.", "kind"
        )
        self._alerts = _counts(registry, "interlock_alerts_total", "Alerts that were raised.", "kind")
        self._alert_tries = _counts(
            registry,
            "interlock_alert_deliveries_total",
            "Tries to deliver an alert, by what came of them.",
            "channel",
            "outcome",
        )
        self._manifest_at = Gauge(
            "interlock_manifest_last_success_timestamp_seconds",
            "When the watched manifests were last applied, unix time.",
            registry=registry,
        )
        self._manifest_errors = Counter(
            "interlock_manifest_errors_total", "Tries to apply the watched manifests that failed.", registry=registry
        )
        self._certificate_ends = Gauge(
            "interlock_certificate_expires_timestamp_seconds",
            "When the listener's certificate ends, unix time; 0 without TLS.",
            registry=registry,
        )
        self._injections = _counts(
            registry, "interlock_injections_total", "Pods that the injector was asked about.", "outcome"
        )
        self._certificate_errors = Counter(
            "interlock_certificate_errors_total", "Changed certificate files not taken up.", registry=registry
        )
        Info("interlock_build", "The program that runs.", registry=registry).info(
            {"version": version("interlock"), "python": platform.python_version()}
        )

    def decided(self, verdict: str, reason: str, tool: str, agent: str = "") -> None:
        """A call was judged, by the engine or, as `error`, by the sidecar itself."""
        self._decisions.add(1, verdict, reason, tool, agent if self._label_agents else "")

    def degraded(self, tool: str) -> None:
        """A call was let through unjudged."""
        self._degraded(tool).inc()

    def reconciled(self, result: str) -> None:
        """A tool was asked what became of a call, or is not asked any more."""
        self._reconciliations(result).inc()

    def calls_unknown(self, count: int) -> None:
        """So many calls, of all agents, are known to be of unknown outcome."""
        self._unknown.set(count)

    def finished(self, tool: str, added_s: float, upstream_s: float) -> None:
        """A call is over. `upstream_s` is 0 if nothing was sent, and then not counted as time at the tool."""
        self._added(tool).observe(added_s)
        if upstream_s > 0:
            self._upstream(tool).observe(upstream_s)

    def in_flight(self, tool: str) -> AbstractContextManager[None]:
        """Counts a call as in flight while the context is open."""
        return Within(self._in_flight, tool)

    def connection_refused(self, listener: str) -> None:
        """A connection was closed at once: `listener` (`agents`, `admin`) had as many as it may."""
        self._connections_refused(listener).inc()

    def engine_call(self, method: str, seconds: float) -> None:
        """An RPC to the engine came back, well or not."""
        self._engine(method).observe(seconds)

    def redis_call(self, operation: str, seconds: float) -> None:
        """A call to Redis came back, well or not."""
        self._redis(operation).observe(seconds)

    def token_fetched(self, tool: str, outcome: str) -> None:
        """A token endpoint was asked for a token, on behalf of calls of `tool`: `ok`, `refused`, `unavailable`."""
        self._token_fetches(tool, outcome).inc()

    def spans(self, outcome: str, count: int) -> None:
        """So many spans were `exported`, `failed` to be, or were `dropped` as too many waited. Called by a thread."""
        self._spans(outcome).inc(count)

    def switch_known(self, scope: str, seconds: float) -> None:
        """A switch (`global`, `namespace`) was found changed, so long after it was."""
        self._propagation(scope).observe(seconds)

    def settle_failed(self, reason: str) -> None:
        """A settlement was not acknowledged and went to the spool."""
        self._settle_failures(reason).inc()

    def spool_depth(self, waiting: int) -> None:
        """So much waits in the spool."""
        self._spool.set(waiting)

    def audit_leads(self, *, leads: bool) -> None:
        """The process is, or is no longer, the one that exports the audit trail."""
        self._audit.leads.set(leads)

    def audit_exported(self, sink: str, events: int, folded: int) -> None:
        """A sink has acknowledged events; in them so many refusals were counted together."""
        self._audit.exported.labels(sink).inc(events)
        self._audit.folded.labels(sink).inc(folded)

    def audit_failed(self, sink: str) -> None:
        """A sink did not take a batch and is asked again."""
        self._audit.failures.labels(sink).inc()

    def audit_refused(self, sink: str) -> None:
        """A sink will not take an event; its agent's trail waits."""
        self._audit.refused.labels(sink).inc()

    def audit_lag(self, sink: str, events: int, seconds: float) -> None:
        """So many events wait for a sink, the oldest of them for so long."""
        self._audit.lag_events.labels(sink).set(events)
        self._audit.lag_seconds.labels(sink).set(seconds)

    def watches(self, *, leads: bool) -> None:
        """The process is, or is no longer, the one that raises and delivers alerts."""
        self._watching.set(leads)

    def anomaly(self, kind: str) -> None:
        """An anomaly was recorded in an agent's trail."""
        self._anomalies(kind).inc()

    def alert_raised(self, kind: str) -> None:
        """An alert was put into the outbox."""
        self._alerts(kind).inc()

    def alert_tried(self, channel: str, outcome: str) -> None:
        """A delivery was tried: `delivered`, `failed` (it is tried again) or `dead`."""
        self._alert_tries(channel, outcome).inc()

    def injection(self, outcome: str) -> None:
        """A pod was looked at, and `injected`, `left` as it is or `refused`."""
        self._injections(outcome).inc()

    def manifest_applied(self, at_s: float) -> None:
        """The watched manifests hold, as of this unix time."""
        self._manifest_at.set(at_s)

    def manifest_failed(self) -> None:
        """The watched manifests could not be applied."""
        self._manifest_errors.inc()

    def watch_certificate(self, expires_at: Callable[[], float]) -> None:
        """Asks at each scrape when the listener's certificate ends, unix time."""
        self._certificate_ends.set_function(expires_at)

    def certificate_refused(self) -> None:
        """Certificate files changed, and cannot be used."""
        self._certificate_errors.inc()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The figures and their content type, in the text format that an `Accept` header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _AuditMetrics:
    """What the exporter counts, each by the name of a sink."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, documentation: str) -> Counter:
            return Counter(f"interlock_audit_{name}_total", documentation, ["sink"], registry=registry)

        def gauge(name: str, documentation: str) -> Gauge:
            return Gauge(f"interlock_audit_{name}", documentation, ["sink"], registry=registry)

        self.leads = Gauge("interlock_audit_exporting", "1 in the process that exports the trail.", registry=registry)
        self.exported = counter("exported", "Events that a sink has acknowledged.")
        self.folded = counter("folded", "Refusals that were counted together in these events.")
        self.failures = counter("delivery_failures", "Batches that a sink did not take and is asked again about.")
        self.refused = counter("refused", "Events that a sink will not take.")
        self.lag_events = gauge("lag_events", "Events that a sink does not have yet.")
        self.lag_seconds = gauge("lag_seconds", "For how long the oldest of them waits.")


def _counts(registry: CollectorRegistry, name: str, documentation: str, *labels: str) -> Callable[..., Counter]:
    """The series of a counter by their labels. Looking one up in its metric costs more than counting in it."""
    return cache(Counter(name, documentation, labels, registry=registry).labels)


def _seconds(registry: CollectorRegistry, name: str, documentation: str, label: str) -> Callable[[str], Timing]:
    return Timings(registry, name, documentation, label, SECONDS).of
