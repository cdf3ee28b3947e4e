"""Every set of values in helm/interlock/ci: its objects are valid for Kubernetes, restricted, and what was asked for.

Kinds of cert-manager and of the Prometheus operator have no schema here; the tests that name them look at them by hand.
"""

import json
import re
import shutil
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
from cryptography import x509

from interlock.store.settings import RedisSettings
from tests.unit.helm.charts import CHART, VALUE_SETS, Object, agent_chart, manifests, read, rendered, value_set

NEWEST = kubernetes_validate.latest_version()
FOREIGN = ("cert-manager.io/", "monitoring.coreos.com/")
OTHER_CHART = {"sidecar"}
"""Sets for charts that depend on this one: no object of their own."""


@pytest.fixture(scope="module")
def releases() -> dict[str, list[Object]]:
    """The objects of each set, rendered once."""
    names = [file.stem.removesuffix("-values") for file in VALUE_SETS]
    return {name: manifests(rendered(value_set(name))) for name in names if name not in OTHER_CHART}


def of(objects: list[Object], kind: str, name: str = "", namespace: str = "prod") -> Object:
    """The one object of this kind whose name ends so."""
    found = [
        each
        for each in objects
        if each["kind"] == kind
        and each["metadata"]["name"].endswith(name)
        and each["metadata"].get("namespace", "") == namespace
    ]
    assert len(found) == 1
    return found[0]


def pods(objects: list[Object]) -> list[Object]:
    """The specs of all pods that come of these."""
    specs = [each["spec"] for each in objects if each["kind"] == "Pod"]
    return specs + [each["spec"]["template"]["spec"] for each in objects if "template" in each.get("spec", {})]


def test_there_are_at_least_twelve_sets(releases: dict[str, list[Object]]) -> None:
    assert len(releases) >= 12
    assert all(releases.values())


@pytest.mark.parametrize("version", ["1.29", NEWEST])
def test_every_object_is_valid_for_kubernetes(version: str, releases: dict[str, list[Object]]) -> None:
    seen = set()
    for each in [each for objects in releases.values() for each in objects]:
        own = json.dumps({key: part for key, part in each.items() if key not in ("data", "stringData")}, sort_keys=True)
        if own not in seen and not each["apiVersion"].startswith(FOREIGN):
            kubernetes_validate.validate(each, version, strict=True)
            seen.add(own)
    assert len(seen) >= 40


def test_a_misspelt_field_would_not_be_valid(releases: dict[str, list[Object]]) -> None:
    service = of(releases["defaults"], "Service", "-engine")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(service | {"spec": service["spec"] | {"clusterIp": "None"}}, "1.29", strict=True)


def test_every_object_of_a_set_has_a_name_of_its_own(releases: dict[str, list[Object]]) -> None:
    for objects in releases.values():
        keys = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in objects]
        assert len(keys) == len(set(keys))
        assert all(len(name) <= 63 for _, _, name in keys)


def test_every_pod_passes_all_rules_of_the_restricted_standard(releases: dict[str, list[Object]]) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
    volumes = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    for pod in [pod for objects in releases.values() for pod in pods(objects)]:
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"sysctls", "seLinuxOptions", "windowsOptions", "appArmorProfile"} & set(pod["securityContext"])
        assert {kind for volume in pod.get("volumes", []) for kind in volume if kind != "name"} <= volumes
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert (security["runAsNonRoot"], security["runAsUser"] > 0) == (True, True)
            assert security["readOnlyRootFilesystem"] is True
            assert not {"privileged", "procMount", "seLinuxOptions", "windowsOptions"} & set(security)
            assert not any("hostPort" in port for port in container.get("ports", []))
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])


def test_every_secret_and_config_map_of_a_pod_is_made_or_named_by_its_values(releases: dict[str, list[Object]]) -> None:
    for name, objects in releases.items():
        made = {each["metadata"]["name"] for each in objects if each["metadata"].get("namespace") == "prod"}
        said = (CHART / "ci" / f"{name}-values.yaml").read_text()
        text = str(pods(objects))
        used = re.findall(r"'secretName': '([^']+)'|'(?:configMap|secretKeyRef)': \{'name': '([^']+)'", text)
        assert {first or second for first, second in used if (first or second) not in said} <= made, name


def test_one_command_installs_all_there_is(releases: dict[str, list[Object]]) -> None:
    objects = releases["defaults"]
    assert list(value_set("defaults")) == ["image"]
    kinds = {each["kind"] for each in objects}
    assert {"Deployment", "StatefulSet", "Service", "Secret", "PodDisruptionBudget", "Pod"} <= kinds
    engine = of(objects, "ConfigMap", "-engine")["data"]["interlock.yaml"]
    assert "client_ca_file: /etc/interlock/tls/ca.crt" in engine


def test_the_engines_scale_spread_and_are_not_drained_at_once(releases: dict[str, list[Object]]) -> None:
    objects = releases["ha"]
    deployment = of(objects, "Deployment")["spec"]
    scaler = of(objects, "HorizontalPodAutoscaler")["spec"]
    assert "replicas" not in deployment  # or each upgrade would undo what the scaler did
    assert scaler["scaleTargetRef"]["name"] == of(objects, "Deployment")["metadata"]["name"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 12)
    assert of(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 2
    assert deployment["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    pod = deployment["template"]["spec"]
    spread = {each["topologyKey"] for each in pod["topologySpreadConstraints"]}
    assert spread == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
    assert "podAntiAffinity" in pod["affinity"]
    assert "StatefulSet" not in {each["kind"] for each in objects}


def test_the_service_is_headless_unless_told(releases: dict[str, list[Object]]) -> None:
    assert of(releases["defaults"], "Service", "-engine")["spec"]["clusterIP"] == "None"
    assert "clusterIP" not in of(releases["no-mtls"], "Service", "-engine")["spec"]


def test_the_bundled_redis_keeps_what_it_took_and_asks_for_a_password(
    releases: dict[str, list[Object]],
) -> None:
    objects = releases["bundled-redis"]
    config = of(objects, "ConfigMap", "-redis")["data"]["redis.conf"].splitlines()
    wanted = {"appendonly yes", "appendfsync always", "maxmemory-policy noeviction", "maxmemory 512mb", "dir /data"}
    assert wanted <= set(config)
    secret = of(objects, "Secret", "-redis")["stringData"]
    assert secret["password.conf"] == f"requirepass {secret['password']}"
    assert len(secret["password"]) == 48
    assert f":{secret['password']}@demo-interlock-redis.prod.svc:6379" in secret["url"]
    claim = of(objects, "StatefulSet")["spec"]["volumeClaimTemplates"][0]["spec"]
    assert (claim["storageClassName"], claim["resources"]["requests"]["storage"]) == ("fast", "10Gi")
    assert "NOT FOR PRODUCTION" in (CHART / "values.yaml").read_text()
    assert "FOR TRYING" in rendered(value_set("bundled-redis"))["interlock/templates/NOTES.txt"]


def test_a_redis_by_url_needs_no_secret(releases: dict[str, list[Object]]) -> None:
    engine = of(releases["redis-url"], "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "INTERLOCK_REDIS_URL", "value": "rediss://redis.data.svc:6379/0"} in engine["env"]
    with pytest.raises(helm.HelmValuesError, match="/redis/url"):
        rendered(value_set("redis-url") | {"redis": {"url": "rediss://user:hunter2@redis:6379/0"}})


def test_sidecars_get_what_they_need_in_their_own_namespaces(releases: dict[str, list[Object]]) -> None:
    objects = releases["agents"]
    token = of(objects, "Secret", "-generated")["data"]["token"]
    for namespace in ("prod", "shop", "support"):
        assert of(objects, "Secret", "-sidecar", namespace)["data"] == {"token": token}
        assert set(of(objects, "Secret", "-sidecar-tls", namespace)["data"]) >= {"tls.crt", "tls.key", "ca.crt"}


def test_certificates_by_helm_are_of_its_own_authority_and_for_the_service(releases: dict[str, list[Object]]) -> None:
    objects = releases["agents"]
    authority = certificate(of(objects, "Secret", "-ca"))
    engine, sidecar = (certificate(of(objects, "Secret", name)) for name in ("-engine-tls", "-sidecar-tls"))
    for each in (engine, sidecar):
        each.verify_directly_issued_by(authority)
        assert (each.not_valid_after_utc - each.not_valid_before_utc).days == 365
    names = engine.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "demo-interlock-engine.prod.svc" in names.get_values_for_type(x509.DNSName)


def certificate(secret: Object) -> x509.Certificate:
    return x509.load_pem_x509_certificate(b64decode(secret["data"]["tls.crt"]))


def test_cert_manager_issues_by_its_own_authority_or_by_the_named_one(releases: dict[str, list[Object]]) -> None:
    own, named = releases["cert-manager"], releases["cluster-issuer"]
    assert of(own, "Certificate", "-ca")["spec"]["isCA"] is True
    assert of(own, "Issuer", "-ca")["spec"] == {"ca": {"secretName": "demo-interlock-ca"}}
    assert of(own, "Certificate", "-engine-tls")["spec"]["issuerRef"]["name"] == "demo-interlock-ca"
    assert "Issuer" not in {each["kind"] for each in named}
    for each in (of(named, "Certificate", "-engine-tls"), of(named, "Certificate", "-sidecar-tls", "shop")):
        spec = each["spec"]
        assert spec["issuerRef"] == {"name": "company", "kind": "ClusterIssuer", "group": "cert-manager.io"}
        assert (spec["duration"], spec["renewBefore"]) == ("2160h", "720h")
        assert spec["secretName"] == each["metadata"]["name"]
        assert set(spec["usages"]) & {"server auth", "client auth"}


def test_agents_elsewhere_need_an_issuer_of_the_whole_cluster() -> None:
    values = value_set("cluster-issuer")
    values["certificates"]["certManager"]["issuerRef"]["kind"] = "Issuer"
    with pytest.raises(helm.HelmRenderError, match=r"issuerRef: agents\.namespaces need a ClusterIssuer"):
        rendered(values)


def test_without_mtls_the_engine_asks_for_no_certificate_and_the_sidecar_still_knows_it(
    releases: dict[str, list[Object]],
) -> None:
    objects = releases["no-mtls"]
    assert "client_ca_file" not in of(objects, "ConfigMap", "-engine")["data"]["interlock.yaml"]
    variables = {each["name"] for each in of(objects, "Pod")["spec"]["containers"][0]["env"]}
    assert variables == {"TARGET", "TIMEOUT_S", "CA_FILE"}


def test_the_network_lets_through_only_what_was_declared(releases: dict[str, list[Object]]) -> None:
    objects, said = releases["network-policy"], value_set("network-policy")["networkPolicy"]
    engine, redis = (of(objects, "NetworkPolicy", name)["spec"] for name in ("-engine", "-redis"))
    agents = of(objects, "NetworkPolicy", "-agents", "shop")["spec"]
    assert [rule["ports"] for rule in engine["ingress"]] == [[{"port": "grpc"}], [{"port": "admin"}]]
    assert engine["ingress"][0]["from"][0] == {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}},
        "podSelector": {"matchLabels": {"interlock.dev/inject": "true"}},
    }
    assert engine["ingress"][1]["from"] == said["monitoring"]
    labels = of(objects, "Deployment")["spec"]["selector"]["matchLabels"]
    assert redis["ingress"] == [{"from": [{"podSelector": {"matchLabels": labels}}], "ports": [{"port": "redis"}]}]
    assert (redis["policyTypes"], redis["egress"]) == (["Ingress", "Egress"], [])
    assert agents["policyTypes"] == ["Egress"]
    dns, to_engine, *tools = agents["egress"]
    assert {(port["port"], port["protocol"]) for port in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert to_engine["ports"] == [{"port": 8402}]
    assert to_engine["to"][0]["podSelector"]["matchLabels"] == labels
    assert tools == said["tools"]


def test_what_the_network_cannot_stop_is_said_where_it_is_turned_on() -> None:
    said = re.sub(r"\s+#?\s*", " ", (CHART / "values.yaml").read_text())
    assert "It cannot tell the containers of one pod apart" in said


def test_prometheus_asks_engines_and_sidecars(releases: dict[str, list[Object]]) -> None:
    objects = releases["monitoring"]
    engine, sidecars = of(objects, "ServiceMonitor"), of(objects, "PodMonitor")
    assert engine["spec"]["endpoints"] == [{"port": "admin", "interval": "15s"}]
    assert (
        engine["spec"]["selector"]["matchLabels"].items()
        <= of(objects, "Service", "-engine")["metadata"]["labels"].items()
    )
    assert sidecars["spec"]["podMetricsEndpoints"] == [{"port": "interlock-admin", "interval": "15s"}]
    assert sidecars["spec"]["namespaceSelector"] == {"matchNames": ["shop", "prod"]}
    assert {each["metadata"]["labels"]["release"] for each in (engine, sidecars)} == {"prometheus"}


def test_alerts_and_dashboards_are_the_very_files_of_deploy(releases: dict[str, list[Object]]) -> None:
    objects, deploy = releases["monitoring"], CHART.parents[1] / "deploy"
    assert of(objects, "PrometheusRule")["spec"] == read((deploy / "prometheus" / "rules.yaml").read_text())
    shown = [each for each in objects if each["metadata"].get("labels", {}).get("grafana_dashboard") == "1"]
    told = {name: json.loads(text) for each in shown for name, text in each["data"].items()}
    assert told == {file.name: json.loads(file.read_text()) for file in (deploy / "grafana").glob("*.json")}


def test_a_redis_that_fails_over_is_named_by_its_sentinels_or_as_a_cluster(releases: dict[str, list[Object]]) -> None:
    for name, replicas in (("sentinel", 2), ("redis-cluster", 1)):
        config = read(of(releases[name], "ConfigMap", "-engine")["data"]["interlock.yaml"])
        url = value_set(name)["redis"]["url"]
        assert RedisSettings.model_validate(config["redis"] | {"url": url}).wait_replicas == replicas
        engine = of(releases[name], "Deployment", "-engine")["spec"]["template"]["spec"]["containers"][0]
        assert {"name": "INTERLOCK_REDIS_URL", "value": url} in engine["env"]


def test_kubernetes_asks_the_injector_about_pods_that_want_a_sidecar_and_no_others(
    releases: dict[str, list[Object]],
) -> None:
    objects = releases["injector"]
    webhooks = of(objects, "MutatingWebhookConfiguration", namespace="")["webhooks"]
    by_label, by_annotation = webhooks
    assert by_label["objectSelector"] == {"matchLabels": {"interlock.dev/inject": "true"}}
    assert "interlock.dev/inject" in by_annotation["matchConditions"][0]["expression"]
    service, authority = of(objects, "Service", "-injector"), of(objects, "Secret", "-ca")
    for each in webhooks:
        assert (each["failurePolicy"], each["reinvocationPolicy"], each["sideEffects"]) == ("Fail", "IfNeeded", "None")
        assert each["namespaceSelector"]["matchExpressions"][0]["values"] == ["prod", "kube-system"]
        asked = each["clientConfig"]
        assert (asked["service"]["name"], asked["service"]["port"]) == (service["metadata"]["name"], 443)
        assert asked["caBundle"] == authority["data"]["tls.crt"]
    shown = certificate(of(objects, "Secret", "-injector-tls"))
    shown.verify_directly_issued_by(certificate(authority))
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["demo-interlock-injector.prod.svc"]


def test_cert_manager_gives_the_injector_its_certificate_and_kubernetes_the_authority(
    releases: dict[str, list[Object]],
) -> None:
    objects = releases["injector-cert-manager"]
    configuration = of(objects, "MutatingWebhookConfiguration", namespace="")
    made = of(objects, "Certificate", "-injector-tls")
    named = f"prod/{made['metadata']['name']}"
    assert configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"] == named
    assert made["spec"]["dnsNames"] == ["demo-interlock-injector.prod.svc"]
    assert {each["failurePolicy"] for each in configuration["webhooks"]} == {"Ignore"}
    assert all("caBundle" not in each["clientConfig"] for each in configuration["webhooks"])


def test_an_injector_needs_an_engine_with_certificates() -> None:
    with pytest.raises(helm.HelmRenderError, match=r"injector\.enabled: needs an engine"):
        rendered(value_set("injector") | {"certificates": {"mode": "none"}, "engine": {"acceptPlaintext": True}})


def test_tools_and_policies_of_the_values_change_without_a_restart(releases: dict[str, list[Object]]) -> None:
    pod = of(releases["manifests"], "Deployment")["spec"]["template"]
    made = of(releases["manifests"], "ConfigMap", "-manifests")
    assert made["data"] == value_set("manifests")["engine"]["manifests"]
    assert {"name": "manifests", "configMap": {"name": made["metadata"]["name"]}} in pod["spec"]["volumes"]
    others = value_set("manifests") | {"engine": {"manifests": {"tools.yaml": "tools: {}\n\n"}}}
    changed = manifests(rendered(others))
    checksums = [
        template["metadata"]["annotations"]["checksum/config"]
        for template in (pod, of(changed, "Deployment")["spec"]["template"])
    ]
    assert checksums[0] == checksums[1]


def test_an_upgrade_changes_no_secret(tmp_path: Path, releases: dict[str, list[Object]]) -> None:
    first = secrets(releases["agents"])
    chart = in_cluster(tmp_path, first)
    again = secrets(manifests(rendered(value_set("agents"), chart)))
    assert again == first
    assert secrets(manifests(rendered(value_set("agents")))) != first


def test_a_certificate_past_its_time_is_made_anew_by_an_upgrade_and_its_authority_is_not(
    tmp_path: Path, releases: dict[str, list[Object]]
) -> None:
    first = secrets(releases["agents"])
    old = {name: data | ({"renew-after": "MQ=="} if "renew-after" in data else {}) for (name, _), data in first.items()}
    chart = in_cluster(tmp_path, {(name, "prod"): data for name, data in old.items()})
    again = secrets(manifests(rendered(value_set("agents"), chart)))
    changed = {name for name, namespace in first if first[name, namespace] != again[name, namespace]}
    assert changed == {"demo-interlock-engine-tls", "demo-interlock-sidecar-tls"}


def secrets(objects: list[Object]) -> dict[tuple[str, str], Object]:
    """Data by name and namespace, as the cluster stores it."""
    found = [each for each in objects if each["kind"] == "Secret"]
    return {(each["metadata"]["name"], each["metadata"]["namespace"]): _data(each) for each in found}


def _data(secret: Object) -> Any:
    plain = {key: _encoded(value) for key, value in secret.get("stringData", {}).items()}
    return secret.get("data", {}) | plain


def _encoded(text: str) -> str:
    return b64encode(text.encode()).decode()


def in_cluster(folder: Path, have: dict[tuple[str, str], Object]) -> Path:
    """The chart where `lookup` finds these Secrets in the release's namespace."""
    chart = folder / "interlock"
    shutil.copytree(CHART, chart)
    template = chart / "templates" / "_secrets.tpl"
    known = json.dumps({name: data for (name, namespace), data in have.items() if namespace == "prod"})
    call = 'get (lookup "v1" "Secret" .chart.Release.Namespace .name) "data"'
    text = template.read_text()
    assert text.count(call) == 1
    template.write_text(text.replace(call, f"get (fromJson `{known}`) .name"))
    return chart


def test_the_chart_is_packaged_without_its_sets_of_values(tmp_path: Path) -> None:
    archive = helm.package(CHART, destination=tmp_path)
    with helm.Chart.load(archive) as loaded:
        names = {file["name"] for file in loaded.files}
    assert "files/ask_engine.py" in names
    assert not [name for name in names if name.startswith("ci/")]


@pytest.mark.parametrize("version", ["1.29", NEWEST])
def test_a_job_with_the_sidecar_is_valid_and_ends_with_its_agent(version: str, tmp_path: Path) -> None:
    chart = agent_chart(tmp_path)
    template = chart / "templates" / "deployment.yaml"
    text = template.read_text().replace("apiVersion: apps/v1\nkind: Deployment", "apiVersion: batch/v1\nkind: Job")
    text = re.sub(r"  selector:\n    matchLabels:\n      app: shopper\n", "", text)
    template.write_text(
        text.replace("    spec:\n      termination", "    spec:\n      restartPolicy: Never\n      termination")
    )
    job = of(manifests(rendered({"interlock": value_set("sidecar")}, chart)), "Job", namespace="")
    kubernetes_validate.validate(job, version, strict=True)
    pod = job["spec"]["template"]["spec"]
    # Kubernetes ends native sidecars once all other containers have: without this the Job would never complete.
    assert [(each["name"], each["restartPolicy"]) for each in pod["initContainers"]] == [("interlock", "Always")]
    assert [each["name"] for each in pod["containers"]] == ["agent"]
