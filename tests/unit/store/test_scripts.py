"""The contract at the head of every Lua file is true."""

import re
from importlib import resources

import pytest

from interlock.store.scripts import load_all

SCRIPTS = load_all()
FILES = {
    file.name[:-4]: file.read_text()
    for file in (resources.files("interlock.store") / "lua").iterdir()
    if file.name.endswith(".lua")
}


def declared(text: str, kind: str) -> set[int]:
    """The numbers that the header declares for KEYS or ARGV; continuation lines are indented further."""
    header = re.search(rf"^-- {kind}  ((?:.|\n--    )*)", text, re.MULTILINE)
    assert header is not None, f"no {kind} line"
    return {int(number) for number in re.findall(r"(?:^|\s)(\d+) [a-z]", header[1])}


def used(text: str, kind: str) -> set[int]:
    return {int(number) for number in re.findall(rf"{kind}\[(\d+)\]", text)}


@pytest.mark.parametrize("name", FILES)
def test_the_header_declares_exactly_the_keys_and_arguments_that_the_script_uses(name: str) -> None:
    for kind in ("KEYS", "ARGV"):
        numbers = declared(FILES[name], kind)
        assert numbers == used(FILES[name], kind)
        assert numbers == set(range(1, len(numbers) + 1))


@pytest.mark.parametrize("name", FILES)
def test_the_header_tells_purpose_returns_and_why_it_is_atomic(name: str) -> None:
    header = FILES[name].split("\nlocal ")[0].split("\nif ")[0]
    assert re.match(r"-- [A-Z].*\.\n", header)
    assert "-- Returns  " in header
    assert "-- Atomic because " in header


@pytest.mark.parametrize("name", FILES)
def test_no_script_names_a_key_of_its_own_or_scans(name: str) -> None:
    source = SCRIPTS[name].source
    assert "'il:" not in source
    assert not re.search(r"'(KEYS|SCAN|FLUSHALL|EVAL)'", source)


def test_includes_are_resolved() -> None:
    assert "local function clock(state)" in SCRIPTS["authorize"].source
    assert "-- include:" not in SCRIPTS["authorize"].source
