"""What each role needs before it starts, and what `interlock check-config` says of it."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from interlock.cli.configuration import load
from interlock.cli.main import app
from interlock.cli.needs import is_loopback, load_for
from interlock.cli.problems import ConfigurationError
from interlock.cli.role import Role
from interlock.policy.credentials import new_key

EXAMPLE = Path(__file__).parents[3] / "deploy" / "examples" / "interlock.yaml"
TOKEN = "a token of sidecars"


def check_config(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["check-config", *arguments])


def needs(role: Role, tmp_path: Path, text: str = "") -> list[str]:
    file = tmp_path / "interlock.yaml"
    file.write_text(text)
    try:
        load_for(role, file)
    except ConfigurationError as error:
        return [problem.key for problem in error.problems]
    return []


def test_an_engine_tells_all_it_needs_at_once(tmp_path: Path) -> None:
    assert needs(Role.ENGINE, tmp_path) == ["engine.master_key", "engine.sidecar_token", "redis.url"]


def test_a_sidecar_tells_all_it_needs_at_once(tmp_path: Path) -> None:
    assert needs(Role.SIDECAR, tmp_path, "sidecar: {engine: {target: embedded}}") == [
        "sidecar.engine.sidecar_token",
        "sidecar.engine.target",
    ]


@pytest.mark.parametrize(
    ("sidecar", "needed"),
    [
        ("host: 0.0.0.0", ["sidecar.host"]),
        ("host: 10.0.0.7, allow_remote_agents: true", []),
        ("host: '::1'", []),
    ],
)
def test_agents_from_beyond_this_machine_must_be_accepted(sidecar: str, needed: list[str], tmp_path: Path) -> None:
    assert needs(Role.DEV, tmp_path, f"sidecar: {{{sidecar}}}") == needed


def test_dev_needs_nothing(tmp_path: Path) -> None:
    assert needs(Role.DEV, tmp_path) == []


@pytest.mark.parametrize(
    ("listen", "extra", "needed"),
    [
        ("127.0.0.1:8402", "", []),
        ("localhost:8402", "", []),
        ("'[::1]:8402'", "", []),
        ("0.0.0.0:8402", "", ["engine.tls"]),
        ("engine.internal:8402", "", ["engine.tls"]),
        ("0.0.0.0:8402", "allow_plaintext: true", []),
        ("0.0.0.0:8402", "tls: {cert_file: FILE, key_file: FILE}", []),
        ("'8402'", "", ["engine.listen"]),
    ],
)
def test_an_engine_speaks_in_the_clear_on_loopback_only_unless_told(
    tmp_path: Path, listen: str, extra: str, needed: list[str]
) -> None:
    text = f"""
        redis: {{url: 'redis://h'}}
        engine:
          listen: {listen}
          sidecar_token: {TOKEN}
          master_key_file: {__file__}
          {extra.replace("FILE", __file__)}
        """
    assert needs(Role.ENGINE, tmp_path, text) == needed


@pytest.mark.parametrize(
    ("link", "needed"),
    [
        ("target: 'grpc://127.0.0.1:8402'", []),
        ("target: 'grpc://[::1]:8402'", []),
        ("target: 'grpcs://engine.internal:8402'", []),
        ("target: 'grpc://engine.internal:8402'", ["sidecar.engine.target"]),
        ("target: 'grpc://engine.internal:8402', allow_plaintext: true", []),
    ],
)
def test_a_sidecar_speaks_in_the_clear_to_loopback_only_unless_told(
    tmp_path: Path, link: str, needed: list[str]
) -> None:
    text = f"sidecar: {{engine: {{sidecar_token: {TOKEN}, {link}}}}}"
    assert needs(Role.SIDECAR, tmp_path, text) == needed


@pytest.mark.parametrize("role", [Role.DEV, Role.ENGINE])
def test_a_bootstrap_key_must_look_like_a_key(role: Role, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERLOCK_BOOTSTRAP_KEY", "letmein")
    assert "engine.bootstrap_key" in needs(role, tmp_path)
    monkeypatch.setenv("INTERLOCK_BOOTSTRAP_KEY", new_key())
    assert "engine.bootstrap_key" not in needs(role, tmp_path)


def test_a_name_that_only_looks_like_loopback_is_not() -> None:
    assert not is_loopback("localhost.example.com")
    assert not is_loopback("")


def test_the_example_is_accepted() -> None:
    assert check_config("--config", str(EXAMPLE)).exit_code == 0


def test_the_example_starts_both_roles_once_its_files_and_secrets_are_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "interlock.yaml"
    text = EXAMPLE.read_text().replace("/etc/interlock", str(tmp_path))
    file.write_text(text)
    lacking = check_config("--config", str(file), "--role", "engine")
    assert lacking.exit_code == 1
    assert [line.split(":")[0] for line in lacking.stderr.splitlines()] == [
        *("engine.master_key_file", "engine.sidecar_token"),
        *("engine.tls.cert_file", "engine.tls.client_ca_file", "engine.tls.key_file"),
    ]
    for name in re.findall(rf"{tmp_path}/([\w.-]+)", text):
        (tmp_path / name).touch()
    monkeypatch.setenv("INTERLOCK_ENGINE__SIDECAR_TOKEN", TOKEN)
    monkeypatch.setenv("INTERLOCK_SIDECAR__ENGINE__SIDECAR_TOKEN", TOKEN)
    assert check_config("--config", str(file), "--role", "engine").exit_code == 0
    assert check_config("--config", str(file), "--role", "sidecar").exit_code == 0


def test_what_the_example_leaves_out_is_really_there(tmp_path: Path) -> None:
    commented = re.compile(r"^(\s+)# (\w+:.*)$", re.MULTILINE)
    text, count = commented.subn(r"\1\2", EXAMPLE.read_text())
    assert count > 10
    file = tmp_path / "interlock.yaml"
    file.write_text(text)
    written, example = load(file), load(EXAMPLE)
    assert written.engine == example.engine
    assert written.sidecar == example.sidecar
    assert written.redis.model_copy(update={"tls_ca_file": None}) == example.redis


def test_check_config_prints_every_problem_and_fails(tmp_path: Path) -> None:
    file = tmp_path / "interlock.yaml"
    file.write_text("sidecar: {prot: 1}\nredis: {timeout_ms: 1}\n")
    checked = check_config("--config", str(file))
    assert checked.exit_code == 1
    assert checked.stderr.splitlines() == [
        f"{file}:1: sidecar.prot: unknown key; did you mean port?",
        f"{file}:2: redis.timeout_ms: Input should be greater than or equal to 10",
    ]


def test_check_config_without_a_readable_file_is_a_different_failure(tmp_path: Path) -> None:
    checked = check_config("--config", str(tmp_path / "nowhere.yaml"))
    assert checked.exit_code == 2
    assert checked.stderr.endswith("nowhere.yaml cannot be read: No such file or directory\n")


def test_the_schema_is_json() -> None:
    assert json.loads(check_config("--schema").stdout)["title"] == "Interlock"
