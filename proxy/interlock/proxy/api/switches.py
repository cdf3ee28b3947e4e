"""`/v1/switches`: the kill switches of every kind."""

from interlock.governance.v1 import admin_pb2 as pb
from interlock.proxy.api.models import SWITCH_SCOPE, SwitchBody
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.times import rfc3339
from interlock.proxy.api.visit import Visit


async def show_all(visit: Visit) -> object:
    switches = await visit.ask(visit.api.switches.ListSwitches, pb.ListSwitchesRequest())
    return [switch_json(switch) for switch in switches.switches]


async def throw(visit: Visit) -> object:
    scope = visit.path("scope", SWITCH_SCOPE)
    body = await visit.body(SwitchBody)
    asked = pb.SetSwitchRequest(
        scope=scope, pulled=body.pulled, reason=body.reason, name=body.name or "", scope_id=body.scope_id or ""
    )
    return switch_json(await visit.ask(visit.api.switches.SetSwitch, asked))


def switch_json(switch: pb.SwitchStatus) -> dict[str, object]:
    """A switch as it stands; pulled, nothing of it goes through."""
    return {
        "scope": switch.scope,
        "name": switch.name or None,
        "scope_id": switch.scope_id or None,
        "pulled": switch.pulled,
        "reason": switch.reason or None,
        "changed_at": rfc3339(switch.changed_at_ms),
        "changed_by": switch.changed_by or None,
    }


OPERATIONS = (
    Operation("GET", "/v1/switches", show_all, "List kill switches"),
    Operation("POST", "/v1/switches/{scope}", throw, "Pull or lift a kill switch", body=SwitchBody),
)
