"""`interlock master-key` makes what `engine.master_key_file` takes."""

from pathlib import Path

from typer.testing import CliRunner

from interlock.cli.main import app
from interlock.policy.secrets import load_keyring


def new_key() -> str:
    result = CliRunner().invoke(app, ["master-key"])
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def test_a_new_master_key_is_a_key_file_as_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "master.key"
    file.write_text(new_key())
    keyring = load_keyring(None, file)
    assert keyring.open(keyring.seal("correct horse", "a tool"), "a tool") == "correct horse"


def test_no_two_master_keys_are_alike_nor_have_the_same_id() -> None:
    first, second = new_key(), new_key()
    assert first != second
    assert first.partition(":")[0] != second.partition(":")[0]


def test_a_new_key_before_the_old_one_seals_while_the_old_one_still_opens(tmp_path: Path) -> None:
    file = tmp_path / "master.key"
    old = new_key()
    file.write_text(old)
    sealed = load_keyring(None, file).seal("correct horse", "a tool")
    new = new_key()
    file.write_text(new + old)
    both = load_keyring(None, file)
    assert both.open(sealed, "a tool") == "correct horse"
    assert both.seal("another", "a tool").key_id == new.partition(":")[0]
