"""The Figures service."""

from collections.abc import Sequence

from interlock.governance.errors import InvalidRequestError
from interlock.governance.v1 import figures_pb2 as pb
from interlock.governance.v1 import figures_pb2_grpc
from interlock.policy import access
from interlock.policy.figures_ports import DailyFigures
from interlock.policy.knowledge import Knowledge
from interlock.policy.model import Identity, Role, Scope
from interlock.policy.plans import Plans
from interlock.policy.ports import Directory
from interlock.policy.services.rpc import Caller, rpc


class FiguresService(figures_pb2_grpc.FiguresServicer):
    """What a namespace did."""

    def __init__(self, figures: DailyFigures, directory: Directory, knowledge: Knowledge, plans: Plans) -> None:
        self._figures = figures
        self._directory = directory
        self._knowledge = knowledge
        self._plans = plans

    @rpc
    async def ListDays(self, request: pb.ListDaysRequest, caller: Caller) -> pb.ListDaysResponse:  # noqa: N802 - the contract's name
        identity = await self._knowledge.authenticate(caller.credential)
        if request.last_day < request.first_day:
            raise InvalidRequestError("invalid_request", "to_day is not before from_day", field="to_day")
        if identity.role is not Role.ADMIN:
            namespace = (await self._knowledge.up_to_date(identity.namespace)).namespace
            self._plans.shown(namespace).require("metrics")
        days = await self._figures.days(await self._readable(identity), request.first_day, request.last_day)
        return pb.ListDaysResponse(
            days=[
                pb.DayFigures(
                    day=of.day,
                    actions=of.actions,
                    blocked=of.blocked,
                    replayed=of.replayed,
                    spend_micros=of.spend_micros,
                )
                for of in days
            ]
        )

    async def _readable(self, identity: Identity) -> Sequence[Scope]:
        """An agent key's own agent, or all of the namespace for a viewer."""
        if identity.role is Role.AGENT:
            return [Scope(identity.namespace, identity.agent_id)]
        access.require(identity, Role.VIEWER)
        return [Scope(identity.namespace, agent) for agent in await self._directory.agents(identity.namespace)]
