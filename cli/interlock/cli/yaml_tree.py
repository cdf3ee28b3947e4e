"""YAML as a tree of text, with the line of every key: so that a problem found later can be pointed at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Tree = Mapping[str, "Tree"] | Sequence["Tree"] | str | None
Path = tuple[str | int, ...]

_NULL = "tag:yaml.org,2002:null"
_DEEPEST = 32


@dataclass(slots=True)
class Document:
    """What a file says. Scalars stay text (only null is None): the field they are for knows what they mean.

    `lines` gives the line (from 1) of each path; `faults` what is wrong with the file itself, as (line, path, message).
    """

    tree: Tree = None
    lines: dict[Path, int] = field(default_factory=dict)
    faults: list[tuple[int, Path, str]] = field(default_factory=list)


def read(text: str) -> Document:
    """Reads one YAML document. Faults are collected: a key given twice does not hide what is wrong below it."""
    document = Document()
    try:
        root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        document.faults.append((line, (), f"this is no YAML: {error.problem}"))
    except (YAMLError, RecursionError) as error:
        document.faults.append((1, (), f"this is no YAML: {str(error).splitlines()[0]}"))
    else:
        document.tree = None if root is None else _tree(root, (), document)
    return document


def _tree(node: Node, path: Path, document: Document) -> Tree:
    document.lines.setdefault(path, node.start_mark.line + 1)
    if len(path) > _DEEPEST:  # an alias may even contain itself
        document.faults.append((node.start_mark.line + 1, path[:3], f"nested more than {_DEEPEST} levels deep"))
        return None
    if isinstance(node, MappingNode):
        return _mapping(node, path, document)
    if isinstance(node, SequenceNode):
        return [_tree(item, (*path, index), document) for index, item in enumerate(node.value)]
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
