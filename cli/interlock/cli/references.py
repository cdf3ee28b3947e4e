"""Secrets by reference: `env:NAME` and `file:/path`, so that no file that people read and copy holds one."""

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
    """Resolves them, once each, and remembers which files they led to.

    `forbidden` files are Interlock's own: who may write a tool down may have its secret sent to that tool, and shall
    not have the master key sent there. The same goes for variables.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ, forbidden: Iterable[Path] = ()) -> None:
        self._environ = environ
        self._forbidden = {file.resolve() for file in forbidden}
        self.files: set[Path] = set()

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
        self.files.add(file)
        try:
            if file.resolve() in self._forbidden:
                raise ReferenceProblemError(f"{file} is Interlock's own, and no secret of a tool")
            text = contents(file, MAX_BYTES).decode()
        except OSError as error:
            raise ReferenceProblemError(f"{file} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:  # its text would show the bytes
            raise ReferenceProblemError(f"{file} is not UTF-8 text") from None
        except RuntimeError:  # links in a circle
            raise ReferenceProblemError(f"{file} leads nowhere") from None
        secret = text.removesuffix("\n").removesuffix("\r")
        if not secret:
            raise ReferenceProblemError(f"{file} is empty")
        return secret


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
