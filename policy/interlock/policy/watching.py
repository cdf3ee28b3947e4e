"""Watching: looks at every agent's trail after the fact, notes what is out of the ordinary, and raises alerts.

Where it stands is kept for each agent in one record, which is replaced together with the alerts of a step: whoever is
killed in between, the step is taken once. One engine at a time watches, for the sake of what it costs; two that do take
turns by that record, and raise nothing twice.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from interlock.governance.errors import InterlockError
from interlock.governance.ids import new_id
from interlock.policy import rules
from interlock.policy.account_ports import Accounts, Notifications
from interlock.policy.alert_ports import AlertRecorder, Destination, Evidence, Outbox, Raised, Sighting, Watch, Watched
from interlock.policy.alert_settings import AlertSettings
from interlock.policy.alerts import Alert, AlertKind, Channel, Incident, fold, is_wanted, next_end_ms
from interlock.policy.anomalies import Behaviour, DayBudget, Deed, anomalies, may_burst, observed, told
from interlock.policy.budget_alerts import Used, budgets, crossed
from interlock.policy.following import AGENTS_AT_ONCE, INDEX_MS, INDEX_OVERLAP_MS, Pace
from interlock.policy.knowledge import Knowledge
from interlock.policy.model import AgentStanding, Namespace, Policy, Scope
from interlock.policy.plans import Plans
from interlock.policy.ports import Directory, Overview, Trails
from interlock.policy.sightings import deeds_of, incidents_of, refusals_of

log = structlog.get_logger(__name__)

AGENTS_PER_S = 5_000
EVENTS_AT_ONCE = 500
NOBODY = ""
LOOKS_AT_WHO_IS_BEHIND = 10


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the watcher reads beside trails."""

    trails: Trails
    overview: Overview
    directory: Directory
    knowledge: Knowledge
    plans: Plans
    outbox: Outbox
    accounts: Accounts
    allow_without_policy: bool


@dataclass(frozen=True, slots=True)
class _Seen:
    """One agent in one look: its record, what is new of it, and where that leaves it."""

    scope: Scope
    record: str
    watched: Watched
    news: Sequence[Sighting]
    deeds: Sequence[Deed]


class Watcher:
    """One engine's watch over all agents. `look` is called again and again by who leads."""

    def __init__(self, watch: Watch, around: Surroundings, settings: AlertSettings, recorder: AlertRecorder) -> None:
        self._watch = watch
        self._around = around
        self._settings = settings
        self._recorder = recorder
        self._pace = Pace(AGENTS_PER_S)
        self._since_ms = 0
        self._indexed_at: dict[str, tuple[int, int]] = {}
        self._records: dict[Scope, str] = {}
        self._seqs: dict[Scope, int] = {}
        self._ends: dict[Scope, int] = {}

    def forget(self) -> None:
        """Remembers nothing: another may have watched meanwhile."""
        self._indexed_at.clear()
        for known in (self._records, self._seqs, self._ends):
            known.clear()

    async def look(self, check: Callable[[], None]) -> None:
        """Looks at every agent once; `check` raises when this engine watches no longer. Errors: UnavailableError."""
        self._since_ms = self._since_ms or await self._watch.since_ms()
        now_ms = await self._watch.now_ms()
        for namespace in await self._around.trails.namespaces():
            await self._meet(namespace, now_ms)
        behind = [*self._seqs]
        for _ in range(LOOKS_AT_WHO_IS_BEHIND):
            lookers, behind = behind, []
            for page in _pages(lookers):
                await self._pace.take(len(page))
                check()
                behind += await self._look_at(page)
            if not behind:
                return

    async def _meet(self, namespace: str, now_ms: int) -> None:
        """Finds agents that are new to this watcher, and where each of them stands."""
        whole_at, newest_at = self._indexed_at.get(namespace, (0, 0))
        whole = now_ms - whole_at >= INDEX_MS
        if whole:
            named = list(await self._around.directory.agents(namespace))
            await self._drop(namespace, frozenset([*named, NOBODY]))
        else:
            named = list(await self._around.overview.seen_since(namespace, newest_at - INDEX_OVERLAP_MS))
        self._indexed_at[namespace] = (now_ms if whole else whole_at, now_ms)
        # What fails that is no agent's call stands in a place of the namespace's own.
        named.append(NOBODY)
        strangers = [scope for agent in named if (scope := Scope(namespace, agent)) not in self._seqs]
        for page in _pages(strangers):
            await self._pace.take(len(page))
            await self._begin(page)

    async def _begin(self, scopes: Sequence[Scope]) -> None:
        """Where each stands. What was recorded before anybody watched is taken for known."""
        records = await self._watch.records(scopes)
        broken = [scope for scope, record in records.items() if not self._stood(scope, record)]
        await self._begin_after(broken, records, await self._watch.now_ms())
        await self._begin_after([scope for scope in scopes if scope not in records], records, self._since_ms)

    async def _begin_after(self, scopes: Sequence[Scope], records: Mapping[Scope, str], at_ms: int) -> None:
        ends = await self._around.overview.ends(scopes, at_ms) if scopes else {}
        for scope, end in ends.items():
            if end.seq:
                begun = Watched(end.seq, await self._watch.past(scope))
                await self._commit([Raised(scope, records.get(scope, ""), begun)])
            else:
                self._stand(scope, "")

    def _stood(self, scope: Scope, record: str) -> bool:
        """False for a record that no version of ours has written."""
        try:
            self._stand(scope, record)
        except (AttributeError, KeyError, TypeError, ValueError):
            log.exception("alerts.record_unreadable", namespace=scope.namespace, agent_id=scope.agent_id)
            return False
        return True

    def _stand(self, scope: Scope, record: str) -> None:
        watched = self._watch.watched_of(record)
        self._records[scope], self._seqs[scope] = record, watched.seq
        ends_at = next_end_ms(watched.folds)
        if ends_at is None:
            self._ends.pop(scope, None)
        else:
            self._ends[scope] = ends_at

    async def _drop(self, namespace: str, named: frozenset[str]) -> None:
        gone = [scope for scope in self._seqs if scope.namespace == namespace and scope.agent_id not in named]
        await self._watch.forget(namespace, [scope.agent_id for scope in gone])
        for scope in gone:
            for known in (self._records, self._seqs, self._ends):
                known.pop(scope, None)

    async def _look_at(self, scopes: Sequence[Scope]) -> list[Scope]:
        """One page of agents; those of them of which there may be more."""
        now_ms = await self._watch.now_ms()
        news = await self._watch.news({scope: self._seqs[scope] for scope in scopes}, EVENTS_AT_ONCE)
        due = [scope for scope in scopes if scope in news or self._ends.get(scope, now_ms + 1) <= now_ms]
        seen = [self._seen(scope, news.get(scope, ())) for scope in due]
        standings = await self._standings([one for one in seen if one.deeds])
        namespaces = {scope.namespace: await self._namespace(scope.namespace) for scope in standings}
        steps = [await self._step_or_pass(one, standings, namespaces, now_ms) for one in seen]
        await self._commit(steps)
        return [scope for scope in scopes if len(news.get(scope, ())) == EVENTS_AT_ONCE]

    def _seen(self, scope: Scope, news: Sequence[Sighting]) -> _Seen:
        record = self._records[scope]
        return _Seen(scope, record, self._watch.watched_of(record), news, deeds_of(news))

    async def _standings(self, seen: Sequence[_Seen]) -> dict[Scope, AgentStanding]:
        """Read after the news, so that what they charged is counted."""
        scopes = [one.scope for one in seen]
        found = await self._around.overview.standings(scopes) if scopes else ()
        return dict(zip(scopes, found, strict=True))

    async def _namespace(self, name: str) -> Namespace:
        return (await self._around.knowledge.up_to_date(name)).namespace

    async def _step_or_pass(
        self,
        seen: _Seen,
        standings: Mapping[Scope, AgentStanding],
        namespaces: Mapping[str, Namespace],
        now_ms: int,
    ) -> Raised:
        """An agent whose events make us fail must not hold up all others: they are passed over."""
        try:
            return await self._step(seen, standings.get(seen.scope), namespaces, now_ms)
        except InterlockError:
            raise
        except Exception:
            log.exception("alerts.passed_over", namespace=seen.scope.namespace, agent_id=seen.scope.agent_id)
            seq = seen.news[-1].seq if seen.news else seen.watched.seq
            return Raised(seen.scope, seen.record, replace(seen.watched, seq=seq, folds={}))

    async def _step(
        self, seen: _Seen, standing: AgentStanding | None, namespaces: Mapping[str, Namespace], now_ms: int
    ) -> Raised:
        """What follows from the news of one agent."""
        watched = seen.watched
        incidents = incidents_of(seen.news)
        if standing is not None:
            namespace = namespaces[seen.scope.namespace]
            policy = self._policy(standing, namespace)
            marks, crossings = await self._budgets(seen, standing, policy, now_ms)
            incidents += crossings
            behaviour = observed(watched.behaviour, seen.deeds, self._settings.anomalies)
            if self._detects(namespace):
                behaviour = await self._detect(seen, behaviour, standing, policy, now_ms)
            watched = replace(watched, behaviour=replace(behaviour, fresh=()), told_budgets=marks)
        folds, to_tell = fold(watched.folds, incidents, now_ms, self._settings.fold_s * 1000)
        seq = seen.news[-1].seq if seen.news else watched.seq
        alerts = [_alert(seen.scope, incident, now_ms) for incident in to_tell]
        return Raised(seen.scope, seen.record, replace(watched, seq=seq, folds=folds), await self._routed(alerts))

    def _policy(self, standing: AgentStanding, namespace: Namespace) -> Policy:
        allow = self._around.allow_without_policy
        return rules.terms(standing.policy.policy, namespace, allow_without_policy=allow).policy or Policy()

    def _detects(self, namespace: Namespace) -> bool:
        features = self._around.plans.shown(namespace).features
        return features is None or "anomaly_detection" in features

    async def _budgets(
        self, seen: _Seen, standing: AgentStanding, policy: Policy, now_ms: int
    ) -> tuple[Mapping[str, int], list[Incident]]:
        tools = sorted({deed.tool for deed in seen.deeds if deed.tool}) if policy.max_calls_per_tool else []
        calls = await self._watch.calls_today(seen.scope, tools, now_ms)
        used = Used(standing.spend_today_micros, standing.actions_in_hour, calls)
        return crossed(budgets(policy, used, refusals_of(seen.news)), seen.watched.told_budgets, now_ms)

    async def _detect(
        self, seen: _Seen, behaviour: Behaviour, standing: AgentStanding, policy: Policy, now_ms: int
    ) -> Behaviour:
        """Notes each anomaly in the agent's trail, where the next look finds it and raises the alert."""
        settings = self._settings.anomalies
        usual = await self._watch.usual(seen.scope, now_ms) if may_burst(behaviour, now_ms, settings) else None
        limit = policy.max_spend_micros_per_day
        budget = DayBudget(standing.spend_today_micros, limit) if limit else None
        found = anomalies(behaviour, now_ms, usual, budget, settings)
        evidence = Evidence(
            seen.news[-1].seq, policy.on_anomaly == "disable", settings.quiet_s * 1000, settings.risk_s * 1000
        )
        for anomaly in found:
            if await self._watch.note_anomaly(seen.scope, anomaly, evidence):
                self._recorder.anomaly(anomaly.kind)
                log.warning(
                    "anomaly.noted",
                    namespace=seen.scope.namespace,
                    agent_id=seen.scope.agent_id,
                    kind=str(anomaly.kind),
                    tool=anomaly.tool,
                    disables=evidence.disable,
                )
        return told(behaviour, found, now_ms, settings)

    async def _routed(self, alerts: Sequence[Alert]) -> list[tuple[Alert, tuple[Channel, ...]]]:
        """Each with the channels that its namespace wants it on."""
        if not alerts:
            return []
        namespace = alerts[0].namespace
        wanted = await self._around.accounts.notifications(namespace)
        destination = await self._around.outbox.destination(namespace)
        channels = open_channels(destination, wanted, self._settings)
        return [(alert, channels if is_wanted(alert.kind, wanted) else ()) for alert in alerts]

    async def _commit(self, steps: Sequence[Raised]) -> None:
        """A step that another has taken is theirs: what they made of it is read."""
        records = await self._watch.commit(steps)
        lost = []
        for step, record in zip(steps, records, strict=True):
            if record is None:
                lost.append(step.scope)
                continue
            self._stand(step.scope, record)
            for alert, _ in step.alerts:
                self._recorder.alert_raised(alert.kind)
        if lost:
            found = await self._watch.records(lost)
            for scope in lost:
                self._stand(scope, found.get(scope, ""))


def open_channels(destination: Destination, wanted: Notifications, settings: AlertSettings) -> tuple[Channel, ...]:
    """The ways that lead anywhere."""
    webhook = bool(destination.webhook_url) or settings.webhook is not None
    mail = wanted.email and settings.smtp is not None and bool(destination.recipients or settings.smtp.recipients)
    return tuple(channel for channel, is_open in ((Channel.WEBHOOK, webhook), (Channel.MAIL, mail)) if is_open)


def _alert(scope: Scope, incident: Incident, now_ms: int) -> Alert:
    return Alert(
        alert_id=new_id("alert"),
        kind=AlertKind(incident.kind),
        namespace=scope.namespace,
        agent_id=scope.agent_id or incident.agent_id,
        tool=incident.tool,
        reason=incident.reason,
        count=incident.count,
        first_at_ms=incident.first_at_ms or incident.at_ms,
        last_at_ms=incident.at_ms,
        raised_at_ms=now_ms,
        facts=incident.facts,
    )


def _pages(scopes: Sequence[Scope]) -> Iterator[Sequence[Scope]]:
    for first in range(0, len(scopes), AGENTS_AT_ONCE):
        yield scopes[first : first + AGENTS_AT_ONCE]
