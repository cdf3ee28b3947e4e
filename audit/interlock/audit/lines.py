"""Exported lines, read back: from files, strictly, without a word of theirs believed."""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from interlock.audit.chain import hash_of, is_canonical
from interlock.audit.cloudevents import SEQUENCE_DIGITS, TYPE_PREFIX
from interlock.audit.heads import TYPE as HEAD
from interlock.governance.errors import InvalidRequestError

MAX_LINE = 8_388_608
"""No event is longer."""
SOURCE_PREFIX = "/interlock/"
SAFE_DIGITS = 16
"""An integer of fewer digits is one that every reader takes for the same: below 2^53."""
HEX = frozenset("0123456789abcdef")


class UnreadableError(InvalidRequestError):
    """A file is not there, or not for us to read."""


class BadLineError(Exception):
    """A line is not what an exporter writes; the message says why."""


@dataclass(frozen=True, slots=True, order=True)
class Agent:
    """Whose chain."""

    namespace: str
    agent_id: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.agent_id}"


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Link:
    """What a line says of a chain. A head has no `previous`, and all of its attributes to verify it by."""

    agent: Agent
    seq: int
    hash: str
    previous: str = ""
    head: dict[str, Any] | None = None


def files_of(named: Sequence[Path]) -> list[Path]:
    """The files that are meant, in their order. Of folders, all that exporters have written there, by time."""
    folders = [path for path in named if path.is_dir()]
    found = [file for folder in folders for file in folder.glob("audit-*.jsonl*") if file.suffix in {".jsonl", ".gz"}]
    return [*sorted(found, key=lambda file: file.name), *(path for path in named if path not in folders)]


def lines_of(file: Path) -> Iterator[tuple[Place, bytes]]:
    """A file's lines with their ends, which the last may lack. One that is too long is cut. Raises UnreadableError."""
    try:
        with _opened(file) as stream:
            number = 0
            while line := stream.readline(MAX_LINE + 1):
                number += 1
                yield Place(str(file), number), line
                if len(line) > MAX_LINE:
                    return
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UnreadableError("unreadable_file", f"{file} cannot be read: {reason}") from error


def link_of(line: bytes) -> Link:
    """A line without its end. Raises BadLineError."""
    value, plain = _parsed(line)
    agent, seq = _identity(value)
    digest = _digest(value, "hash")
    if not is_canonical(line, value, plain=plain):
        raise BadLineError("it is not written in canonical JSON (RFC 8785)")
    if value.get("type") == HEAD:
        if value.get("id") != f"{agent}/{seq}/head":
            raise BadLineError("its id does not name what it is about")
        return Link(agent, seq, digest, head=value)
    if value.get("id") != f"{agent}/{seq}" or not str(value.get("type")).startswith(TYPE_PREFIX):
        raise BadLineError("its id or type does not name what it is about")
    if hash_of(line) != digest:
        raise BadLineError("its content does not have its hash")
    return Link(agent, seq, digest, _digest(value, "previoushash"))


def _opened(file: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")


def _parsed(line: bytes) -> tuple[dict[str, Any], bool]:
    """A JSON object, and whether it holds no number but integers that every reader takes for the same."""
    plain = True

    def other(text: str) -> float:
        nonlocal plain
        plain = False
        return float(text)

    def integer(text: str) -> int | float:
        # A larger one is a double, to RFC 8785 as to everybody.
        return int(text) if len(text) < SAFE_DIGITS else other(text)

    try:
        value = json.loads(line, parse_int=integer, parse_float=other, parse_constant=other)
    except (ValueError, RecursionError) as error:
        raise BadLineError("it is not JSON") from error
    if not isinstance(value, dict):
        raise BadLineError("it is not an event")
    return value, plain


def _identity(value: dict[str, Any]) -> tuple[Agent, int]:
    source, subject, sequence = (value.get(name) for name in ("source", "subject", "sequence"))
    if not (isinstance(source, str) and isinstance(subject, str) and isinstance(sequence, str)):
        raise BadLineError("it names no agent or no sequence")
    digits = sequence.isascii() and sequence.isdecimal() and len(sequence) == SEQUENCE_DIGITS
    if not source.startswith(SOURCE_PREFIX) or not digits or int(sequence) == 0:
        raise BadLineError("its source or sequence is none of an exporter's")
    return Agent(source.removeprefix(SOURCE_PREFIX), subject), int(sequence)


def _digest(value: dict[str, Any], name: str) -> str:
    digest = value.get(name)
    if not isinstance(digest, str) or len(digest) != 64 or not HEX.issuperset(digest):
        raise BadLineError(f"its {name} is none")
    return digest
