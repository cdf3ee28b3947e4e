"""YAML as a tree, with the line of every key: so that a problem found later can be pointed at."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Tree = Mapping[str, "Tree"] | Sequence["Tree"] | str | bool | int | Decimal | None
Path = tuple[str | int, ...]

_CORE = "tag:yaml.org,2002:"
_NULL = f"{_CORE}null"
# As YAML 1.2 has it, no, on and 12:30 are text; so are dates and `=` here, as in JSON.
_KNOWN_TAGS = {f"{_CORE}{tag}" for tag in ("null", "bool", "int", "float", "str", "timestamp", "value", "map", "seq")}
_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]{0,19})(\.[0-9]{1,40})?([eE][-+]?[0-9]{1,3})?", re.ASCII)
_NAMING = re.compile(r"alias|anchor|tag")
_QUOTED = re.compile(r"'.*'", re.DOTALL)
_DEEPEST = 32
_LARGEST = 100_000


@dataclass(slots=True)
class Document:
    """What a file says. Scalars stay text (only null is None), unless the reader was asked for JSON's kinds of them.

    `lines` gives the line (from 1) of each path; `faults` what is wrong with the file itself, as (line, path, message).
    """

    tree: Tree = None
    lines: dict[Path, int] = field(default_factory=dict)
    faults: list[tuple[int, Path, str]] = field(default_factory=list)
    typed: bool = False
    size: int = 0


class _TooLargeError(ValueError):
    """Aliases make small files large trees."""


def read(text: str) -> Document:
    """Reads one YAML document. Faults are collected: a key given twice does not hide what is wrong below it."""
    document = Document()
    try:
        root = YAML(typ="safe", pure=True).compose(text)
    except (YAMLError, RecursionError) as error:
        document.faults.append(_fault(error))
    else:
        _fill(document, root)
    return document


def read_all(text: str) -> Iterator[Document]:
    """Reads the YAML documents of a text, scalars being what JSON has: text, true, false, null and decimal numbers.

    Fractions are Decimals. What follows a fault in the YAML itself cannot be read.
    """
    try:
        for root in YAML(typ="safe", pure=True).compose_all(text):
            document = Document(typed=True)
            _fill(document, root)
            yield document
    except (YAMLError, RecursionError) as error:
        yield Document(faults=[_fault(error)])


def _fault(error: Exception) -> tuple[int, Path, str]:
    if not isinstance(error, MarkedYAMLError):
        return 1, (), f"this is no YAML: {str(error).splitlines()[0]}"
    line = error.problem_mark.line + 1 if error.problem_mark else 1
    problem = str(error.problem)
    if _NAMING.search(problem):  # a secret that begins with * or ! is taken for the name of something
        problem = _QUOTED.sub("…", problem)
    return line, (), f"this is no YAML: {problem}"


def _fill(document: Document, root: Node | None) -> None:
    try:
        document.tree = None if root is None else _tree(root, (), document)
    except _TooLargeError:
        document.faults.append((1, (), f"more than {_LARGEST} values, aliases resolved"))


def _tree(node: Node, path: Path, document: Document) -> Tree:
    line = node.start_mark.line + 1
    document.lines.setdefault(path, line)
    document.size += 1
    if document.size > _LARGEST:
        raise _TooLargeError
    if len(path) > _DEEPEST:  # an alias may even contain itself
        document.faults.append((line, path[:3], f"nested more than {_DEEPEST} levels deep"))
        return None
    if document.typed and str(node.tag) not in _KNOWN_TAGS:
        document.faults.append((line, path, "tags (!…) are not taken; put text that begins with ! in quotes"))
        return None
    if isinstance(node, MappingNode):
        return _mapping(node, path, document)
    if isinstance(node, SequenceNode):
        return [_tree(item, (*path, index), document) for index, item in enumerate(node.value)]
    if document.typed:
        return _typed(node, path, document)
    return None if node.tag == _NULL else str(node.value)


def _mapping(node: MappingNode, path: Path, document: Document) -> Tree:
    tree: dict[str, Tree] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, ScalarNode):
            document.faults.append((line, path, "a key must be a plain word"))
            continue
        here = (*path, str(key.value))
        if key.value in tree:
            document.faults.append((line, here, f"given twice, first in line {document.lines[here]}"))
            continue
        document.lines[here] = line
        tree[str(key.value)] = _tree(value, here, document)
    return tree


def _typed(node: Node, path: Path, document: Document) -> Tree:
    kind, text = str(node.tag).removeprefix(_CORE), str(node.value)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind not in ("int", "float"):
        return text
    number = Decimal(text) if _NUMBER.fullmatch(text) else None
    if number is None or Decimal(repr(float(number))) != number:
        message = "write a number in decimal digits, at most 15 of them; or put text in quotes"
        document.faults.append((node.start_mark.line + 1, path, message))
        return None
    return int(number) if kind == "int" else number
