"""Secrets by reference: what resolves, what is refused, and that no refusal shows a secret."""

import os
from pathlib import Path

import pytest

from interlock.cli.references import ReferenceProblemError, References


def refused(reference: object, folder: Path, references: References | None = None) -> str:
    with pytest.raises(ReferenceProblemError) as raised:
        (references or References({})).resolve(reference, folder)
    return str(raised.value)


def test_a_variable_and_a_file_give_their_secret(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from a file\n")
    references = References({"PAY": "from a variable"})
    assert references.resolve("env:PAY", tmp_path) == "from a variable"
    assert references.resolve(f"file:{tmp_path}/key", Path("/elsewhere")) == "from a file"
    assert references.resolve("file:key", tmp_path) == "from a file"
    assert references.digests == {tmp_path / "key": References.digest(tmp_path / "key")}


@pytest.mark.parametrize(
    ("written", "secret"),
    [("a\n", "a"), ("a\r\n", "a"), ("a", "a"), ("a\n\n", "a\n"), (" a \n", " a "), ("ä\n", "ä")],
)
def test_one_line_end_is_cut_and_nothing_else(tmp_path: Path, written: str, secret: str) -> None:
    (tmp_path / "key").write_bytes(written.encode())
    assert References({}).resolve("file:key", tmp_path) == secret


@pytest.mark.parametrize("value", ["hunter2", "", "env", "env:", "file:", "ENV:A", 12345678, True, ["env:A"], None])
def test_what_is_no_reference_is_refused_with_the_rule_and_never_repeated(tmp_path: Path, value: object) -> None:
    told = refused(value, tmp_path)
    assert "write env:NAME or file:/path" in told
    assert "hunter2" not in told


def test_a_variable_that_is_not_there_or_no_name_is_told(tmp_path: Path) -> None:
    assert refused("env:PAY", tmp_path) == "the variable PAY is not set"
    assert refused("env:PAY", tmp_path, References({"PAY": ""})) == "the variable PAY is not set"
    assert "hunter 2" not in refused("env:hunter 2", tmp_path)


@pytest.mark.parametrize("name", ["INTERLOCK_API_KEY", "INTERLOCK_BOOTSTRAP_KEY", "INTERLOCK_ENGINE__MASTER_KEY"])
def test_interlocks_own_variables_are_no_tools_secrets(tmp_path: Path, name: str) -> None:
    assert "Interlock's own" in refused(f"env:{name}", tmp_path, References({name: "hunter2"}))


def test_interlocks_own_files_are_no_tools_secrets_by_any_name(tmp_path: Path) -> None:
    (tmp_path / "master.key").write_text("hunter2")
    (tmp_path / "other").symlink_to("master.key")
    references = References({}, own=[tmp_path / "master.key"])
    for name in ("master.key", "other", "./x/../master.key"):
        assert "hunter2" not in refused(f"file:{name}", tmp_path, references)


def test_files_that_give_no_secret_are_told(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "large").write_text("hunter2" * 10_000)
    (tmp_path / "binary").write_bytes(b"hunter2\xff")
    os.mkfifo(tmp_path / "pipe")
    told = {
        name: refused(f"file:{name}", tmp_path) for name in ("missing", "empty", "large", "binary", "pipe", ".", "\0")
    }
    assert told["missing"].endswith("missing cannot be read: No such file or directory")
    assert "larger than 8192 bytes" in told["large"]
    assert "this is no file" in told["pipe"]
    assert not [text for text in told.values() if "hunter2" in text]
