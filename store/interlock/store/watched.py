"""Where watching stands, and alerts, as JSON documents, the way they lie in Redis.

What an older version did not write takes its default; unknown fields of a newer one are passed over.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from interlock.policy.alert_ports import Destination, Watched
from interlock.policy.alerts import Alert, AlertKind, Channel, Delivery, DeliveryState, Fold, Incident
from interlock.policy.anomalies import Behaviour, Minute
from interlock.policy.model import Sealed


def watched_to_json(watched: Watched) -> str:
    behaviour = watched.behaviour
    return _written(
        {
            "seq": watched.seq,
            "calls": behaviour.calls,
            "tools": behaviour.tools,
            "minutes": [(m.minute, m.calls, m.spend_micros, m.spending_calls) for m in behaviour.minutes],
            "refused": [(*of, sorted(by_minute.items())) for of, by_minute in behaviour.refused.items()],
            "told": behaviour.told,
            "folds": {name: _fold_document(fold) for name, fold in watched.folds.items()},
            "budgets": watched.told_budgets,
        }
    )


def watched_from_json(raw: str) -> Watched:
    kept = json.loads(raw)
    return Watched(
        seq=kept["seq"],
        behaviour=Behaviour(
            calls=kept["calls"],
            tools=tuple(kept["tools"]),
            minutes=tuple(Minute(*minute) for minute in kept["minutes"]),
            refused={(tool, reason): {at: n for at, n in counts} for tool, reason, counts in kept["refused"]},  # noqa: C416 - dict() of lists is none to the type checker
            told=kept["told"],
        ),
        folds={name: _fold(document) for name, document in kept["folds"].items()},
        told_budgets=kept["budgets"],
    )


def alert_to_json(alert: Alert) -> str:
    return _written(asdict(alert))


def alert_from_json(raw: bytes | str) -> Alert:
    kept = _known(Alert, json.loads(raw))
    return Alert(**kept | {"kind": AlertKind(kept["kind"])})


def delivery_to_json(delivery: Delivery) -> str:
    document = asdict(delivery)
    del document["channel"]
    return _written(document)


def delivery_from_json(channel: str, raw: bytes | str) -> Delivery:
    """An empty document is a delivery that was not tried yet."""
    kept = _known(Delivery, json.loads(raw)) | {"channel": Channel(channel)}
    return Delivery(**kept | {"state": DeliveryState(kept.get("state", DeliveryState.WAITING))})


def destination_to_json(destination: Destination) -> str:
    return _written(asdict(destination))


def destination_from_json(raw: bytes | None) -> Destination:
    if not raw:
        return Destination()
    kept = _known(Destination, json.loads(raw))
    sealed = kept["secret"]
    return Destination(
        **kept | {"secret": Sealed(**sealed) if sealed else None, "recipients": tuple(kept["recipients"])}
    )


def _fold_document(fold: Fold) -> Mapping[str, Any]:
    return {"until": fold.until_ms, "waiting": asdict(fold.waiting) if fold.waiting else None}


def _fold(document: Mapping[str, Any]) -> Fold:
    waiting = document["waiting"]
    if waiting is None:
        return Fold(document["until"])
    kept = _known(Incident, waiting)
    return Fold(document["until"], Incident(**kept | {"kind": AlertKind(kept["kind"])}))


def _known(of: type, document: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(of)}
    return {name: value for name, value in document.items() if name in names}


def _written(document: object) -> str:
    return json.dumps(document, separators=(",", ":"))
