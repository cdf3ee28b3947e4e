"""`interlock check-config` on manifests: those named to it, and those the configuration names."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from interlock.cli.main import app

GOOD = "owner: team\ntools: {a: {url: 'https://a.example', auth: {secret: env:PAY}}}\n"


def check(*arguments: object) -> tuple[int, str]:
    ended = CliRunner().invoke(app, ["check-config", *map(str, arguments)])
    return ended.exit_code, ended.stdout + ended.stderr


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    file = tmp_path / "tools.yaml"
    file.write_text(GOOD)
    return file


def test_a_good_manifest_is_good_where_its_references_lead_somewhere(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = f"{manifest}:2: tools.a.auth.secret: the variable PAY is not set\n"
    assert check("--manifest", manifest) == (1, told)
    assert check("--manifest", manifest, "--no-references") == (0, f"{manifest}: no problems\n")
    monkeypatch.setenv("PAY", "s3cr3t-s3cr3t")
    assert check("--manifest", manifest) == (0, f"{manifest}: no problems\n")


def test_problems_of_configuration_and_manifests_are_told_at_once(manifest: Path, tmp_path: Path) -> None:
    config = tmp_path / "interlock.yaml"
    config.write_text("sidecar: {prot: 1}\n")
    code, told = check("--config", config, "--manifest", manifest, "--manifest", tmp_path / "missing.yaml")
    assert code == 1
    assert [line.replace(f"{tmp_path}/", "") for line in told.splitlines()] == [
        "interlock.yaml:1: sidecar.prot: unknown key; did you mean port?",
        "missing.yaml: cannot be read: No such file or directory",
        "tools.yaml:2: tools.a.auth.secret: the variable PAY is not set",
    ]


def test_the_manifests_that_the_configuration_names_are_judged_too(manifest: Path, tmp_path: Path) -> None:
    config = tmp_path / "interlock.yaml"
    config.write_text(f"engine: {{manifests: ['{manifest}', '{tmp_path}/elsewhere']}}\n")
    code, told = check("--config", config)
    assert (code, "tools.a.auth.secret" in told, "elsewhere" in told) == (1, True, False)
    code, told = check("--config", config, "--role", "dev", "--no-references")
    assert (code, told) == (1, f"{tmp_path}/elsewhere: cannot be read: No such file or directory\n")


def test_one_manifest_may_be_named_by_a_variable(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERLOCK_ENGINE__MANIFESTS", str(manifest))
    assert check()[0] == 1
    assert check("--no-references") == (0, "the environment: no problems\n")


def test_globs_that_match_nothing_are_warned_of_and_no_problem(manifest: Path) -> None:
    manifest.write_text(GOOD + "policies: {bot: {allowed_tools: [b]}}\n")
    code, told = check("--manifest", manifest, "--no-references")
    assert code == 0
    assert "Warning: " in told
    assert "policies.bot.allowed_tools[0]: b matches no tool" in told
