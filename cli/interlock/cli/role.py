"""The ways to run Interlock."""

from enum import StrEnum


class Role(StrEnum):
    """What a process is."""

    DEV = "dev"
    SIDECAR = "sidecar"
    ENGINE = "engine"
    EXPORTER = "exporter"
    INJECTOR = "injector"
