"""Manifests: files that say which tools and policies there are to be. Read, merged, judged and resolved.

Whatever is wrong is found at once, each thing with its file, line and key, and before anything is applied. Values are
never told: they may be secrets.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails

from interlock.cli import yaml_tree
from interlock.cli.problems import ConfigurationError, Place, Problem, dotted, kinds_of, types_below, unknown_key
from interlock.cli.references import RULE, ReferenceProblemError, References, contents, is_reference
from interlock.governance.errors import InvalidRequestError
from interlock.policy import policies, tools
from interlock.policy.rules import matches
from interlock.policy.services.messages import policy_of, secrets_of, tool_of
from interlock.proxy.api import policies as policies_api
from interlock.proxy.api.apply import tool_body
from interlock.proxy.api.errors import InvalidFieldsError
from interlock.proxy.api.models import ApplyBody, Manifest, PolicyBody
from interlock.proxy.api.tools import put_request

MAX_BYTES = 1 << 20
"""Of one file, as of a ConfigMap."""
MAX_FILES = 1000
SECTIONS = ("tools", "policies")
SUFFIXES = (".yaml", ".yml")
_PLACEHOLDER = "a-secret-that-could-not-be-had"
_NOTHING = "there is nothing in it; to have nothing, and so remove all that the owner manages, write tools: {}"
_LENGTHS = {
    **dict.fromkeys(("too_short", "string_too_short"), "too short"),
    **dict.fromkeys(("too_long", "string_too_long"), "too long"),
}
_HINTS = {
    "bool_type": "; YAML's are true and false",
    "string_type": "; put it in quotes",
}

Tree = Any
Key = tuple[str, str]
"""`tools` or `policies`, and the name there."""
Read = Callable[[Path], bytes]
"""A file's bytes, or OSError."""


@dataclass(frozen=True, slots=True)
class Source:
    """A document of a file."""

    file: Path
    document: yaml_tree.Document

    def place(self, path: yaml_tree.Path) -> Place:
        """Where a key stands, or else what it is in."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.document.lines:
                return Place(str(self.file), self.document.lines[path[:end]])
        return Place(str(self.file), self.document.lines.get((), 1))

    def problem(self, path: yaml_tree.Path, message: str) -> Problem:
        return Problem(self.place(path), dotted(path), message)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the files say, a body to apply for each namespace ("" where none is named), secrets resolved.

    `trees` is the same as JSON values. `warnings` are no reason not to apply it.
    """

    owner: str
    bodies: Mapping[str, ApplyBody]
    trees: Mapping[str, Mapping[str, Tree]]
    warnings: Sequence[Problem]


@dataclass(slots=True)
class _Gathered:
    """What was found so far."""

    sources: list[Source] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    places: dict[tuple[str, Key], tuple[Source, Key]] = field(default_factory=dict)
    trees: dict[str, dict[str, dict[str, Tree]]] = field(default_factory=dict)
    owner: tuple[str, Source] | None = None


def schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of a manifest, for editors: where the API takes a secret, it takes a reference."""
    described = Manifest.model_json_schema() | {"title": "Interlock manifest"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_by_reference(described)}


def _by_reference(described: Any) -> Any:
    if isinstance(described, list):
        return [_by_reference(item) for item in described]
    if not isinstance(described, dict):
        return described
    if described.get("format") == "password":
        kept = {name: described[name] for name in ("title", "description", "default") if name in described}
        return {**kept, "type": "string", "pattern": "^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$"}
    closed = {"additionalProperties": False} if "patternProperties" in described else {}
    return {**{name: _by_reference(below) for name, below in described.items()}, **closed}


def files_of(paths: Iterable[Path]) -> Iterator[Path]:
    """The files of each path: itself, or those of a folder that end in .yaml or .yml, by name; not of folders in it.

    Names that begin with a dot are passed over: a ConfigMap keeps its versions under such. Raises OSError.
    """
    for path in paths:
        if path.is_dir():
            yield from sorted(
                file for file in path.iterdir() if file.suffix in SUFFIXES and not file.name.startswith(".")
            )
        else:
            yield path


def read_file(file: Path) -> bytes:
    return contents(file, MAX_BYTES)


def load(
    paths: Sequence[Path],
    *,
    owner: str = "",
    references: References | None = None,
    allow_loopback: bool = True,
    read: Read = read_file,
) -> Loaded:
    """What the files at these paths say as a whole. `owner` is for who names none.

    Without `references` these are only looked at, not resolved. Raises ConfigurationError with every problem at once.
    """
    gathered = _Gathered()
    _read_all(paths, read, gathered)
    for source in gathered.sources:
        _take(source, references, gathered, allow_loopback=allow_loopback)
    if not gathered.problems and not gathered.trees:
        gathered.problems.append(Problem(Place(", ".join(map(str, paths))), "", _NOTHING))
    named = gathered.owner[0] if gathered.owner else ""
    if owner and named and owner != named and gathered.owner:
        gathered.problems.append(gathered.owner[1].problem(("owner",), "is not the owner that was asked for"))
    trees = _trees(named or owner, gathered)
    bodies = {namespace: _body(tree, gathered) for namespace, tree in trees.items()}
    if gathered.problems:
        raise ConfigurationError(set(gathered.problems))
    warnings = [found for namespace, body in bodies.items() for found in _idle_globs(namespace, body, gathered)]
    return Loaded(named or owner, bodies, trees, warnings)


def _read_all(paths: Sequence[Path], read: Read, gathered: _Gathered) -> None:
    found: dict[Path, None] = {}
    for path in paths:
        try:
            files = [*files_of([path])]
        except OSError as error:
            gathered.problems.append(Problem(Place(str(path)), "", f"cannot be read: {error.strerror}"))
            continue
        if not files:
            gathered.problems.append(Problem(Place(str(path)), "", "the folder has no .yaml or .yml file"))
        found |= dict.fromkeys(files)
    if len(found) > MAX_FILES:
        gathered.problems.append(Problem(Place(str(paths[0])), "", f"more than {MAX_FILES} files"))
        found.clear()
    for file in found:
        _read_one(file, read, gathered)


def _read_one(file: Path, read: Read, gathered: _Gathered) -> None:
    place = Place(str(file))
    try:
        text = read(file).decode("utf-8-sig")
    except OSError as error:
        gathered.problems.append(Problem(place, "", f"cannot be read: {error.strerror}"))
        return
    except UnicodeDecodeError:
        gathered.problems.append(Problem(place, "", "is not UTF-8 text"))
        return
    found = [*yaml_tree.read_all(text)]
    if not any(document.tree or document.faults for document in found):
        gathered.problems.append(Problem(place, "", _NOTHING))  # emptied by mistake, it would empty what it held
    for document in found:
        source = Source(file, document)
        gathered.problems += [
            Problem(Place(str(file), line), dotted(path), message) for line, path, message in document.faults
        ]
        if document.tree is not None and not isinstance(document.tree, Mapping):
            gathered.problems.append(source.problem((), "keys and values are expected"))
        elif document.tree:
            gathered.sources.append(source)


def _take(source: Source, references: References | None, gathered: _Gathered, *, allow_loopback: bool) -> None:
    """Judges a document, each tool and policy by itself, and puts what is good of it with what came before it."""
    tree = _resolved(source, references, gathered)
    sections = {name: tree.pop(name) for name in SECTIONS if isinstance(tree.get(name), Mapping)}
    document = _valid(source, tree, gathered) or Manifest()
    if document.owner is not None:
        first = gathered.owner
        if first is not None and first[0] != document.owner:
            message = f"is another owner than in {first[1].place(('owner',))}"
            gathered.problems.append(source.problem(("owner",), message))
        gathered.owner = first or (document.owner, source)
    namespace = document.namespace or ""
    if sections:  # an owner alone asks for nothing, nor for nothing to be left
        gathered.trees.setdefault(namespace, {section: {} for section in SECTIONS})
    for section, entries in sections.items():
        for name, value in entries.items():
            entry = _valid(source, {section: {name: value}}, gathered)
            if entry is not None:
                found = _judged(entry, allow_loopback=allow_loopback)
                gathered.problems += [source.problem(path, message) for path, message in found]
                _place(source, namespace, (section, name), _key(section, name, entry), value, gathered)


def _valid(source: Source, tree: Tree, gathered: _Gathered) -> Manifest | None:
    try:
        return Manifest.model_validate(tree)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
        gathered.problems += [_problem(source, detail) for detail in details]
        return None


def _place(source: Source, namespace: str, path: Key, key: Key, value: Tree, gathered: _Gathered) -> None:
    before = gathered.places.get((namespace, key))
    if before is not None:
        message = f"is there twice, first in {before[0].place(before[1])}"
        gathered.problems.append(source.problem(path, message))
        return
    gathered.places[namespace, key] = (source, path)
    gathered.trees[namespace][key[0]][key[1]] = value


def _key(section: str, name: str, entry: Manifest) -> Key:
    """One thing has one key: `agent:a/charge` may also be `charge` with that scope."""
    if section == "tools" and "/" not in name and entry.tools[name].scope_id != tools.GLOBAL_SCOPE:
        return section, f"{entry.tools[name].scope_id}/{name}"
    return section, name


def _problem(source: Source, detail: ErrorDetails) -> Problem:
    path = tuple(part for part in detail["loc"] if part != "[key]")
    message = detail["msg"].removeprefix("Value error, ") + _HINTS.get(detail["type"], "")
    if detail["type"] in _LENGTHS and is_reference(_at(source.document.tree, path)):
        message = f"the secret is {_LENGTHS[detail['type']]}"  # and not by how much
    if detail["type"] == "extra_forbidden" and "Extra" in message:
        message = unknown_key(Manifest, path)
    return source.problem(path, message)


def _at(tree: Tree, path: yaml_tree.Path) -> Tree:
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _resolved(source: Source, references: References | None, gathered: _Gathered) -> dict[str, Tree]:
    """The tree with its references resolved; a placeholder stands for a secret that could not be had."""

    def resolve(path: yaml_tree.Path, reference: Tree) -> str:
        try:
            if references is not None:
                return references.resolve(reference, source.file.parent)
            if not is_reference(reference):
                gathered.problems.append(source.problem(path, RULE))
        except ReferenceProblemError as error:
            gathered.problems.append(source.problem(path, str(error)))
        return _PLACEHOLDER

    replaced = _replaced([Manifest], source.document.tree, (), resolve)
    return replaced if isinstance(replaced, dict) else {}


def _replaced(types: Sequence[Any], value: Tree, path: yaml_tree.Path, resolve: Callable[..., str]) -> Tree:
    """A copy of the tree in which each value whose field keeps it secret is what `resolve` makes of it."""
    if value is not None and any(kind is SecretStr for of in types for kind in kinds_of(of)):
        return resolve(path, value)
    if not isinstance(value, Mapping):
        return value
    return {
        key: _replaced([below for of in types for below in types_below(of, key)], held, (*path, key), resolve)
        for key, held in value.items()
    }


def _trees(owner: str, gathered: _Gathered) -> Mapping[str, Mapping[str, Tree]]:
    named = {"owner": owner} if owner else {}
    return {
        namespace: {**named, **({"namespace": namespace} if namespace else {}), **tree}
        for namespace, tree in gathered.trees.items()
    }


def _body(tree: Tree, gathered: _Gathered) -> ApplyBody:
    try:
        return ApplyBody.model_validate(tree)
    except ValidationError as error:  # what is good one by one may be too much together
        (first, *_) = error.errors(include_url=False, include_input=False, include_context=False)
        gathered.problems.append(Problem(Place(), dotted(first["loc"]), first["msg"]))
        return ApplyBody()


def _judged(entry: Manifest, *, allow_loopback: bool) -> Iterator[tuple[yaml_tree.Path, str]]:
    """What the engine would refuse, by its place."""
    check_tool = partial(tools.check, allow_loopback=allow_loopback, allow_plaintext_tokens=True)
    for name, fields in entry.tools.items():
        try:
            request = put_request(tool_body(name, fields))
            check_tool(tool_of(request.tool), secrets_of(request))
        except InvalidRequestError as error:
            yield ("tools", name, *_named_by(error)), error.message
    for agent_id, policy in entry.policies.items():
        if policy.agent_id not in {None, agent_id}:
            yield ("policies", agent_id, "agent_id"), "is not that of the key"
        try:
            policies.check(policy_of(policies_api.policy_of(policy)))
        except InvalidRequestError as error:
            yield ("policies", agent_id, *_named_by(error)), error.message


def _named_by(error: InvalidRequestError) -> yaml_tree.Path:
    if isinstance(error, InvalidFieldsError):
        return tuple(error.fields[0].loc[3:])
    return tuple(part for part in error.metadata.get("field", "").split(".") if part)


def _idle_globs(namespace: str, body: ApplyBody, gathered: _Gathered) -> Iterator[Problem]:
    """Globs that match no tool here: perhaps misspelt, perhaps meant for tools that are kept elsewhere."""
    names = {key.rpartition("/")[2] for key in body.tools}
    if not names:
        return
    for agent_id, policy in body.policies.items():
        source, place = gathered.places[namespace, ("policies", agent_id)]
        for path, glob in _globs(policy):
            if not any(matches(glob, tool) for tool in names):
                yield source.problem((*place, *path), f"{glob} matches no tool that is named here")


def _globs(policy: PolicyBody) -> Iterator[tuple[yaml_tree.Path, str]]:
    for section in ("allowed_tools", "blocked_tools"):
        for index, glob in enumerate(getattr(policy, section) or ()):
            yield (section, index), glob
    for glob in policy.max_calls_per_tool or ():
        yield ("max_calls_per_tool", glob), glob
    for index, rule in enumerate(policy.pricing_rules or ()):
        yield ("pricing_rules", index, "tool"), rule.tool
