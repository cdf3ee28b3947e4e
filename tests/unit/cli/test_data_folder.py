"""What `interlock dev` keeps between starts."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from interlock.cli.data_folder import DataFolder, DataFolderError
from interlock.policy.credentials import looks_like_key
from interlock.policy.secrets import load_keyring


def test_keys_are_made_once_and_are_for_the_owner_alone(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    key, master = folder.admin_key(), folder.master_key_file().read_text()
    assert looks_like_key(key)
    load_keyring(None, folder.master_key_file())
    again = DataFolder(tmp_path / "data")
    assert (again.admin_key(), again.master_key_file().read_text()) == (key, master)
    for private in (folder.admin_key_file, folder.master_key_file()):
        assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert sorted(file.name for file in (tmp_path / "data").iterdir()) == ["admin.key", "master.key"]


def test_two_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    folders = [DataFolder(tmp_path / "data") for _ in range(50)]
    with ThreadPoolExecutor(50) as pool:
        assert len(set(pool.map(DataFolder.admin_key, folders))) == 1


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataFolderError, match=r"file/data cannot be written to: Not a directory"):
        DataFolder(tmp_path / "file" / "data")


def test_a_file_that_holds_no_key_is_told_by_name_and_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "admin.key").write_text("something of mine\n")
    with pytest.raises(DataFolderError, match=r"admin\.key holds no key"):
        DataFolder(tmp_path).admin_key()
    assert (tmp_path / "admin.key").read_text() == "something of mine\n"
