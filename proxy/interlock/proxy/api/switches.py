"""`/v1/switches`: the kill switches of every kind."""

from typing import Literal, Self

from interlock.governance.v1 import admin_pb2 as pb
from interlock.proxy.api.answer import Answer, Time
from interlock.proxy.api.models import SWITCH_SCOPE, SwitchBody
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.times import rfc3339
from interlock.proxy.api.visit import Visit


class Switch(Answer):
    """A kill switch as it stands; pulled, nothing of what it is for goes through."""

    scope: Literal["global", "namespace", "agent", "tool"]
    """What it is for."""
    name: str | None
    """The agent or tool, or the namespace."""
    scope_id: str | None
    """The tool's scope."""
    pulled: bool
    """Whether it is pulled."""
    reason: str | None
    """Why, if somebody said."""
    changed_at: Time | None
    """When it was changed last."""
    changed_by: str | None
    """Who did."""

    @classmethod
    def of(cls, switch: pb.SwitchStatus) -> Self:
        return cls(
            scope=switch.scope,
            name=switch.name or None,
            scope_id=switch.scope_id or None,
            pulled=switch.pulled,
            reason=switch.reason or None,
            changed_at=rfc3339(switch.changed_at_ms),
            changed_by=switch.changed_by or None,
        )


async def show_all(visit: Visit) -> list[Switch]:
    switches = await visit.ask(visit.api.switches.ListSwitches, pb.ListSwitchesRequest())
    return [Switch.of(switch) for switch in switches.switches]


async def throw(visit: Visit) -> Switch:
    scope = visit.path("scope", SWITCH_SCOPE)
    body = await visit.body(SwitchBody)
    asked = pb.SetSwitchRequest(
        scope=scope, pulled=body.pulled, reason=body.reason, name=body.name or "", scope_id=body.scope_id or ""
    )
    return Switch.of(await visit.ask(visit.api.switches.SetSwitch, asked))


OPERATIONS = (
    Operation("GET", "/v1/switches", show_all, "List kill switches", list[Switch], role="viewer"),
    Operation(
        "POST",
        "/v1/switches/{scope}",
        throw,
        "Pull or lift a kill switch",
        Switch,
        body=SwitchBody,
        role="operator",
        refusals=(409,),
    ),
)
