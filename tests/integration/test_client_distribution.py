"""interlock-client as it is installed beside an agent: a wheel, httpx, and nothing else."""

import re
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDS = {"fastapi": "fastapi", "langchain": "langchain_core", "openai_agents": "agents"}
"""The integrations that need another library, and which."""
CHECK = f"""
import importlib, pkgutil, sys
import interlock.client
lacking = {{}}
for module in pkgutil.walk_packages(interlock.client.__path__, "interlock.client."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        lacking[module.name.removeprefix("interlock.client.integrations.")] = error.name
assert lacking == {NEEDS}, lacking
assert not hasattr(interlock, "__file__") or interlock.__file__ is None
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


def run(*words: object, cwd: Path) -> str:
    done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def built(source: Path, into: Path) -> Path:
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", into, cwd=source)
    (wheel,) = into.glob("*.whl")
    return wheel


def needed(name: str, found: set[str]) -> set[str]:
    """The distributions that one needs, itself included."""
    if name not in found:
        found.add(name)
        for line in distribution(name).requires or ():
            if "extra ==" not in line and "python_version <" not in line:
                needed(re.split(r"[^A-Za-z0-9_.-]", line)[0].lower(), found)
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT / "client", tmp_path_factory.mktemp("wheel"))


def test_it_is_installed_with_httpx_alone_and_all_of_it_can_be_imported(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, wheel, cwd=tmp_path)
    (packages,) = (tmp_path / "venv").glob("lib/*/site-packages")
    for name in needed("httpx", set()):
        for file in distribution(name).files or ():
            top = file.parts[0]
            if top not in {"..", "__pycache__"} and not (packages / top).exists():
                (packages / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    imported = set(run(python, "-c", CHECK, cwd=tmp_path).split())
    assert "httpx" in imported
    others = {"grpc", "redis", "pydantic", "aiohttp", "fastapi", "starlette", "langchain_core", "agents", "google"}
    assert not imported & others
    assert not list(packages.glob("interlock/[!c]*"))


def test_it_needs_httpx_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        (metadata,) = (opened.read(name).decode() for name in names if name.endswith("METADATA"))
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert required == ["Requires-Dist: httpx>=0.28"]
    assert "interlock/client/py.typed" in names
    assert not [name for name in names if not name.startswith(("interlock/client/", "interlock_client-"))]


def test_the_wheel_of_the_other_rooms_does_not_hold_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(built(ROOT, tmp_path)) as opened:
        names = opened.namelist()
    assert "interlock/proxy/pipeline.py" in names
    assert not [name for name in names if name.startswith("interlock/client")]
