"""What a tool is asked of a call of unknown outcome, and what it says: the words between who decides to ask, and who
knows how.
"""

from dataclasses import dataclass
from enum import StrEnum

from interlock.governance.v1 import governance_pb2 as pb


class Said(StrEnum):
    """A tool's word on a call. NO_ANSWER: it said none that can be understood."""

    HAPPENED = "happened"
    NOT_HAPPENED = "not_happened"
    UNKNOWN = "unknown"
    NO_ANSWER = "no_answer"


@dataclass(frozen=True, slots=True)
class Inquiry:
    """The call that is asked about. `fence` is the last one that the tool was sent; `first_seen_ms` is unix ms."""

    call_id: str
    key: str
    tool: str
    agent_id: str
    namespace: str
    args_hash: str
    first_seen_ms: int
    tries: int
    fence: int


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of asking. `answer` may come with HAPPENED, a `problem`, for the log, with NO_ANSWER."""

    said: Said
    answer: pb.Answer | None = None
    problem: str = ""
