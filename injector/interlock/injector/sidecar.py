"""What is put into pods: a container and its volumes, as the chart's templates give them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

Object = Mapping[str, Any]
Stamp = tuple[int, int, int, int]

log = structlog.get_logger(__name__)

DRAIN = "INTERLOCK_SIDECAR__DRAIN_GRACE_MS"
DRAIN_MS = 30_000
"""The sidecar's own default."""


@dataclass(frozen=True, slots=True)
class Sidecar:
    """A container for `initContainers`, and the volumes that it mounts."""

    container: Object
    volumes: Sequence[Object]

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that have a plain value."""
        return {each["name"]: str(each["value"]) for each in self.container.get("env", ()) if "value" in each}

    @property
    def drain_s(self) -> int:
        """So long the sidecar may take to end, s."""
        return -(-int(self.environment.get(DRAIN, DRAIN_MS)) // 1000)


class SidecarFile:
    """The sidecar that a file describes; while it describes none, the one before.

    Errors of the first reading: OSError, or ValueError that says what is wrong.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stamp = self._look()
        self._refused: Stamp | None = None
        self._sidecar = _read(file)

    def current(self) -> Sidecar:
        """Read again if the file was changed; a kubelet swaps a link on the way to it."""
        try:
            stamp = self._look()
            if stamp in (self._stamp, self._refused):
                return self._sidecar
            self._refused = stamp
            self._sidecar, self._stamp, self._refused = _read(self._file), stamp, None
        except (OSError, ValueError) as error:
            log.warning("sidecar_file.not_taken", file=str(self._file), error=str(error))
        else:
            log.info("sidecar_file.taken", file=str(self._file))
        return self._sidecar

    def _look(self) -> Stamp:
        state = self._file.stat()
        return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def _read(file: Path) -> Sidecar:
    try:
        told = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not YAML") from error
    container, volumes = (told.get("container"), told.get("volumes")) if isinstance(told, dict) else (None, None)
    if not isinstance(container, dict) or not {"name", "image"} <= container.keys():
        raise ValueError(f"{file}: container: must be one, with name and image")
    if not isinstance(volumes, list) or not all(isinstance(each, dict) and "name" in each for each in volumes):
        raise ValueError(f"{file}: volumes: must be a list of volumes, each with a name")
    return Sidecar(container, volumes)
