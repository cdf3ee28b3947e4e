"""Manifests: what they say together, and that all that is wrong with them is told at once, by place."""

import json
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from interlock.cli.manifest import Loaded, load, schema
from interlock.cli.problems import ConfigurationError
from interlock.cli.references import References

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "deploy" / "examples" / "tools.yaml"
URL = "https://pay.example/charge"


def written(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def loaded(folder: Path, text: str, **how: Any) -> Loaded:
    return load([written(folder, a=text)], references=References({"PAY": "s3cr3t-s3cr3t"}), **how)


def problems(*paths: Path, **how: Any) -> list[str]:
    """What is wrong, files by their names alone."""
    with pytest.raises(ConfigurationError) as refused:
        load(paths, references=References({"PAY": "s3cr3t-s3cr3t"}), **how)
    folder = paths[0] if paths[0].is_dir() else paths[0].parent
    return [str(problem).replace(f"{folder}/", "") for problem in refused.value.problems]


def wrong(folder: Path, text: str) -> list[str]:
    return problems(written(folder, a=text))


def test_the_example_holds_and_says_what_it_seems_to() -> None:
    environ = {"PAYMENTS_SECRET": "s3cr3t-s3cr3t", "CATALOGUE_API_KEY": "key"}
    found = load([EXAMPLE], references=References(environ), allow_loopback=False)
    body = found.bodies[""]
    assert (found.owner, found.warnings) == ("payments-team", [])
    assert sorted(body.tools) == ["agent:concierge/mail.send", "catalogue.search", "payments.charge"]
    assert body.policies["shopper"].max_spend_usd_per_day == 20
    assert body.tools["payments.charge"].auth is not None
    assert body.tools["payments.charge"].auth.secret.get_secret_value() == "s3cr3t-s3cr3t"


def test_files_and_documents_of_a_folder_are_one_whole(tmp_path: Path) -> None:
    folder = written(
        tmp_path,
        a=f"owner: team\ntools: {{one: {{url: '{URL}'}}}}\n---\npolicies: {{bot: {{}}}}\n",
        b=f"tools: {{two: {{url: '{URL}'}}}}\n",
    )
    (tmp_path / "c.yml").write_text(f"owner: team\ntools: {{three: {{url: '{URL}'}}}}\n")
    (tmp_path / ".hidden.yaml").write_text("not: this")
    (tmp_path / "notes.txt").write_text("not: this")
    found = load([folder])
    assert (found.owner, sorted(found.bodies[""].tools), [*found.bodies[""].policies]) == (
        "team",
        ["one", "three", "two"],
        ["bot"],
    )


def test_a_path_named_twice_is_read_once(tmp_path: Path) -> None:
    written(tmp_path, a=f"tools: {{one: {{url: '{URL}'}}}}")
    assert [*load([tmp_path, tmp_path / "a.yaml"]).bodies[""].tools] == ["one"]


def test_what_stands_twice_is_told_with_both_places(tmp_path: Path) -> None:
    one = f"tools:\n  charge: {{url: '{URL}'}}\npolicies:\n  bot: {{}}\n"
    two = f"# again\ntools:\n  charge: {{url: '{URL}'}}\npolicies: {{bot: {{}}}}\n"
    first = tmp_path / "a.yaml"
    assert problems(written(tmp_path, a=one, b=two)) == [
        f"b.yaml:3: tools.charge: is there twice, first in {first.name}:2",
        f"b.yaml:4: policies.bot: is there twice, first in {first.name}:4",
    ]


def test_an_agents_own_tool_is_one_however_it_is_written(tmp_path: Path) -> None:
    text = f"tools:\n  agent:bot/charge: {{url: '{URL}'}}\n  charge: {{url: '{URL}', scope_id: 'agent:bot'}}\n"
    assert wrong(tmp_path, text) == ["a.yaml:3: tools.charge: is there twice, first in a.yaml:2"]
    contradiction = f"tools:\n  agent:bot/charge: {{url: '{URL}', scope_id: global}}\n"
    assert wrong(tmp_path, contradiction) == [
        "a.yaml:2: tools.agent:bot/charge.scope_id: Input should be that of the key, or be left out"
    ]
    both = f"tools: {{charge: {{url: '{URL}'}}, 'agent:bot/charge': {{url: '{URL}'}}}}"
    assert sorted(loaded(tmp_path, both).bodies[""].tools) == ["agent:bot/charge", "charge"]


def test_namespaces_are_kept_apart(tmp_path: Path) -> None:
    text = f"namespace: one\ntools: {{a: {{url: '{URL}'}}}}\n---\nnamespace: two\ntools: {{a: {{url: '{URL}'}}}}\n"
    assert sorted(loaded(tmp_path, text).bodies) == ["one", "two"]


def test_owners_do_not_mix(tmp_path: Path) -> None:
    assert wrong(tmp_path, "owner: a\ntools: {}\n---\nowner: b\ntools: {}\n") == [
        "a.yaml:4: owner: is another owner than in a.yaml:1"
    ]
    written(tmp_path, a="owner: a\ntools: {}\n")
    assert problems(tmp_path, owner="b") == ["a.yaml:1: owner: is not the owner that was asked for"]
    assert load([tmp_path], owner="a").owner == "a"
    assert loaded(tmp_path, "tools: {}", owner="b").owner == "b"


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    text = """\
owner: a b
tolls: {}
tools:
  charge:
    url: https://pay.example
    auth: {type: hmac, secret: env:NOT_THERE}
    timeout_ms: 1
    enabeld: true
    dedup: {ttl: 5}
  auth:
    url: ftp://pay.example
    auth: {secret: hunter2-hunter2}
  "a b": {url: https://pay.example}
policies:
  bot:
    allowed_tools: charge
    max_spend_usd_per_day: "5"
    pricing_rules:
      - {tool: charge, price_usd: -1, pice_usd: 1}
  "b c": {}
"""
    rule = "write env:NAME or file:/path, never the secret itself"
    told = wrong(tmp_path, text)
    expected = {
        "1: owner: String should match",
        "2: tolls: unknown key; did you mean tools?",
        "6: tools.charge.auth.secret: the variable NOT_THERE is not set",
        "6: tools.charge.auth.type: Input should be 'hmac_sha256'",
        "7: tools.charge.timeout_ms: Input should be greater",
        "8: tools.charge.enabeld: unknown key; did you mean enabled?",
        "9: tools.charge.dedup.ttl: unknown key; did you mean ttl_s?",
        "11: tools.auth.url: this URL is refused",
        f"12: tools.auth.auth.secret: {rule}",
        "13: tools.a b: String should match",
        "16: policies.bot.allowed_tools: Input should be a valid list",
        "17: policies.bot.max_spend_usd_per_day: Input should be a number",
        "19: policies.bot.pricing_rules[0].price_usd: Input should be greater",
        "19: policies.bot.pricing_rules[0].pice_usd: unknown key; did you mean price_usd?",
        "20: policies.b c: String should match",
    }
    assert len(told) == len(expected), told
    for problem in expected:
        assert any(line.startswith(f"a.yaml:{problem}") for line in told), (problem, told)
    assert "hunter2" not in str(told)


def test_a_secret_stays_one_whatever_its_tool_is_called(tmp_path: Path) -> None:
    """Names of tools that are also names of fields must not lead the search for secrets astray."""
    for name in ("auth", "secret", "upstream_credential", "tools", "value", "url"):
        told = wrong(tmp_path, f"tools: {{{name}: {{url: '{URL}', auth: {{secret: hunter2-hunter2}}}}}}")
        assert told == [f"a.yaml:1: tools.{name}.auth.secret: write env:NAME or file:/path, never the secret itself"]


def test_every_field_that_holds_a_secret_takes_references_only(tmp_path: Path) -> None:
    oauth2 = "type: oauth2_client_credentials, token_url: 'https://l.example/t', client_id: c, client_secret: hunter2"
    for credential in ("header: X-Key, value: hunter2", oauth2):
        told = wrong(tmp_path, f"tools: {{a: {{url: '{URL}', upstream_credential: {{{credential}}}}}}}")
        assert [line.rpartition(": ")[2] for line in told] == ["write env:NAME or file:/path, never the secret itself"]
        good = credential.replace("hunter2", "env:PAY")
        assert loaded(tmp_path, f"tools: {{a: {{url: '{URL}', upstream_credential: {{{good}}}}}}}").bodies


def test_without_references_they_are_looked_at_and_not_followed(tmp_path: Path) -> None:
    text = f"tools: {{a: {{url: '{URL}', auth: {{secret: env:NOT_THERE}}}}, b: {{url: '{URL}', auth: {{secret: x}}}}}}"
    with pytest.raises(ConfigurationError) as refused:
        load([written(tmp_path, a=text)])
    assert [problem.key for problem in refused.value.problems] == ["tools.b.auth.secret"]


def test_what_a_reference_gives_is_judged_and_not_shown(tmp_path: Path) -> None:
    folder = written(tmp_path, a=f"tools: {{a: {{url: '{URL}', auth: {{secret: env:SHORT}}}}}}")
    with pytest.raises(ConfigurationError) as refused:
        load([folder], references=References({"SHORT": "hunter2"}))
    assert "tools.a.auth.secret: the secret is too short" in refused.value.message
    assert "hunter2" not in refused.value.message
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n---\n", "~", "{}"])
def test_a_file_of_nothing_is_a_problem_and_not_the_end_of_everything(tmp_path: Path, text: str) -> None:
    (told,) = wrong(tmp_path, text)
    assert "there is nothing in it" in told


@pytest.mark.parametrize("text", ["", "# tools:\n", "---\n{}\n"])
def test_a_file_of_nothing_beside_others_is_a_problem_and_not_the_end_of_what_it_held(
    tmp_path: Path, text: str
) -> None:
    (told,) = problems(written(tmp_path, a=text, b="owner: team\npolicies: {bot: {}}\n"))
    assert told.startswith("a.yaml: there is nothing in it")


@pytest.mark.parametrize("text", ["owner: team\n", "owner: team\nnamespace: team-a\n"])
def test_an_owner_alone_does_not_ask_for_nothing_to_be_left(tmp_path: Path, text: str) -> None:
    (told,) = wrong(tmp_path, text)
    assert "there is nothing in it" in told


def test_an_owner_in_a_file_of_its_own_is_that_of_the_namespaces_of_the_others_alone(tmp_path: Path) -> None:
    folder = written(tmp_path, a="owner: team\n", b=f"namespace: team-a\ntools: {{one: {{url: '{URL}'}}}}\n")
    found = load([folder])
    assert (found.owner, [*found.bodies]) == ("team", ["team-a"])


def test_nothing_on_purpose_is_no_problem(tmp_path: Path) -> None:
    assert loaded(tmp_path, "owner: team\ntools: {}\n").bodies[""].tools == {}


def test_paths_that_hold_nothing_to_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "large.yaml").write_text("#" * (1 << 20) + "\n")
    (tmp_path / "latin.yaml").write_bytes(b"owner: \xff")
    paths = [tmp_path / "empty", tmp_path / "missing", tmp_path / "large.yaml", tmp_path / "latin.yaml"]
    with pytest.raises(ConfigurationError) as refused:
        load(paths)
    assert [str(problem).replace(f"{tmp_path}/", "") for problem in refused.value.problems] == [
        "empty: the folder has no .yaml or .yml file",
        "large.yaml: cannot be read: larger than 1048576 bytes",
        "latin.yaml: is not UTF-8 text",
        "missing: cannot be read: No such file or directory",
    ]


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
DEEP = "tools: " + "[" * 5_000


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BOMB, "more than 100000 values"),
        (DEEP, "this is no YAML"),
        ("tools: &t {a: *t}", "nested more than 32 levels deep"),
        ("tools: !!python/object/apply:os.system ['true']", "tags (!…) are not taken"),
        ("tools: !!set {a, b}", "tags (!…) are not taken"),
        ("tools: {? [a] : {}}", "a key must be a plain word"),
        ("tools: {a: {timeout_ms: .nan}}", "write a number in decimal digits"),
        ("tools: {a: {timeout_ms: 0x10}}", "write a number in decimal digits"),
        ("tools: {a: {timeout_ms: 1_000}}", "write a number in decimal digits"),
        ("tools: {a: {timeout_ms: " + "9" * 5000 + "}}", "write a number in decimal digits"),
        ("policies: {a: {max_spend_usd_per_day: 0.1234567890123456789}}", "at most 15 of them"),
        ("policies: {a: {max_spend_usd_per_day: 1e999}}", "write a number in decimal digits"),
        ("tools:\n\ta: {}", "this is no YAML"),
        ("- tools", "keys and values are expected"),
        ("tools: {}\n...\n%X\n", "this is no YAML"),
        ("tools: {}\n--- [", "this is no YAML"),
        ("\x00", "this is no YAML"),
        ("tools: [a]", "Input should be a valid dictionary"),
        ("tools: {on: {url: x}, yes: {url: x}, 12: {url: x}}", "this URL is refused"),
    ],
    ids=lambda text: ascii(text)[:40],
)
def test_hostile_yaml_is_told_quickly(tmp_path: Path, text: str, told: str) -> None:
    began = time.process_time()
    assert any(told in line for line in wrong(tmp_path, text))
    assert time.process_time() - began < 20


def test_yaml_is_taken_as_json_would_be(tmp_path: Path) -> None:
    text = (
        "\ufeffpolicies:\n  no:\n    allowed_tools: [no, 'null', on]\n    max_spend_usd_per_day: 0.1\n"
        "    max_actions_per_hour: 5\n  007: {}\n"
    )
    body = loaded(tmp_path, text).bodies[""]
    assert body.policies["no"].allowed_tools == ["no", "null", "on"]
    assert body.policies["no"].max_spend_usd_per_day == Decimal("0.1")
    assert "007" in body.policies


def test_too_much_is_told(tmp_path: Path) -> None:
    text = "policies:\n" + "".join(f"  p{n}: {{}}\n" for n in range(1001))
    assert any("at most 1000" in line for line in wrong(tmp_path, text))


def test_globs_that_match_no_tool_are_a_warning(tmp_path: Path) -> None:
    text = f"""\
tools: {{pay.charge: {{url: '{URL}'}}}}
policies:
  bot:
    allowed_tools: [pay.*, pya.*]
    blocked_tools: ["*"]
    max_calls_per_tool: {{mail: 1}}
    pricing_rules: [{{tool: pay.charge, price_usd: 1}}]
"""
    told = [str(warning).rpartition("/")[2] for warning in loaded(tmp_path, text).warnings]
    assert told == [
        "a.yaml:4: policies.bot.allowed_tools[1]: pya.* matches no tool that is named here",
        "a.yaml:6: policies.bot.max_calls_per_tool.mail: mail matches no tool that is named here",
    ]
    assert loaded(tmp_path, "policies: {bot: {allowed_tools: [x]}}").warnings == []


def test_the_schema_takes_references_for_secrets_and_describes_every_field() -> None:
    described = schema()
    assert "password" not in json.dumps(described)
    assert described["$defs"]["ToolAuth"]["properties"]["secret"]["pattern"].startswith("^(env:")
    for name, model in described["$defs"].items():
        missing = [field for field, of in model["properties"].items() if "description" not in of and "$ref" not in of]
        assert missing == [], name
