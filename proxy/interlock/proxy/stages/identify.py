"""Identify: whose call it is and which tool it means. The engine judges the key; here it is only handed on."""

import time
from collections import OrderedDict
from dataclasses import dataclass

from interlock.governance.errors import InterlockError, NotFoundError, UnavailableError
from interlock.governance.v1 import governance_pb2 as pb
from interlock.governance.values import replace
from interlock.proxy.call import Ask, Call
from interlock.proxy.engine import EngineClient
from interlock.proxy.last_words import LastWords

FRESH_S = 30.0
"""A tool resolved longer ago is resolved anew. This need not be short: Authorize refuses a revision that is old."""
MAX_TOOLS = 4096


@dataclass(frozen=True, slots=True)
class _Resolved:
    tool: pb.ToolRoute
    until: float


class Tools:
    """The tools as the engine resolved them for each caller, for a while."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine
        self._resolved: OrderedDict[tuple[str, str, str], _Resolved] = OrderedDict()

    async def resolve(self, ask: Ask, *, anew: bool = False) -> pb.ToolRoute:
        """The tool of a call. Errors: `tool_not_found`, `invalid_key`, `permission_denied`."""
        key = (ask.credential, ask.agent_id, ask.tool)
        known = self._resolved.get(key)
        if known is not None and not anew and known.until > time.monotonic():
            return known.tool
        self._resolved.pop(key, None)
        request = pb.ResolveToolRequest(credential=ask.credential, agent_id=ask.agent_id, tool=ask.tool)
        response = await self._engine.resolve(request)
        self._resolved[key] = _Resolved(response.route, time.monotonic() + FRESH_S)
        if len(self._resolved) > MAX_TOOLS:
            self._resolved.popitem(last=False)
        return response.route

    def forget(self, ask: Ask) -> None:
        self._resolved.pop((ask.credential, ask.agent_id, ask.tool), None)


class Identify:
    """Finds the tool, and refuses what it does not take."""

    def __init__(self, tools: Tools, words: LastWords) -> None:
        self._tools = tools
        self._words = words

    async def __call__(self, call: Call) -> Call:
        call, tool = await self._named(call)
        if call.entrance.refusal(call.ask, tool) is not None:
            # The tool may have been changed to take it: only the engine's latest word is a reason to refuse.
            tool = await self._tools.resolve(call.ask, anew=True)
        if refusal := call.entrance.refusal(call.ask, tool):
            raise refusal
        return replace(call, tool=tool)

    async def _named(self, call: Call) -> tuple[Call, pb.ToolRoute]:
        """The tool that is meant. That the narrower one does not exist is asked each time: once it does, it rules."""
        try:
            return call, await self._resolved(call.ask)
        except NotFoundError:
            if not call.ask.wider_tool:
                raise
        call = replace(call, ask=replace(call.ask, tool=call.ask.wider_tool, wider_tool=""))
        return call, await self._resolved(call.ask)

    async def _resolved(self, ask: Ask) -> pb.ToolRoute:
        """The tool, or, while nobody can be asked, an open one as it was last known."""
        try:
            return await self._tools.resolve(ask)
        except UnavailableError:
            word = self._words.of(ask)
            if word is None:
                raise
            return word.tool
        except InterlockError as error:
            self._words.refused(ask, error)
            raise
