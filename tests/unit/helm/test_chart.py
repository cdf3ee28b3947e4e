"""The chart: what it refuses, what it renders, and that the product accepts the configuration it is given."""

import itertools
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
from typer.testing import CliRunner

from interlock.audit.heads import new_signing_key
from interlock.cli.configuration import Configuration
from interlock.cli.main import app
from interlock.cli.needs import load_for
from interlock.cli.role import Role
from interlock.policy.credentials import new_key
from interlock.policy.secrets import generate_key
from tests.certificates import Authority
from tests.unit.helm.charts import (
    CHART,
    ROOT,
    VALUE_SETS,
    Object,
    Secrets,
    agent_chart,
    environment,
    manifests,
    mount,
    objects,
    read,
    rendered,
    value_set,
)

ENGINE_SETS = ["plaintext", "tls"]
AS_IN_KUBERNETES = {"resources", "agentSelector", "namespaceSelector", "podSelector"}
"""Values that are passed on as they are."""
SECRETS = {
    "interlock-redis": {"url": "rediss://:hunter2@redis:6379/0"},
    "interlock-sidecar-token": {"token": "a token of sidecars"},
    "interlock-admin": {"key": new_key()},
    "shopper-interlock-key": {"key": new_key()},
    "interlock-audit-key": {"audit.key": new_signing_key()},
}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Secrets:
    """All that the sets of values name: certificates and keys are real ones."""
    authority = Authority(tmp_path_factory.mktemp("authority"), "authority")
    ca = authority.file.read_text()
    pair = dict(zip(("tls.crt", "tls.key"), (file.read_text() for file in authority.issue("one")), strict=True))
    return SECRETS | {
        "interlock-master-key": {"master.key": generate_key(), "keys.txt": generate_key()},
        "interlock-engine-tls": {**pair, "ca.crt": ca},
        "interlock-engine-ca": {"ca.crt": ca},
        "redis-ca": {"authority.pem": ca},
        "collector": {"token": "of-the-collector", "secret": "whsec_c2VjcmV0", "ca.crt": ca},
        "shopper-tls": pair,
        "shopper-tools": {"tools.yaml": "tools: {}\n"},
    }


def engine_pod(values: Object) -> Object:
    pod: Object = objects(values)["Deployment"]["spec"]["template"]["spec"]
    return pod


def agent_pod(folder: Path, values: Object) -> Object:
    pod: Object = objects({"interlock": values}, agent_chart(folder))["Deployment"]["spec"]["template"]["spec"]
    return pod


@dataclass(frozen=True, slots=True)
class Machine:
    """Stands in for the node: mounts a container's files below `root`, and asks the product about its configuration."""

    root: Path
    secrets: Secrets
    monkeypatch: pytest.MonkeyPatch

    def accepts(self, role: Role, pod: Object, container: Object, config: str | None = None) -> Configuration:
        """What the role makes of it, once `interlock check-config` has found no problem."""
        mount(pod, container, self.secrets, self.root)
        for name, value in environment(container, self.secrets).items():
            self.monkeypatch.setenv(name, self._below_root(value))
        file = self.root / "interlock.yaml" if config else None
        if file and config:
            file.write_text(self._below_root(config))
        checked = CliRunner().invoke(app, ["check-config", "--role", role, *(["--config", str(file)] if file else [])])
        assert (checked.exit_code, checked.stderr) == (0, "")
        return load_for(role, file)

    def accepts_engine(self, values: Object) -> Configuration:
        pod, config = engine_pod(values), objects(values)["ConfigMap"]["data"]["interlock.yaml"]
        return self.accepts(Role.ENGINE, pod, pod["containers"][0], config)

    def _below_root(self, text: str) -> str:
        return re.sub(r"(?<!\S)/(etc|var)/", rf"{self.root}/\1/", text)


@pytest.fixture
def machine(tmp_path: Path, secrets: Secrets, monkeypatch: pytest.MonkeyPatch) -> Machine:
    root = tmp_path / "root"
    root.mkdir()
    return Machine(root, secrets, monkeypatch)


def values_of(tree: Any) -> Iterator[tuple[str, ...]]:
    """The path of every value in a tree of values; an empty object counts as one."""
    for key, value in tree.items():
        if isinstance(value, dict) and value and key not in AS_IN_KUBERNETES:
            yield from ((key, *rest) for rest in values_of(value))
        else:
            yield (key,)


def test_what_is_missing_is_told_at_once() -> None:
    nothing = {
        "secrets": {"generate": False},
        "redis": {"bundled": {"enabled": False}},
        "certificates": {"mode": "none"},
    }
    with pytest.raises(helm.HelmRenderError) as refused:
        rendered(nothing)
    missing = re.findall(r"^  ([\w.]+): ", str(refused.value), re.MULTILINE)
    assert missing == [
        "image.repository",
        "redis.urlSecret.name",
        "engine.sidecarTokenSecret.name",
        "engine.masterKeySecret.name",
        "engine.tls.secretName",
    ]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"engine": {"acceptPlaintxt": True}}, "'acceptPlaintxt' not allowed"),
        ({"engine": {"defaultPolicy": "maybe"}}, "/engine/defaultPolicy"),
        ({"engine": {"sidecarTokenSecret": {"name": "Upper Case"}}}, "/engine/sidecarTokenSecret/name"),
        ({"redis": {"timeoutMs": 5}}, "/redis/timeoutMs"),
        ({"sidecar": {"target": "engine:8402"}}, "/sidecar/target"),
        ({"sidecar": {"port": "8400"}}, "/sidecar/port"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_the_schema(values: Object, told: str) -> None:
    with pytest.raises(helm.HelmValuesError, match=re.escape(told)):
        rendered(values)


def test_the_schema_knows_exactly_the_values_there_are() -> None:
    def known(schema: Object) -> Iterator[tuple[str, ...]]:
        for key, part in schema["properties"].items():
            resolved = definitions[part["$ref"].rpartition("/")[2]] if "$ref" in part else part
            if "properties" in resolved and key not in AS_IN_KUBERNETES:
                yield from ((key, *rest) for rest in known(resolved))
            else:
                yield (key,)

    schema = read((CHART / "values.schema.json").read_text())
    definitions = schema["definitions"]
    values = read((CHART / "values.yaml").read_text())
    assert set(known(schema)) - {("global",)} == set(values_of(values))


def test_every_value_has_a_comment_of_its_own_or_of_its_secret() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    bare = [
        line.strip()
        for above, line in itertools.pairwise(lines)
        if re.match(r" *\w+: *\S", line)
        and not re.match(r" *(cpu|memory): ", line)
        and not above.lstrip().startswith("#")
    ]
    keys = ("url", "ca.crt", "token", "secret", "master.key", "audit.key", "key")
    assert set(bare) <= {'name: ""', *(f"key: {key}" for key in keys)}


@pytest.mark.parametrize("file", VALUE_SETS, ids=lambda file: file.stem)
def test_helm_has_nothing_to_say_against_any_set_of_values(file: Path) -> None:
    found = helm.lint(CHART, read(file.read_text()))
    assert not found["errors"]
    assert [message["error"] for message in found["messages"]] == ["icon is recommended"]


def test_the_chart_bears_the_version_of_the_product() -> None:
    product = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert read((CHART / "Chart.yaml").read_text())["appVersion"] == product


def test_an_engine_in_the_clear_is_accepted_by_the_product(machine: Machine) -> None:
    configuration = machine.accepts_engine(value_set("plaintext"))
    engine = configuration.engine
    assert (engine.listen, engine.tls, engine.allow_plaintext) == ("0.0.0.0:8402", None, True)
    assert (engine.default_policy, engine.bootstrap_key) == ("deny", None)


def test_an_engine_with_tls_is_accepted_by_the_product(machine: Machine) -> None:
    configuration = machine.accepts_engine(value_set("tls"))
    engine, url = configuration.engine, configuration.redis.url
    assert engine.tls is not None
    assert engine.tls.client_ca_file == machine.root / "etc/interlock/tls/ca.crt"
    assert (engine.allow_plaintext, engine.drain_grace_ms) == (False, 120_000)
    assert engine.bootstrap_key is not None
    assert url is not None
    assert url.get_secret_value() == SECRETS["interlock-redis"]["url"]


def test_an_engine_that_exports_applies_files_and_knows_plans_is_accepted_by_the_product(machine: Machine) -> None:
    configuration = machine.accepts_engine(value_set("tls"))
    audit, engine = configuration.audit, configuration.engine
    assert (audit.sinks, audit.in_engine, audit.cap) == (("stdout", "http"), True, 5_000_000)
    assert audit.http is not None
    assert audit.http.bearer_token is not None
    assert audit.http.bearer_token.get_secret_value() == "of-the-collector"
    assert audit.http.hmac_secret is not None
    assert audit.http.hmac_secret.get_secret_value() == "whsec_c2VjcmV0"
    assert (engine.default_plan, engine.plans["free"].runs_per_month) == ("free", 5_000_000)
    assert engine.manifests == [machine.root / "etc/interlock/manifests"]


def test_nothing_is_exported_unless_a_sink_is_named(machine: Machine) -> None:
    assert not machine.accepts_engine(value_set("plaintext")).audit.exports


def test_an_audit_trail_is_exported_signed_and_not_in_the_clear_unasked() -> None:
    values = value_set("plaintext")
    values["engine"]["audit"] = {"http": {"url": "http://collector:8080/"}}
    with pytest.raises(helm.HelmRenderError) as refused:
        rendered(values)
    missing = re.findall(r"^  ([\w.]+): ", str(refused.value), re.MULTILINE)
    assert missing == ["engine.audit.signingKeySecret.name", "engine.audit.http.url"]


def test_manifests_are_mounted_from_their_config_map() -> None:
    volumes = {volume["name"]: volume for volume in engine_pod(value_set("tls"))["volumes"]}
    assert volumes["manifests"]["configMap"] == {"name": "shopper-tools"}
    assert "manifests" not in {volume["name"] for volume in engine_pod(value_set("plaintext"))["volumes"]}


@pytest.mark.parametrize("name", ENGINE_SETS)
def test_every_file_the_engine_is_told_of_is_mounted_from_its_secret(name: str) -> None:
    values = value_set(name)
    pod = engine_pod(values)
    folders = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    text = objects(values)["ConfigMap"]["data"]["interlock.yaml"]
    files = [Path(file) for file in re.findall(r"file: (\S+)", text)]
    assert len(files) == {"plaintext": 1, "tls": 7}[name]
    named = {str(file.parent) for file in files} | set(re.findall(r"- (/\S+)", text))
    assert named | {"/etc/interlock/config"} == set(folders)
    assert set(folders.values()) == {volume["name"] for volume in pod["volumes"]}
    for volume in pod["volumes"]:
        if items := volume.get("secret", {}).get("items"):
            mounted = [Path(folder) for folder, name in folders.items() if name == volume["name"]]
            assert mounted[0] / items[0]["path"] in files


def test_readiness_is_asked_by_grpc_health_where_the_kubelet_can_and_else_over_http() -> None:
    plain, secured = (engine_pod(value_set(name))["containers"][0]["readinessProbe"] for name in ENGINE_SETS)
    assert plain["grpc"] == {"port": 8402, "service": "interlock.governance.v1.Governance"}
    assert secured["httpGet"] == {"path": "/readyz", "port": "admin"}


def test_an_engine_without_redis_is_not_restarted() -> None:
    for name in ENGINE_SETS:
        container = engine_pod(value_set(name))["containers"][0]
        assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"


def test_the_service_leads_to_the_engine_and_nowhere_else() -> None:
    found = objects(value_set("tls"))
    service, deployment = found["Service"]["spec"], found["Deployment"]["spec"]
    assert service["ports"] == [
        {"name": "grpc", "port": 8402, "targetPort": "grpc"},
        {"name": "admin", "port": 8403, "targetPort": "admin"},
    ]
    assert service["selector"] == deployment["selector"]["matchLabels"]
    assert service["selector"].items() <= deployment["template"]["metadata"]["labels"].items()
    assert deployment["template"]["metadata"]["labels"]["team"] == "platform"


def test_a_changed_configuration_rolls_the_pods() -> None:
    def checksum(values: Object) -> str:
        annotations = objects(values)["Deployment"]["spec"]["template"]["metadata"]["annotations"]
        return str(annotations["checksum/config"])

    values = value_set("plaintext")
    assert checksum(values) == checksum(value_set("plaintext"))
    values["engine"]["defaultPolicy"] = "allow"
    assert checksum(values) != checksum(value_set("plaintext"))


def test_the_pod_outlasts_the_engines_drain() -> None:
    assert engine_pod(value_set("tls"))["terminationGracePeriodSeconds"] == 130


def test_names_stay_short_enough_for_kubernetes() -> None:
    assert len(objects(value_set("tls"), release="r" * 53)["Service"]["metadata"]["name"]) <= 63


def test_plaintext_is_never_silent() -> None:
    notes = rendered(value_set("plaintext"))["interlock/templates/NOTES.txt"]
    assert "IN THE CLEAR" in notes
    assert "IN THE CLEAR" not in rendered(value_set("tls"))["interlock/templates/NOTES.txt"]
    both = value_set("tls")
    both["engine"]["acceptPlaintext"] = True
    with pytest.raises(helm.HelmRenderError, match=r"engine\.acceptPlaintext: contradicts"):
        rendered(both)


def test_the_sidecar_in_the_example_is_accepted_by_the_product(tmp_path: Path, machine: Machine) -> None:
    pod = agent_pod(tmp_path, value_set("sidecar"))
    container = pod["initContainers"][0]
    sidecar = machine.accepts(Role.SIDECAR, pod, container).sidecar
    assert container["command"] == ["interlock", "sidecar"]
    assert (sidecar.host, sidecar.port, sidecar.admin_host) == ("127.0.0.1", 8400, "0.0.0.0")
    assert (sidecar.allowed_hosts, sidecar.max_body_bytes) == (("tools.local",), 67_108_864)
    assert sidecar.engine.target == "grpcs://interlock-engine.governance.svc:8402"
    assert sidecar.agent_key is not None
    assert sidecar.traces is not None
    assert (sidecar.traces.otlp_endpoint, sidecar.traces.sample_ratio) == (
        "http://collector.observability.svc:4318",
        0.25,
    )


def test_the_plain_example_is_what_helm_makes_and_names_what_a_release_makes(tmp_path: Path) -> None:
    plain = read((ROOT / "deploy" / "examples" / "sidecar.yaml").read_text())
    made = {"name": "interlock-sidecar-tls"}
    sidecar = {
        "target": "grpcs://interlock-engine.governance.svc:8402",
        "tokenSecret": {"name": "interlock-sidecar"},
        "tls": {"caSecret": made, "clientSecretName": made["name"]},
    }
    values = {"engine": {"enabled": False}, "image": value_set("defaults")["image"], "sidecar": sidecar}
    assert plain == objects({"interlock": values}, agent_chart(tmp_path))["Deployment"]
    release = manifests(rendered(value_set("agents"), release="interlock"))
    in_shop = {each["metadata"]["name"] for each in release if each["metadata"].get("namespace") == "shop"}
    assert {"interlock-sidecar", "interlock-sidecar-tls"} <= in_shop


def test_the_sidecar_is_native_and_up_before_the_agent(tmp_path: Path) -> None:
    pod = agent_pod(tmp_path, value_set("sidecar"))
    sidecar = pod["initContainers"][0]
    assert sidecar["restartPolicy"] == "Always"
    for probe in ("startupProbe", "readinessProbe"):
        assert sidecar[probe]["httpGet"] == {"path": "/readyz", "port": "interlock-admin"}
    assert sidecar["ports"] == [{"name": "interlock-admin", "containerPort": 8401}]
    assert [container["name"] for container in pod["containers"]] == ["agent"]


def test_every_file_the_sidecar_is_told_of_is_on_a_volume(tmp_path: Path) -> None:
    pod = agent_pod(tmp_path, value_set("sidecar"))
    sidecar = pod["initContainers"][0]
    files = [Path(value) for value in environment(sidecar, SECRETS).values() if value.startswith("/")]
    mounts = {mount["mountPath"]: mount for mount in sidecar["volumeMounts"]}
    # The spool's own folder is below the mount: the sidecar sets its mode, which only its owner may.
    assert {str(file.parent) for file in files} == set(mounts)
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in mounts.values()} == set(volumes)
    assert "emptyDir" in volumes[mounts["/var/lib/interlock"]["name"]]
    assert [path for path, mount in mounts.items() if not mount.get("readOnly")] == ["/var/lib/interlock"]


def test_a_sidecar_beside_an_engine_of_its_release_finds_it(tmp_path: Path) -> None:
    for name, target in (("plaintext", "grpc"), ("tls", "grpcs")):
        values = value_set(name)
        values["engine"]["enabled"] = True
        values["sidecar"] = {"tokenSecret": {"name": "t"}, "acceptPlaintext": name == "plaintext"}
        chart = agent_chart(tmp_path / name)
        texts = rendered({"interlock": values}, chart)
        sidecar = read(texts["shopper/templates/deployment.yaml"])["spec"]["template"]["spec"]["initContainers"][0]
        variables = {each["name"]: each.get("value") for each in sidecar["env"]}
        service = read(texts["shopper/charts/interlock/templates/engine-service.yaml"])["metadata"]["name"]
        assert variables["INTERLOCK_SIDECAR__ENGINE__TARGET"] == f"{target}://{service}.prod.svc:8402"


def test_a_sidecar_tells_all_it_needs_at_once(tmp_path: Path) -> None:
    with pytest.raises(helm.HelmRenderError) as refused:
        agent_pod(tmp_path, {"engine": {"enabled": False}})
    missing = re.findall(r"^  ([\w.]+): ", str(refused.value), re.MULTILINE)
    assert missing == ["image.repository", "sidecar.tokenSecret.name", "sidecar.target"]


def test_a_sidecar_is_not_sent_in_the_clear_unasked(tmp_path: Path) -> None:
    values = value_set("sidecar")
    values["sidecar"]["target"] = "grpc://engine:8402"
    with pytest.raises(helm.HelmRenderError, match=r"sidecar\.target: is not encrypted"):
        agent_pod(tmp_path, values)


@pytest.mark.parametrize("said", ['(dict "acceptPlaintext" false)', '(dict "acceptPlaintxt" false)'])
def test_what_an_include_sets_counts_even_if_it_is_false_and_must_exist(said: str, tmp_path: Path) -> None:
    chart = agent_chart(tmp_path)
    template = chart / "templates" / "deployment.yaml"
    template.write_text(re.sub(r'"set" \(dict .*\)\)', f'"set" {said}', template.read_text()))
    values = value_set("sidecar")
    values["sidecar"] |= {"target": "grpc://engine:8402", "acceptPlaintext": True}
    with pytest.raises(helm.HelmRenderError, match=r"is not encrypted|set\.acceptPlaintxt: no such value"):
        rendered({"interlock": values}, chart)


def test_all_pods_pass_the_restricted_standard(tmp_path: Path) -> None:
    engine = engine_pod(value_set("tls"))
    agent = agent_pod(tmp_path, value_set("sidecar"))
    for container in (engine["containers"][0], agent["initContainers"][0]):
        security = container["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for pod in (engine, agent):
        assert {*pod} & {"hostNetwork", "hostPID", "hostIPC"} == set()
        kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "emptyDir", "secret"}
    assert engine["automountServiceAccountToken"] is False


def test_the_image_runs_as_the_user_the_chart_names_and_takes_only_what_a_hash_pins() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    security = engine_pod(value_set("tls"))["containers"][0]["securityContext"]
    assert f"\nUSER {security['runAsUser']}:{security['runAsGroup']}\n" in dockerfile
    installs = re.findall(r"\bpip (?:--python \S+ )?install (.*)", dockerfile)
    assert len(installs) == 2
    assert all("--require-hashes" in install or "--no-deps" in install for install in installs)
    assert "://" not in dockerfile
    ignored = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text()
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", dockerfile, re.MULTILINE)
    assert {f"!{name}" for names in copied for name in names.split()} == set(
        re.findall(r"^!.+$", ignored, re.MULTILINE)
    )


def test_secrets_that_are_named_are_not_made() -> None:
    for name in ENGINE_SETS:
        assert "Secret" not in objects(value_set(name))
