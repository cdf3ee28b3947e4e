"""Verification of exported files, offline: what was altered, is missing or stands in the wrong order.

Lines are read once and only the end of each chain is remembered, so files may be of any size. Who delivers at least
once repeats: a run of repeated lines is a chain of its own, and where it meets the end of the agent's chain the two are
the same, since a hash stands for all before it. For what ends elsewhere (a run that broke off, a head of an earlier
event) the hash is looked for in a second reading.
"""

import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from interlock.audit.heads import PublicKey
from interlock.audit.lines import MAX_LINE, Agent, BadLineError, Link, Place, lines_of, link_of
from interlock.policy.model import GENESIS

PRINTABLE = frozenset(string.printable[:95])


class Kind(StrEnum):
    """What is wrong with an event."""

    ALTERED = "altered"
    MISSING = "missing"
    REORDERED = "reordered"
    FORGED = "forged"


@dataclass(frozen=True, slots=True)
class Problem:
    """The first event that is not as it was exported. Who it is of is None where the line does not even say that."""

    kind: Kind
    place: Place
    agent: Agent | None
    seq: int | None
    why: str

    def __str__(self) -> str:
        whose = f" {_shown(str(self.agent))} seq {self.seq}:" if self.agent is not None else ""
        return f"{self.place}:{whose} {self.kind}: {self.why}"


@dataclass(frozen=True, slots=True)
class Proof:
    """What is proved of an agent: its events from `first` to `last` are complete, in order and unchanged.

    `from_the_start`: nothing comes before. `signed_to` is the last seq that a head with a good signature covers.
    """

    agent: Agent
    first: int
    last: int
    from_the_start: bool
    signed_to: int


@dataclass(frozen=True, slots=True)
class Report:
    """The problem, if there is one; else the proofs, by agent, and what is worth a word."""

    problem: Problem | None
    proofs: tuple[Proof, ...]
    notes: tuple[str, ...]
    events: int
    repeats: int


@dataclass(slots=True)
class _Run:
    """Lines that were there before, one after the other."""

    start: Place
    start_seq: int
    before: str
    seq: int
    hash: str


@dataclass(slots=True)
class _Chain:
    """An agent's chain so far."""

    first: int
    before: str
    last: int
    hash: str
    signed_to: int = 0
    run: _Run | None = None


@dataclass(frozen=True, slots=True)
class _Claim:
    """A hash that an earlier event must have."""

    place: Place
    hash: str


@dataclass(slots=True)
class _Gap:
    """An event that was not there when its turn had come; it may come later."""

    place: Place
    agent: Agent
    seq: int
    why: str


class _ProblemError(Exception):
    def __init__(self, kind: Kind, place: Place, link: Link | None, why: str) -> None:
        super().__init__(why)
        self.problem = Problem(kind, place, link.agent if link else None, link.seq if link else None, why)


def verify(files: Sequence[Path], keys: Sequence[PublicKey] = ()) -> Report:
    """Reads files in their order. Without keys, heads are compared and their signatures not looked at.

    Raises UnreadableError.
    """
    reading = _Reading({key.key_id: key for key in keys})
    problem: Problem | None = None
    try:
        for place, line in _all_lines(files, reading.notes):
            reading.take(place, line)
        reading.end()
        reading.check_claims(files)
    except _ProblemError as error:
        problem = error.problem
    except _GapError as found:
        problem = _of_gap(found.gap, files)
    return reading.report(problem)


class _GapError(Exception):
    def __init__(self, gap: _Gap) -> None:
        super().__init__(gap.why)
        self.gap = gap


@dataclass(slots=True)
class _Reading:
    """The first reading, and what is left for the second."""

    keys: Mapping[str, PublicKey]
    chains: dict[Agent, _Chain] = field(default_factory=dict)
    claims: dict[tuple[Agent, int], list[_Claim]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    events: int = 0
    repeats: int = 0
    unsigned_heads: int = 0

    def take(self, place: Place, line: bytes) -> None:
        link = _read(place, line)
        if link.head is not None:
            self._head(place, link, link.head)
            return
        self.events += 1
        chain = self.chains.get(link.agent)
        if chain is None:
            self.chains[link.agent] = _Chain(link.seq, link.previous, link.seq, link.hash)
        elif link.seq == chain.last + 1:
            self._forward(place, link, chain)
        elif link.seq <= chain.last:
            self._repeat(place, link, chain)
        else:
            raise _GapError(_Gap(place, link.agent, chain.last + 1, f"seq {link.seq} stands in its place"))

    def end(self) -> None:
        for agent, chain in self.chains.items():
            self._break_off(agent, chain)

    def check_claims(self, files: Sequence[Path]) -> None:
        """The second reading, if anything was left for it."""
        if not self.claims:
            return
        for place, line in _all_lines(files, []):
            link = _read(place, line)
            for claim in self.claims.get((link.agent, link.seq), ()) if link.head is None else ():
                if claim.hash != link.hash:
                    raise _ProblemError(Kind.ALTERED, claim.place, link, f"it is not the same as at {place}")

    def report(self, problem: Problem | None) -> Report:
        proofs = [
            Proof(agent, chain.first, chain.last, chain.first == 1 and chain.before == GENESIS, chain.signed_to)
            for agent, chain in sorted(self.chains.items())
            if chain.last >= chain.first
        ]
        if self.unsigned_heads:
            self.notes.append(f"{self.unsigned_heads} heads were compared, not verified: no public key was given")
        return Report(problem, tuple(proofs), tuple(self.notes), self.events, self.repeats)

    def _forward(self, place: Place, link: Link, chain: _Chain) -> None:
        if link.previous != chain.hash:
            why = f"it does not follow from seq {chain.last}: one of the two is not what was exported"
            raise _ProblemError(Kind.ALTERED, place, link, why)
        self._break_off(link.agent, chain)
        chain.last, chain.hash = link.seq, link.hash

    def _repeat(self, place: Place, link: Link, chain: _Chain) -> None:
        self.repeats += 1
        run = chain.run
        if run is None or link.seq != run.seq + 1:
            self._break_off(link.agent, chain)
            run = chain.run = _Run(place, link.seq, link.previous, link.seq, link.hash)
        elif link.previous != run.hash:
            raise _ProblemError(Kind.ALTERED, place, link, f"it does not follow from seq {run.seq} before it")
        run.seq, run.hash = link.seq, link.hash
        if link.seq == chain.last:
            if link.hash != chain.hash:
                raise _ProblemError(
                    Kind.ALTERED, place, link, "it, or one before it, is not the same as the first time"
                )
            if run.start_seq < chain.first:
                chain.first, chain.before = run.start_seq, run.before
            chain.run = None

    def _break_off(self, agent: Agent, chain: _Chain) -> None:
        """A run of repeated lines did not reach the end of the chain: its last hash is for the second reading."""
        run, chain.run = chain.run, None
        if run is None:
            return
        if run.start_seq < chain.first:
            link = Link(agent, run.start_seq, run.hash)
            raise _ProblemError(Kind.REORDERED, run.start, link, f"it comes behind seq {chain.last}")
        self._claim(agent, run.seq, _Claim(run.start, run.hash))

    def _head(self, place: Place, link: Link, head: Mapping[str, object]) -> None:
        self._check_signature(place, link, head)
        chain = self.chains.get(link.agent)
        if chain is None:
            # The events it speaks of are in files that are not here.
            chain = self.chains[link.agent] = _Chain(link.seq + 1, link.hash, link.seq, link.hash)
        elif link.seq > chain.last:
            raise _GapError(_Gap(place, link.agent, chain.last + 1, f"a signed head knows events up to {link.seq}"))
        elif link.seq == chain.last:
            if link.hash != chain.hash:
                raise _ProblemError(Kind.ALTERED, place, link, "the head has another hash than the event")
        elif link.seq == chain.first - 1:
            if link.hash != chain.before:
                why = f"seq {chain.first} does not follow from the event that the head speaks of"
                raise _ProblemError(Kind.ALTERED, place, link, why)
        elif link.seq >= chain.first:
            self._claim(link.agent, link.seq, _Claim(place, link.hash))
        if self.keys:
            chain.signed_to = max(chain.signed_to, link.seq)

    def _check_signature(self, place: Place, link: Link, head: Mapping[str, object]) -> None:
        if not self.keys:
            self.unsigned_heads += 1
            return
        key = self.keys.get(str(head.get("keyid")))
        if key is None:
            raise _ProblemError(Kind.FORGED, place, link, "the head is signed with a key that was not given")
        if not key.signed(head):
            raise _ProblemError(Kind.FORGED, place, link, "the head's signature is not good")

    def _claim(self, agent: Agent, seq: int, claim: _Claim) -> None:
        claims = self.claims.setdefault((agent, seq), [])
        if all(known.hash != claim.hash for known in claims):
            claims.append(claim)


def _read(place: Place, line: bytes) -> Link:
    if len(line) > MAX_LINE:
        raise _ProblemError(Kind.ALTERED, place, None, "it is longer than any event")
    try:
        return link_of(line.removesuffix(b"\n"))
    except BadLineError as error:
        raise _ProblemError(Kind.ALTERED, place, _as_far_as_it_says(line), str(error)) from error


def _as_far_as_it_says(line: bytes) -> Link | None:
    """Whose event a bad line claims to be."""
    before, _, rest = line.rpartition(b'"id":"')
    name = rest.partition(b'"')[0].removesuffix(b"/head").decode(errors="replace") if before else ""
    namespace, _, tail = name.partition("/")
    agent_id, _, seq = tail.rpartition("/")
    if not agent_id or not seq.isascii() or not seq.isdecimal() or len(seq) > 16:
        return None
    return Link(Agent(namespace, agent_id), int(seq), "")


def _of_gap(gap: _Gap, files: Sequence[Path]) -> Problem:
    """Missing, or, if it stands elsewhere, reordered."""
    reached = False
    for place, line in _all_lines(files, []):
        reached = reached or place == gap.place
        if reached:
            try:
                link = link_of(line.removesuffix(b"\n"))
            except BadLineError:
                continue
            if link.head is None and (link.agent, link.seq) == (gap.agent, gap.seq):
                return Problem(Kind.REORDERED, place, gap.agent, gap.seq, f"it belongs before {gap.place}")
    return Problem(Kind.MISSING, gap.place, gap.agent, gap.seq, gap.why)


def _all_lines(files: Sequence[Path], notes: list[str]) -> Iterator[tuple[Place, bytes]]:
    """Every whole line. One that a crash has torn off is the last of its file, and was never acknowledged."""
    for file in files:
        for place, line in lines_of(file):
            if line.endswith(b"\n") or len(line) > MAX_LINE:
                yield place, line
            else:
                notes.append(f"{place}: a line is torn off; it counts for nothing")


def _shown(text: str) -> str:
    """What a hostile file says must not move the reader's cursor."""
    return "".join(character if character in PRINTABLE else "\N{REPLACEMENT CHARACTER}" for character in text)
