"""`make demo` as a stranger runs it."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "demo" / "play.py"


def running() -> Iterator[str]:
    """The command lines of all processes, where the system tells them as Linux does."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield (process / "cmdline").read_bytes().decode(errors="replace")


def test_the_demo_tells_the_truth_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:  # short: a socket will be in it
        monkeypatch.setenv("TMPDIR", folder)
        command = [sys.executable, DEMO]
        played = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
        assert played.returncode == 0, played.stdout + played.stderr
        assert not list(Path(folder).iterdir())
        assert not list(tmp_path.iterdir())
        assert not [line for line in running() if folder in line]
    for told in ("executed   receipt ch_1", "dedup      receipt ch_1", "blocked    15 searches", "403 kill_switch"):
        assert told in played.stdout
