"""Configuration from file and environment: what wins, and that all that is wrong is told at once, by place."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from interlock.cli.configuration import Configuration, load, schema
from interlock.cli.problems import ConfigurationError, UnreadableFileError
from interlock.policy.settings import EngineSettings
from interlock.proxy.settings import SidecarSettings
from interlock.store.settings import RedisSettings

SECRET = "hunter2-hunter2-hunter2"


def written(folder: Path, text: str) -> Path:
    file = folder / "interlock.yaml"
    file.write_text(text)
    return file


def problems_of(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigurationError) as refused:
        load(written(folder, text), environ or {})
    return [str(problem).removeprefix(f"{folder}/") for problem in refused.value.problems]


def test_nothing_configured_gives_every_default() -> None:
    assert load(environ={}) == Configuration()


def test_a_file_sets_what_it_names_and_leaves_the_rest(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
        redis: {url: 'redis://127.0.0.1:6379/3'}
        engine:
          default_policy: allow
          tls:
            cert_file: /etc/engine.crt
            key_file: /etc/engine.key
        sidecar:
          port: 9400
          allowed_hosts: [tools.local, tools]
          agent_key: ~
        """,
    )
    configuration = load(file, {})
    assert configuration.redis == RedisSettings(url="redis://127.0.0.1:6379/3")
    assert configuration.engine == EngineSettings(
        default_policy="allow", tls={"cert_file": "/etc/engine.crt", "key_file": "/etc/engine.key"}
    )
    assert configuration.sidecar == SidecarSettings(port=9400, allowed_hosts=["tools.local", "tools"])


def test_an_empty_file_is_no_problem(tmp_path: Path) -> None:
    assert load(written(tmp_path, "# nothing yet\n"), {}) == Configuration()


def test_flags_win_over_variables_over_the_file_over_defaults(tmp_path: Path) -> None:
    def port(**sources: object) -> int:
        return load(
            written(tmp_path, "sidecar: {port: 3}") if "file" in sources else None,
            {"INTERLOCK_SIDECAR__PORT": "2"} if "variable" in sources else {},
            defaults={"sidecar": {"port": 4, "admin_port": 44}},
            flags={"sidecar": {"port": 1}} if "flag" in sources else {},
        ).sidecar.port

    assert port(flag=1, variable=2, file=3) == 1
    assert port(variable=2, file=3) == 2
    assert port(file=3) == 3
    assert port() == 4


def test_a_layer_above_changes_only_the_keys_it_names(tmp_path: Path) -> None:
    file = written(tmp_path, "sidecar: {engine: {target: 'grpcs://engine:8402', timeout_ms: 250}}")
    link = load(file, {"INTERLOCK_SIDECAR__ENGINE__TIMEOUT_MS": "300"}).sidecar.engine
    assert (link.target, link.timeout_ms) == ("grpcs://engine:8402", 300)


def test_lists_in_variables_are_json() -> None:
    settings = load(environ={"INTERLOCK_SIDECAR__ALLOWED_HOSTS": '["a.example", "[fd00::1]"]'}).sidecar
    assert settings.allowed_hosts == ("a.example", "[fd00::1]")


def test_a_host_in_brackets_is_no_list() -> None:
    assert load(environ={"INTERLOCK_SIDECAR__HOST": "[::1]"}).sidecar.host == "[::1]"


def test_short_names_stand_for_their_keys_and_give_way_to_the_full_ones() -> None:
    environ = {"INTERLOCK_REDIS_URL": "redis://short", "INTERLOCK_BOOTSTRAP_KEY": SECRET}
    configuration = load(environ=environ)
    assert configuration.redis.url is not None
    assert configuration.redis.url.get_secret_value() == "redis://short"
    assert configuration.engine.bootstrap_key is not None
    assert configuration.engine.bootstrap_key.get_secret_value() == SECRET
    full = load(environ=environ | {"INTERLOCK_REDIS__URL": "redis://full"}).redis.url
    assert full is not None
    assert full.get_secret_value() == "redis://full"


def test_an_empty_variable_is_one_that_is_not_set() -> None:
    assert load(environ={"INTERLOCK_REDIS_URL": "", "INTERLOCK_SIDECAR__PORT": ""}) == Configuration()


def test_variables_of_the_operator_and_of_kubernetes_are_left_alone() -> None:
    environ = {"INTERLOCK_API_KEY": "x", "INTERLOCK_PORT": "tcp://10.0.0.1:8400", "INTERLOCK_SERVICE_HOST": "10.0.0.1"}
    assert load(environ=environ) == Configuration()


def test_all_problems_are_told_at_once_each_with_its_key_and_place(tmp_path: Path) -> None:
    text = """\
redis:
  timeout_ms: fast
sidecar:
  prot: 8400
  port: 99999
  allowed_hosts: [fine, "not/fine"]
  engine:
    timeout_ms: 99999999
    tls: {cert_file: a.crt}
engin: {}
engine:
  default_policy: maybe
  tls: {cert_file: b.crt}
"""
    environ = {"INTERLOCK_SIDECAR__ADMIN_PORT": "-1", "INTERLOCK_ENGINE__LISTEM": "x", "INTERLOCK_NOSUCH__KEY": "x"}
    assert problems_of(tmp_path, text, environ) == [
        "interlock.yaml:2: redis.timeout_ms: Input should be a valid integer, unable to parse string as an integer",
        "interlock.yaml:4: sidecar.prot: unknown key; did you mean port?",
        "interlock.yaml:5: sidecar.port: Input should be less than or equal to 65535",
        "interlock.yaml:6: sidecar.allowed_hosts[1]: must be a host name or [IPv6 address] without a port",
        "interlock.yaml:8: sidecar.engine.timeout_ms: Input should be less than or equal to 60000",
        "interlock.yaml:9: sidecar.engine.tls: cert_file and key_file go together",
        "interlock.yaml:10: engin: unknown key; did you mean engine?",
        "interlock.yaml:12: engine.default_policy: Input should be 'allow' or 'deny'",
        "interlock.yaml:13: engine.tls.key_file: Field required",
        "INTERLOCK_ENGINE__LISTEM: engine.listem: unknown key; did you mean listen?",
        "INTERLOCK_NOSUCH__KEY: nosuch: unknown key",
        "INTERLOCK_SIDECAR__ADMIN_PORT: sidecar.admin_port: Input should be greater than or equal to 0",
    ]


def test_a_key_given_twice_is_told_with_both_lines_beside_all_else(tmp_path: Path) -> None:
    text = "sidecar:\n  port: 1\n  port: 2\nsidecar:\n  nonsense: 1\nredis: {timeout_ms: 1}\n"
    assert problems_of(tmp_path, text) == [
        "interlock.yaml:3: sidecar.port: given twice, first in line 2",
        "interlock.yaml:4: sidecar: given twice, first in line 1",
        "interlock.yaml:6: redis.timeout_ms: Input should be greater than or equal to 10",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("sidecar: [", "interlock.yaml:1: this is no YAML: expected the node content, but found '<stream end>'"),
        ("sidecar:\n\tport: 1", "interlock.yaml:2: this is no YAML: found character '\\t' that cannot start any token"),
        ("a: 1\n---\nb: 2", "interlock.yaml:2: this is no YAML: but found another document"),
        ("- sidecar", "interlock.yaml:1: keys and values are expected"),
        ("just words", "interlock.yaml:1: keys and values are expected"),
        ("? [a, b]\n: 1", "interlock.yaml:1: a key must be a plain word"),
        (
            "sidecar: &again\n  engine: *again",
            "interlock.yaml:1: sidecar.engine.engine: nested more than 32 levels deep",
        ),
    ],
)
def test_a_file_that_is_no_settings_is_told_so(tmp_path: Path, text: str, problem: str) -> None:
    assert problem in problems_of(tmp_path, text)


def test_a_deeply_nested_file_is_refused_and_no_crash(tmp_path: Path) -> None:
    assert problems_of(tmp_path, "[" * 5000 + "]" * 5000) == [
        "interlock.yaml:1: this is no YAML: maximum recursion depth exceeded"
    ]


def test_no_secret_is_ever_in_a_message(tmp_path: Path) -> None:
    text = f"redis: {{url: {SECRET}, timeout_ms: {SECRET}}}\nengine: {{sidecar_token: [{SECRET}]}}\n{SECRET}: 1\n"
    told = "\n".join(problems_of(tmp_path, text, {"INTERLOCK_ENGINE__MASTER_KEY": f'["{SECRET}"]'}))
    assert "engine.sidecar_token" in told
    assert "engine.master_key" in told
    assert SECRET not in told.replace(f"{SECRET}: unknown key", "")
    assert SECRET not in repr(load(environ={"INTERLOCK_REDIS_URL": f"redis://:{SECRET}@h"}))


def test_a_file_that_cannot_be_read_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match=r"nowhere\.yaml cannot be read: No such file or directory"):
        load(tmp_path / "nowhere.yaml", {})
    (tmp_path / "latin").write_bytes(b"sidecar: {host: \xe9}")
    with pytest.raises(UnreadableFileError, match="latin is not UTF-8 text"):
        load(tmp_path / "latin", {})


def test_the_schema_describes_every_key() -> None:
    definitions = schema()["$defs"]
    undescribed = [
        f"{section}.{key}"
        for section, definition in definitions.items()
        for key, value in definition.get("properties", {}).items()
        if not value.get("description")
    ]
    assert not undescribed
    assert {"RedisSettings", "EngineSettings", "SidecarSettings", "EngineLink"} <= set(definitions)
