import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from interlock.cli.completion import WITHIN_S, agent_names, tool_names

KEY = "once_live_" + "a" * 43


class Api(ThreadingHTTPServer):
    """Answers every GET with the same, perhaps late."""

    daemon_threads = True
    answer: Any = ()
    raw: bytes | None = None
    late_s = 0.0
    asked = ""


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_GET(self) -> None:
        self.server.asked = self.path
        time.sleep(self.server.late_s)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.raw or json.dumps(self.server.answer).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parameter's name in http.server
        pass


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    server = Api(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("INTERLOCK_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("INTERLOCK_API_KEY", KEY)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_agents_and_tools_that_begin_so_are_offered(api: Api) -> None:
    api.answer = [{"agent_id": name, "name": name} for name in ("shopper", "shipper", "biller", "shopper")]
    assert agent_names("sh") == ["shipper", "shopper"]
    assert "after=s" in api.asked
    assert tool_names("") == ["biller", "shipper", "shopper"]


@pytest.mark.parametrize("raw", [b"<html>", b"{}", b"[1]", b'[{"x": 1}]', b"\xff"])
def test_an_answer_that_is_none_offers_nothing(api: Api, raw: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    api.raw = raw
    assert agent_names("") == []
    assert capfd.readouterr() == ("", "")


def test_nobody_waits_long_for_a_slow_answer(api: Api) -> None:
    api.late_s = 3 * WITHIN_S
    began = time.monotonic()
    assert tool_names("x") == []
    assert time.monotonic() - began < 2.5 * WITHIN_S


@pytest.mark.parametrize("name", ["INTERLOCK_API_KEY", "INTERLOCK_BASE_URL"])
def test_without_an_api_there_is_no_word_of_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setenv("INTERLOCK_API_KEY", KEY)
    monkeypatch.setenv("INTERLOCK_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv(name, "" if name == "INTERLOCK_API_KEY" else "nonsense")
    assert (agent_names("a"), tool_names("a")) == ([], [])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("shell", "asked"),
    [
        ("bash", {"COMP_WORDS": "interlock agents show sh", "COMP_CWORD": "3"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "interlock agents show sh"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "interlock agents show sh", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_the_shells_get_the_names_from_the_command_itself(api: Api, shell: str, asked: dict[str, str]) -> None:
    api.answer = [{"agent_id": "shopper"}, {"agent_id": "biller"}]
    code = "from interlock.cli.main import main; main()"
    environment = {**os.environ, **asked, "_INTERLOCK_COMPLETE": f"complete_{shell}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ("shopper" in done.stdout, "biller" in done.stdout, done.stderr) == (True, False, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_shown_and_names_the_command(shell: str) -> None:
    code = "from interlock.cli.main import main; main()"
    # Else it is the shell that runs the tests, if any does, for which a script is shown.
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = subprocess.run(
        [sys.executable, "-c", code, "--show-completion", shell],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "_INTERLOCK_COMPLETE" in shown.stdout


def test_bash_itself_completes_a_name(api: Api, tmp_path: Path) -> None:
    api.answer = [{"agent_id": "shopper"}, {"agent_id": "biller"}]
    command = tmp_path / "interlock"
    command.write_text(f"#!{sys.executable}\nfrom interlock.cli.main import main\nmain()\n")
    command.chmod(0o755)
    asked = "source <(interlock --show-completion bash); COMP_WORDS=(interlock agents show sh); COMP_CWORD=3"
    done = subprocess.run(
        ["bash", "-c", f"{asked}; _interlock_completion interlock; echo ${{COMPREPLY[@]}}"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "shopper\n"
