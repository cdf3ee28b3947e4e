"""Every key name in Redis, and how long what it holds lives. Nowhere else is a key spelled.

In the slot of an agent, `il:{ns:agent}:…`:

| key            | type   | holds                                          | lives                              |
|----------------|--------|------------------------------------------------|------------------------------------|
| `config`       | hash   | policy, version, owner; kill switch; risk      | until changed                      |
| `state`        | hash   | seq, fence, clock, exported, folding           | 400 days after the last event      |
| `call:<key>`   | hash   | the record of one key                          | see below                          |
| `open`         | zset   | keys running or unknown, by end of lease       | a member until it is settled       |
| `id:<call_id>` | string | the key a call ran under                       | `dedup_ttl_s` + 7 days             |
| `attempt:<id>` | string | the verdict on one attempt                     | 2 minutes                          |
| `degraded:<id>` | string | that an attempt was put on record unjudged    | 31 days                            |
| `minutes`      | hash   | counters of 61 minutes                         | 84 minutes                         |
| `hours`        | hash   | counters of 169 hours                          | 192 hours                          |
| `days`         | hash   | counters of 8 UTC days and of 3 months         | 31 days                            |
| `audit`        | stream | events, trimmed to 168 hours                   | 8 days after the last event        |
| `folds`        | hash   | refusals of a minute, counted                  | till read, 400 days after the last |
| `anomalies`    | hash   | when each anomaly was noted last, on what      | 8 days after the last              |
| `export`       | hash   | how far each sink has got, points of the chain | 400 days after the last export     |
| `timeline:<run>` | zset | what its calls wrote in a run, 5,000 lines at most | 7 days after the last            |
| `running:<run>` | hash  | its calls in that run that are not settled     | as above                           |

With an exporter in force, what it has not exported yet of `audit` is neither trimmed nor left to expire.

A `<run>` is the SHA-256 of a run's id; what belongs to no agent stands under an empty `<agent>`.

A call's record lives for ever while it is unsettled or unknown; settled, for the tool's `dedup_ttl_s`; freed, for 2
minutes, so that who waited for it, or settles it again, is told. A call that is not de-duplicated can never come again:
its record lives a day unsettled and a minute settled, its `id` a day, and it is no member of `open`.

In the slot of a namespace, `il:{ns}:…`, and above all of them, `il:{WORLD}:…` (only those marked *):

| key            | type   | holds                                          | lives                              |
|----------------|--------|------------------------------------------------|------------------------------------|
| `epoch` *      | string | raised by every change of what stands here     | until changed                      |
| `namespace`    | hash   | plan, default policy, when made and deleted    | for ever (a name is given once)    |
| `tools`        | hash   | tools by `scope|name`, and their revisions     | until deleted                      |
| `switch` *     | hash   | the kill switch                                | until changed                      |
| `usage`        | hash   | what was used, by month (include/usage.lua)    | 13 months                          |
| `lock:<digest>` | hash  | the lock of one key                            | its TTL                            |
| `lease:<digest>` | hash | the lease of one key, and its result           | 7 days after it ran out or was settled |
| `run:<agent>:<attempt>` | string | the month a run was reserved in       | till it is settled, or the month's end |
| `requests`     | hash   | requests of 61 seconds, of a plan that limits them | 62 seconds after the last      |
| `request:<agent>:<attempt>` | string | that an attempt is among them       | 130 seconds                        |
| `notifications` | hash  | what it wants to be told of                    | until changed                      |
| `state` *      | hash   | seq and clock of the trail below               | 400 days after the last event      |
| `audit` *      | stream | events that are no agent's                     | 400 days after the last, ~100,000 at most |
| `agents`       | zset   | agents seen, by time (unix ms)                 | a member 400 days after it was seen |
| `keys`         | hash   | API keys' ids and addresses                    | for ever (a revoked key stays known) |
| `timeline:<agent>:<run>` | zset | what was posted for it in a run, 5,000 lines at most | 7 days after the last |
| `told:<event>` | string | that an event of a timeline is on record       | 7 days                             |
| `runs`         | zset   | runs, by when something was last recorded, 10,000 at most | 7 days after the last   |
| `runs:<agent>` | zset   | those of them that an agent has something in, 10,000 at most | as above             |
| `agents:<run>` | set    | agents that have something in a run            | as above                           |
| `failures`     | stream | leases and keyed runs that failed, the last ~10,000 | 7 days after the last         |
| `alerting`     | string | where its alerts go                            | until changed                      |
| `watched`      | hash   | how far each agent's trail was looked at for alerts | 400 days after the last event of any |
| `alerts`       | hash   | alerts by id                                   | 30 days, the last 10,000           |
| `alerted`      | zset   | their ids, by when they were raised (unix ms)  | as above                           |
| `deliveries`   | hash   | how they fare, by id and channel               | as above                           |
| `outbox`       | zset   | deliveries by when each is due (unix ms)       | until delivered or given up, as above |
| `dead`         | zset   | deliveries given up, by when (unix ms)         | as above                           |
| `queue`        | stream | runs that wait or are worked on, by digest     | an entry until its run is over |
| `work:<digest>` | hash  | what a run is to do, who does it, what is done | until it is over                       |
| `unexported`   | zset   | agents with new events, by time (unix ms)      | a member until an exporter takes it |

In WORLD's slot alone:

| key            | type   | holds                                          | lives                              |
|----------------|--------|------------------------------------------------|------------------------------------|
| `queues`       | zset   | namespaces with a queue, by when to look       | a member until its queue is empty  |
| `namespaces`   | set    | every namespace that was made, or had a key or agent | for ever                           |
| `held`         | zset   | calls not to be repeated, by when to look      | a member until its call is over    |
| `unknown`      | zset   | those of them that are unknown, by since when  | as above                           |
| `exporter`     | hash   | the lease of the exporter: holder, until, fence | for ever                          |
| `watcher`      | hash   | the same of who watches for alerts, and since when anybody did | for ever           |

Alone: `il:key:<sha-256>`, a hash, one API key, for ever as above.

Names are safe to put in a tag: a namespace is `[a-z0-9-]`, an agent id has no brace, a caller's key is a SHA-256.
The upper-case tag can be no namespace's.
"""

import hashlib
from datetime import UTC, datetime
from functools import lru_cache

from interlock.policy.model import Scope

PREFIX = "il"
WORLD = "WORLD"
SETTLED_CHANNEL = f"{PREFIX}:settled"
LEASES_CHANNEL = f"{PREFIX}:leases"
"""On it stand the digests of leases, as they are settled."""
QUEUED_CHANNEL = f"{PREFIX}:queued"
CHANGED_CHANNEL = f"{PREFIX}:changed"
"""On it stand the names of namespaces, or WORLD, as their epochs are raised."""
AGENT_TTL_MS = 400 * 86_400_000
AGENTS_REMEMBERED = 4096
"""So many agents' keys are not put together anew for every call."""
_WINDOWS = ("minutes", "hours", "days")


@lru_cache(AGENTS_REMEMBERED)
def of_decisions(scope: Scope) -> tuple[str, ...]:
    """Config, state, open, minutes, hours, days, audit and folds: an agent's keys in every decision and settlement."""
    return tuple(of_agent(scope, part) for part in ("config", "state", "open", *_WINDOWS, "audit", "folds"))


@lru_cache(AGENTS_REMEMBERED)
def epoch_reads(namespace: str) -> tuple[tuple[str, str], ...]:
    """Commands that read the epochs a decision in this namespace rests on."""
    return tuple(("GET", of_namespace(at, "epoch")) for at in (WORLD, namespace))


def of_agent(scope: Scope, *parts: str) -> str:
    """A key in an agent's slot."""
    return slot(scope) + ":".join(parts)


@lru_cache(AGENTS_REMEMBERED)
def slot(scope: Scope) -> str:
    """What stands before every key in an agent's slot."""
    return f"{PREFIX}:{{{scope.namespace}:{scope.agent_id}}}:"


def of_namespace(namespace: str, *parts: str) -> str:
    """A key in a namespace's slot, or in WORLD's."""
    return ":".join((PREFIX, f"{{{namespace}}}", *parts))


def of_change(namespace: str) -> list[str]:
    """Epoch, state and audit of a namespace, or of WORLD: what every script takes that changes what stands there."""
    return [of_namespace(namespace, part) for part in ("epoch", "state", "audit")]


def of_api_key(sha256_hex: str) -> str:
    return f"{PREFIX}:key:{sha256_hex}"


def trail(scope: Scope) -> list[str]:
    """State, trail and folded refusals: what every script takes that appends an event."""
    return [of_agent(scope, "state"), of_agent(scope, "audit"), of_agent(scope, "folds")]


def windows(scope: Scope) -> list[str]:
    """Minutes, hours, days: the order in which every script takes them."""
    return [of_agent(scope, part) for part in _WINDOWS]


def month_of(at_ms: int) -> str:
    """The UTC month of a time (unix ms), as what is counted by months is named by it: include/month.lua."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m")


def of_run(run_id: str) -> str:
    """How a run is named in keys."""
    return hashlib.sha256(run_id.encode()).hexdigest()


def run_index(namespace: str, agent_id: str, run_id: str) -> list[str]:
    """Runs, those of an agent, and the agents of this one: what every script takes that adds to a timeline."""
    parts = (("runs",), ("runs", agent_id), ("agents", of_run(run_id)))
    return [of_namespace(namespace, *part) for part in parts]


def strands(scope: Scope, run_id: str) -> list[str]:
    """Where a run's events of an agent stand: what was posted in its name, and, of a named agent, its calls' own."""
    run = of_run(run_id)
    posted = of_namespace(scope.namespace, "timeline", scope.agent_id, run)
    return [posted, of_agent(scope, "timeline", run)] if scope.agent_id else [posted]


def of_alerts(namespace: str) -> dict[str, str]:
    """A namespace's alerts, by part."""
    return {part: of_namespace(namespace, part) for part in ("alerts", "alerted", "outbox", "dead", "deliveries")}


def of_call_in_run(scope: Scope, run_id: str) -> list[str]:
    """An agent's strand of a run and its calls that run in it: what scripts take for a call of a run, else nothing."""
    return [of_agent(scope, part, of_run(run_id)) for part in ("timeline", "running")] if run_id else []


def held() -> list[str]:
    """Calls that must not be repeated, and those of them that are unknown."""
    return [of_namespace(WORLD, "held"), of_namespace(WORLD, "unknown")]


def held_member(scope: Scope, key: str) -> str:
    """How they are named there."""
    return f"{scope.namespace}:{scope.agent_id}:{key}"


def held_call(member: str) -> tuple[Scope, str]:
    """The agent and the key that `held_member` named: a namespace and a key have no colon."""
    rest, _, key = member.rpartition(":")
    namespace, _, agent_id = rest.partition(":")
    return Scope(namespace, agent_id), key
