"""The Lua scripts as package data: one file an operation, `-- include: name` lines resolved from `lua/include/`."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

_INCLUDE = re.compile(r"^-- include: (\w+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """A script and the SHA-1 by which EVALSHA knows it."""

    name: str
    source: str
    sha: str


def load_all() -> Mapping[str, Script]:
    """Every script by its file's name without the ending."""
    folder = resources.files("interlock.store") / "lua"
    files = [file for file in folder.iterdir() if file.name.endswith(".lua")]
    return {script.name: script for script in (_load(file.name[:-4], file.read_text()) for file in files)}


def _load(name: str, text: str) -> Script:
    include = resources.files("interlock.store") / "lua" / "include"
    source = _INCLUDE.sub(lambda match: (include / f"{match[1]}.lua").read_text(), text)
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
