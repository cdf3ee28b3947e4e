"""A configuration that makes no sense: every problem at once, each with place and key, and no secret in any of them."""

import subprocess
import sys
from pathlib import Path

import pytest

BAD = """\
redis:
  url: "redis://:the-secret@cache.example:the-secret/0"
  timeout_ms: 1
engine:
  default_polcy: deny
  sidecar_token: "0123456789abcdef\\r\\nX-Evil: the-secret"
sidecar:
  port: many
  port: 8400
  admin_port: 70000
  max_body_bytes: -1
  agent_key: "once_live_the-secret\\n"
  allowed_hosts: [good.example, "evil.example/path", "a\\r\\nX-Evil: 1", "good.example:80"]
  engine:
    target: http://engine.example:8402
    sidecar_token: "the-secret\\nX-Evil: 1"
    tls: {cert_file: /tls/cert.pem, kee_file: /tls/key.pem}
    timeout_ms: .nan
sidecars: {}
"""
ONE_LINE = "must be one line of printable ASCII without space around it"
NO_HOST = "must be a host name or [IPv6 address] without a port"
PROBLEMS = f"""\
2: redis.url: must be redis://HOST, rediss://HOST, unix:///PATH, redis+sentinel://HOST,HOST/SERVICE or redis+cluster://HOST,HOST
3: redis.timeout_ms:
5: engine.default_polcy: unknown key; did you mean default_policy?
6: engine.sidecar_token: {ONE_LINE}
8: sidecar.port:
9: sidecar.port: given twice, first in line 8
10: sidecar.admin_port:
11: sidecar.max_body_bytes:
12: sidecar.agent_key: {ONE_LINE}
13: sidecar.allowed_hosts[1]: {NO_HOST}
13: sidecar.allowed_hosts[2]: {NO_HOST}
13: sidecar.allowed_hosts[3]: {NO_HOST}
15: sidecar.engine.target:
16: sidecar.engine.sidecar_token: {ONE_LINE}
17: sidecar.engine.tls.kee_file: unknown key; did you mean key_file?
18: sidecar.engine.timeout_ms:
19: sidecars: unknown key; did you mean sidecar?
"""


def interlock(*arguments: str) -> tuple[int, list[str]]:
    """Exit code and lines of a command that is to end by itself."""
    command = [sys.executable, "-m", "interlock.cli.main", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return ended.returncode, (ended.stdout + ended.stderr).splitlines()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "interlock.yaml"


@pytest.mark.parametrize(("command", "code"), [("check-config", 1), ("sidecar", 2), ("engine", 2)])
def test_all_problems_are_told_at_once_and_nothing_starts(file: Path, command: str, code: int) -> None:
    file.write_text(BAD)
    ended, lines = interlock(command, "--config", str(file))
    assert ended == code
    for line, problem in zip(lines, PROBLEMS.splitlines(), strict=True):
        assert line.startswith(f"{file}:{problem}")
        assert "the-secret" not in line


def test_variables_that_make_no_sense_are_told_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERLOCK_SIDECAR__PROT", "8400")
    monkeypatch.setenv("INTERLOCK_REDIS_URL", "the-secret")
    monkeypatch.setenv("INTERLOCK_SIDECAR__AGENT_KEY", "the-secret\n")
    code, lines = interlock("check-config")
    assert code == 1
    assert [line.rpartition(": ")[0] for line in lines] == [
        "INTERLOCK_REDIS_URL: redis.url",
        "INTERLOCK_SIDECAR__AGENT_KEY: sidecar.agent_key",
        "INTERLOCK_SIDECAR__PROT: sidecar.prot",
    ]
    assert "the-secret" not in "".join(lines)


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        (b"sidecar:\n  port: 1\n bad: [\n", 1, ":3: this is no YAML"),
        (b"sidecar: [1, 2\n", 1, ": this is no YAML"),
        (b"\tsidecar: {}\n", 1, ":1: this is no YAML"),
        (b"sidecar: {}\n---\nsidecar: {}\n", 1, ": this is no YAML"),
        (b"- sidecar\n- engine\n", 1, ":1: keys and values are expected"),
        (b"a: &a [*a]\n", 1, ": nested more than 32 levels deep"),
        (b"? [a, b]\n: c\n", 1, ":1: a key must be a plain word"),
        (b"sidecar: \xff\n", 2, " is not UTF-8 text"),
    ],
    ids=ascii,
)
def test_a_file_that_is_no_configuration_is_told_where(file: Path, text: bytes, code: int, told: str) -> None:
    file.write_bytes(text)
    ended, lines = interlock("check-config", "--config", str(file))
    assert ended == code
    assert any(told in line for line in lines), lines
    assert not any("Traceback" in line for line in lines)


def test_a_file_that_is_not_there_is_told(file: Path) -> None:
    assert interlock("check-config", "--config", str(file)) == (
        2,
        [f"{file} cannot be read: No such file or directory"],
    )


def test_a_good_configuration_is_good(file: Path) -> None:
    file.write_text("sidecar: {port: 9400, allowed_hosts: [tools.internal]}\nredis: {url: 'unix:///run/redis.sock'}\n")
    assert interlock("check-config", "--config", str(file)) == (0, [f"{file}: no problems"])
