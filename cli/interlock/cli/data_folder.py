"""What `interlock dev` keeps from one start to the next, in a folder that only its owner may read."""

import os
import tempfile
from pathlib import Path

from interlock.audit.heads import new_signing_key
from interlock.governance.errors import InvalidRequestError
from interlock.policy.credentials import looks_like_key, new_key
from interlock.policy.secrets import generate_key


class DataFolderError(InvalidRequestError):
    """The data folder, or a file in it, cannot be used."""


class DataFolder:
    """The folder, made (0700) if it is missing. Raises DataFolderError if it cannot be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path).close()
        except OSError as error:
            raise DataFolderError("data_folder", f"{path} cannot be written to: {error.strerror}") from error

    @property
    def redis(self) -> Path:
        return self._path / "redis"

    @property
    def admin_key_file(self) -> Path:
        return self._path / "admin.key"

    def master_key_file(self) -> Path:
        """The file with the key that seals tool secrets, made on the first start."""
        file = self._path / "master.key"
        _write_once(file, generate_key())
        return file

    def signing_key_file(self) -> Path:
        """The file with the key that signs the audit trail's heads, made on the first start."""
        file = self._path / "audit.key"
        _write_once(file, new_signing_key().strip())
        return file

    def admin_key(self) -> str:
        """The operator's first key, made on the first start."""
        _write_once(self.admin_key_file, new_key())
        key = self.admin_key_file.read_text().strip()
        if not looks_like_key(key):
            raise DataFolderError("data_folder", f"{self.admin_key_file} holds no key; remove it to get a new one")
        return key


def _write_once(file: Path, line: str) -> None:
    """Writes a file, 0600, unless it is there; whole or not at all, also when two processes start at once."""
    if file.exists():
        return
    descriptor, temporary = tempfile.mkstemp(dir=file.parent)  # 0600
    try:
        with os.fdopen(descriptor, "w") as written:
            written.write(f"{line}\n")
        os.link(temporary, file)
    except FileExistsError:
        pass  # another process was first: its key holds
    finally:
        Path(temporary).unlink()
