"""What the engine last said of calls to tools that are open when governance fails.

Only what it let pass is kept, and any refusal takes back all that it may be about: so a call of which nothing is known,
or of which the last word was a no, finds nothing here.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from interlock.governance.errors import DeniedError, InterlockError, NotFoundError, UnauthenticatedError
from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.call import Ask

MAX_WORDS = 4096


@dataclass(frozen=True, slots=True)
class LastWord:
    """The engine let such a call pass: as which agent, to which tool, and when (monotonic, s)."""

    namespace: str
    agent_id: str
    tool: pb.ToolRoute
    risk_level: str
    heard_at: float


class LastWords:
    """The last word on each caller's calls of each open tool."""

    def __init__(self, max_age_s: float) -> None:
        self._max_age_s = max_age_s
        self._words: OrderedDict[tuple[str, str, str], LastWord] = OrderedDict()
        self._noes: OrderedDict[tuple[str, ...], float] = OrderedDict()
        self._forgotten_at = 0.0

    def of(self, ask: Ask) -> LastWord | None:
        """The last word on such a call, if it was a yes and is not too old."""
        word = self._words.get(_key(ask))
        if word is None or time.monotonic() - word.heard_at > self._max_age_s:
            return None
        return word

    def judged(self, ask: Ask, tool: pb.ToolRoute, verdict: pb.AuthorizeResponse, asked_at: float) -> None:
        """The engine has judged a call. A verdict other than a refusal has passed every switch and list.

        `asked_at` (monotonic) is from before it was asked: of answers that overtook each other on their way, a yes
        must not be taken for newer than a no.
        """
        if verdict.verdict == pb.VERDICT_BLOCKED:
            self._no(_key(ask))
            self._words.pop(_key(ask), None)
            self.stopped(verdict.reason, verdict.namespace, verdict.agent_id, tool.name)
        elif tool.on_governance_failure == pb.ON_GOVERNANCE_FAILURE_OPEN:
            if asked_at <= self._last_no(ask, verdict, tool.name):
                return
            word = LastWord(verdict.namespace, verdict.agent_id, tool, verdict.risk_level, time.monotonic())
            self._words[_key(ask)] = word
            self._words.move_to_end(_key(ask))
            if len(self._words) > MAX_WORDS:
                self._words.popitem(last=False)
        elif self._words:
            self._words.pop(_key(ask), None)

    def stopped(self, reason: str, namespace: str, agent_id: str, tool: str) -> None:
        """A switch was found pulled: that holds for others, too. Which of the two `kill_switch` is, is not told."""
        if reason == "kill_switch":
            self._no(())
            self._words.clear()
        elif reason == "agent_disabled":
            self._no(("agent", namespace, agent_id))
            self._drop(lambda _, word: (word.namespace, word.agent_id) == (namespace, agent_id))
        elif reason == "tool_disabled":
            self._no(("tool", namespace, tool))
            self._drop(lambda _, word: (word.namespace, word.tool.name) == (namespace, tool))

    def refused(self, ask: Ask, error: InterlockError) -> None:
        """The engine would not judge a call: its key is not good, does not reach so far, or there is no such tool."""
        if isinstance(error, UnauthenticatedError):
            self._no((ask.credential,))
            self._drop(lambda key, _: key[0] == ask.credential)
        elif isinstance(error, DeniedError):
            self._no((ask.credential, ask.agent_id))
            self._drop(lambda key, _: key[:2] == (ask.credential, ask.agent_id))
        elif isinstance(error, NotFoundError):
            self._no(_key(ask))
            self._words.pop(_key(ask), None)

    def _no(self, concerns: tuple[str, ...]) -> None:
        """Notes when a no was heard. What is forgotten of it is taken to concern all."""
        self._noes[concerns] = time.monotonic()
        self._noes.move_to_end(concerns)
        if len(self._noes) > MAX_WORDS:
            _, self._forgotten_at = self._noes.popitem(last=False)

    def _last_no(self, ask: Ask, verdict: pb.AuthorizeResponse, tool: str) -> float:
        """When the last one was heard that concerns such a call."""
        whose = ask.credential, ask.agent_id
        concerned = ((), whose[:1], whose, _key(ask), ("agent", verdict.namespace, verdict.agent_id))
        of_tool = ("tool", verdict.namespace, tool)
        return max(self._forgotten_at, *(self._noes.get(name, 0.0) for name in (*concerned, of_tool)))

    def _drop(self, concerns: Callable[[tuple[str, str, str], LastWord], bool]) -> None:
        for key in [key for key, word in self._words.items() if concerns(key, word)]:
            del self._words[key]


def _key(ask: Ask) -> tuple[str, str, str]:
    return ask.credential, ask.agent_id, ask.tool
