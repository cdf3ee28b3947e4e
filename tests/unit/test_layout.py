"""What holds the rooms apart: which of them may import which, and what nobody may put into them."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = {
    "governance": "proto",
    "policy": "policy",
    "store": "store",
    "audit": "audit",
    "proxy": "proxy",
    "injector": "injector",
    "cli": "cli",
    "client": "client",
}

MAY_IMPORT = {
    "governance": set(),
    "policy": {"governance"},
    "store": {"governance", "policy"},
    "audit": {"governance", "policy"},
    "proxy": {"governance"},
    "injector": {"governance"},
    "cli": {"governance", "policy", "store", "audit", "proxy", "injector"},
    "client": set(),
}
OWN_DISTRIBUTIONS = {"client"}
"""Rooms with a pyproject.toml of their own: the wheel of the others does not hold them."""
NOT_FOR = {
    "policy": {"aiohttp", "httpx", "redis", "hiredis"},
    "store": {"aiohttp", "httpx", "grpc", "grpc_health", "google"},
    "audit": {"redis", "hiredis", "grpc", "grpc_health", "google"},
    "proxy": {"redis", "hiredis"},
}


def modules_of(room: str) -> list[Path]:
    return sorted((ROOT / ROOMS[room] / "interlock" / room).rglob("*.py"))


def imports_of(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports hide which room they reach"
            # `from interlock import policy` is an import of interlock.policy.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room: str) -> None:
    modules = modules_of(room)
    assert modules, f"the room {room} is empty"
    wrong = [
        f"{module.relative_to(ROOT)}: {name}"
        for module in modules
        for name in imports_of(module)
        if name.startswith("interlock.") and name.split(".")[1] not in MAY_IMPORT[room] | {room}
    ]
    assert not wrong


@pytest.mark.parametrize("room", NOT_FOR)
def test_a_room_does_not_know_what_is_not_its_own(room: str) -> None:
    wrong = [
        f"{module.relative_to(ROOT)}: {name}"
        for module in modules_of(room)
        for name in imports_of(module)
        if name.split(".")[0] in NOT_FOR[room]
    ]
    assert not wrong


def test_no_root_makes_the_namespace_a_package() -> None:
    assert not [str(found) for found in ROOT.glob("*/interlock/__init__.py")]


def test_every_root_is_built_and_checked() -> None:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    roots = sorted(folder.parent.name for folder in ROOT.glob("*/interlock") if folder.parent.name != "helm")
    hatch = configuration["hatch"]["build"]
    assert sorted(hatch["dev-mode-dirs"]) == roots
    together = [f"{root}/interlock" for root in roots if root not in OWN_DISTRIBUTIONS]
    assert sorted(hatch["targets"]["wheel"]["packages"]) == together
    assert sorted(configuration["mypy"]["mypy_path"]) == roots
    assert sorted(configuration["mypy"]["files"]) == roots


@pytest.mark.parametrize("room", ROOMS)
def test_no_file_is_too_long_to_read(room: str) -> None:
    written = [module for module in modules_of(room) if "_pb2" not in module.name]
    assert not [str(module) for module in written if len(module.read_text().splitlines()) > 500]


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_every_requirement_is_pinned_by_hash_and_names_no_source(lock: str) -> None:
    lines = (ROOT / lock).read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith(("#", " "))]
    assert pins
    assert all("==" in pin and pin.endswith("\\") for pin in pins)
    assert not [
        line for line in lines if "://" in line or line.lstrip("# ").startswith(("--index", "--find", "--extra"))
    ]
