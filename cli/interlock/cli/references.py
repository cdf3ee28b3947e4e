"""Secrets by reference: `env:NAME` and `file:/path`, so that no file that people read and copy holds one."""

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

MAX_BYTES = 8192
RULE = "write env:NAME or file:/path, never the secret itself"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_OURS = "INTERLOCK_"
_TOOL_SECRET = "INTERLOCK_TOOL_SECRET"  # noqa: S105 - the name of the one variable of ours that is a tool's


class ReferenceProblemError(ValueError):
    """A reference that gives no secret. The message says why, and never more of the secret than that."""


def is_reference(value: object) -> bool:
    """Whether it looks like one; where it leads is another question."""
    return isinstance(value, str) and value.startswith(("env:", "file:"))


class References:
    """Resolves them, and remembers in `digests` the files they led to, each as it was then.

    `own` files, and all in such folders, are Interlock's: who may write a tool down may have its secret sent to that
    tool, and shall not have the master key sent there. The same goes for variables, which /proc shows, too.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ, own: Iterable[Path] = ()) -> None:
        self._environ = environ
        self._own = {file.resolve() for file in (*own, Path("/proc"))}
        self.digests: dict[Path, str] = {}

    def resolve(self, reference: object, folder: Path) -> str:
        """The secret. Relative paths begin at `folder`. Raises ReferenceProblemError."""
        if not isinstance(reference, str) or not is_reference(reference):
            raise ReferenceProblemError(RULE)
        kind, _, name = reference.partition(":")
        if not name or "\0" in name:
            raise ReferenceProblemError(RULE)
        return self._variable(name) if kind == "env" else self._file(folder / name)

    def _variable(self, name: str) -> str:
        if not _VARIABLE.fullmatch(name):
            raise ReferenceProblemError("what follows env: is no variable's name")
        if name.startswith(_OURS) and name != _TOOL_SECRET:
            raise ReferenceProblemError(f"{name} is Interlock's own, and no secret of a tool")
        if not self._environ.get(name):
            raise ReferenceProblemError(f"the variable {name} is not set")
        return self._environ[name]

    def _file(self, file: Path) -> str:
        found = _found(file)
        self.digests[file] = digest_of(found)
        if self._is_own(file):
            raise ReferenceProblemError(f"{file} is Interlock's own, and no secret of a tool")
        if isinstance(found, OSError):
            raise ReferenceProblemError(f"{file} cannot be read: {found.strerror}")
        try:
            secret = found.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:  # its text would show the bytes
            raise ReferenceProblemError(f"{file} is not UTF-8 text") from None
        if not secret:
            raise ReferenceProblemError(f"{file} is empty")
        return secret

    def _is_own(self, file: Path) -> bool:
        try:
            resolved = file.resolve()
        except RuntimeError:  # links in a circle lead nowhere
            return False
        return not self._own.isdisjoint((resolved, *resolved.parents))

    @staticmethod
    def digest(file: Path) -> str:
        """That of a file now, as `digests` has it of then."""
        return digest_of(_found(file))


def digest_of(found: bytes | OSError) -> str:
    """What tells one content from another, and from none."""
    return str(found.strerror) if isinstance(found, OSError) else hashlib.sha256(found).hexdigest()


def _found(file: Path) -> bytes | OSError:
    try:
        return contents(file, MAX_BYTES)
    except OSError as error:
        return error


def contents(file: Path, most: int) -> bytes:
    """A regular file's bytes, or OSError: a pipe would be waited for, and a larger file read to no end."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "this is no file", str(file))
        found = opened.read(most + 1)
    if len(found) > most:
        raise OSError(0, f"larger than {most} bytes", str(file))
    return found
