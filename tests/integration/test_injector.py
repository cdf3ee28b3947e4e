"""`interlock injector` as Kubernetes asks it: AdmissionReviews by real TLS, and pods that are valid with the patch."""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jsonpatch
import kubernetes_validate
import pytest

from tests.certificates import Authority
from tests.interlock_dev import free_port, launch, until
from tests.unit.helm.charts import manifests, rendered, value_set

Pod = dict[str, Any]
CONTAINER = {"name": "agent", "image": "shop/agent:1", "ports": [{"containerPort": 9000}]}
INJECT = {"interlock.dev/inject": "true"}
JOB: Pod = {"restartPolicy": "Never", "containers": [CONTAINER]}
STATEFUL: Pod = {
    "containers": [CONTAINER | {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
    "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data-shopper-0"}}],
    "terminationGracePeriodSeconds": 300,
}
WITH_INIT: Pod = {"initContainers": [{"name": "migrate", "image": "shop/migrate:1"}], "containers": [CONTAINER]}


def pod(spec: Pod, **annotations: str) -> Pod:
    named = {f"interlock.dev/{name.replace('_', '-')}": value for name, value in annotations.items()}
    metadata: Pod = {"name": "shopper-0", "labels": INJECT} | ({"annotations": named} if named else {})
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": deepcopy(spec)}


def review(of: Pod, operation: str = "CREATE", kind: str = "Pod") -> dict[str, Any]:
    request = {"uid": "u-1", "kind": {"group": "", "version": "v1", "kind": kind}, "namespace": "shop"}
    request |= {"operation": operation, "object": of}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


@dataclass
class Injector:
    """One process, and how to ask it."""

    url: str
    admin: str
    authority: Authority
    folder: Path
    process: asyncio.subprocess.Process

    async def ask(self, body: object, content_type: str = "application/json", trusted: Authority | None = None) -> Any:
        context = ssl.create_default_context(cafile=(trusted or self.authority).file)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with httpx.AsyncClient(verify=context) as client:
            return await client.post(f"{self.url}/mutate", content=content, headers={"Content-Type": content_type})

    async def response(self, asked: dict[str, Any]) -> dict[str, Any]:
        answer = (await self.ask(asked)).json()
        assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
        assert answer["response"]["uid"] == "u-1"
        told: dict[str, Any] = answer["response"]
        return told

    async def injected(self, into: Pod) -> Pod:
        """The pod as Kubernetes makes it."""
        response = await self.response(review(into))
        assert response["allowed"], response
        patch = json.loads(base64.b64decode(response["patch"])) if "patch" in response else []
        made: Pod = jsonpatch.apply_patch(into, patch)
        return made


@pytest.fixture
async def injector(tmp_path: Path) -> AsyncIterator[Injector]:
    authority, port, admin_port = Authority(tmp_path, "authority"), free_port(), free_port()
    cert, key = authority.issue("injector")
    objects = manifests(rendered(value_set("injector")))
    name = "demo-interlock-injector"
    (told,) = (each for each in objects if (each["kind"], each["metadata"]["name"]) == ("ConfigMap", name))
    (tmp_path / "sidecar.yaml").write_text(told["data"]["sidecar.yaml"])
    settings = {
        "INTERLOCK_INJECTOR__HOST": "127.0.0.1",
        "INTERLOCK_INJECTOR__PORT": str(port),
        "INTERLOCK_INJECTOR__ADMIN_PORT": str(admin_port),
        "INTERLOCK_INJECTOR__SIDECAR_FILE": str(tmp_path / "sidecar.yaml"),
        "INTERLOCK_INJECTOR__TLS__CERT_FILE": str(cert),
        "INTERLOCK_INJECTOR__TLS__KEY_FILE": str(key),
        "INTERLOCK_INJECTOR__DRAIN_GRACE_MS": "300",
    }
    process = await launch("injector", log=tmp_path / "injector.log", settings=settings)
    injector = Injector(f"https://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}", authority, tmp_path, process)

    async def ready() -> bool:
        assert process.returncode is None, (tmp_path / "injector.log").read_text()
        async with httpx.AsyncClient() as client:
            try:
                return (await client.get(f"{injector.admin}/readyz")).is_success
            except httpx.TransportError:
                return False

    await until(ready)
    yield injector
    if process.returncode is None:
        process.terminate()
        assert await process.wait() == 0


async def test_pods_of_every_kind_are_valid_with_their_sidecar(injector: Injector) -> None:
    for spec in ({"containers": [CONTAINER]}, JOB, STATEFUL, WITH_INIT):
        made = await injector.injected(pod(spec))
        for version in ("1.29", kubernetes_validate.latest_version()):
            kubernetes_validate.validate(made, version, strict=True)
        first, *others = made["spec"]["initContainers"]
        assert (first["name"], first["restartPolicy"]) == ("interlock", "Always")
        assert first["startupProbe"]["httpGet"]["path"] == "/readyz"
        assert [each["name"] for each in others] == [each["name"] for each in spec.get("initContainers", [])]
        assert made["spec"]["containers"] == spec["containers"]
        mounted = {each["name"] for each in first["volumeMounts"]}
        assert mounted <= {each["name"] for each in made["spec"]["volumes"]}
        assert made["spec"]["terminationGracePeriodSeconds"] == max(40, spec.get("terminationGracePeriodSeconds", 30))
        # Kubernetes asks again when another webhook changed the pod.
        assert await injector.injected(made) == made


async def test_annotations_say_who_the_agent_is_and_where_it_finds_its_tools(injector: Injector) -> None:
    asked = pod(JOB, agent_id="shopper", tools_port="9400", config="shopper-interlock", agent_key_secret="shopper-key")
    made = await injector.injected(asked)
    kubernetes_validate.validate(made, "1.29", strict=True)
    sidecar = made["spec"]["initContainers"][0]
    variables = {each["name"]: each for each in sidecar["env"]}
    assert len(variables) == len(sidecar["env"])
    assert variables["INTERLOCK_SIDECAR__AGENT_ID"]["value"] == "shopper"
    assert variables["INTERLOCK_SIDECAR__PORT"]["value"] == "9400"
    key = variables["INTERLOCK_SIDECAR__AGENT_KEY"]["valueFrom"]["secretKeyRef"]
    assert key == {"name": "shopper-key", "key": "key"}
    assert sidecar["args"] == ["--config", "/etc/interlock/config/interlock.yaml"]
    assert {"name": "interlock-config", "configMap": {"name": "shopper-interlock"}} in made["spec"]["volumes"]
    assert made["metadata"]["annotations"]["interlock.dev/status"] == "injected"


@pytest.mark.parametrize(
    ("annotations", "told"),
    [
        ({"tools_port": "80"}, "interlock.dev/tools-port: must be a port from 1024 to 65535"),
        ({"tools_port": "http"}, "interlock.dev/tools-port: must be a port"),
        ({"tools_port": "8401"}, "interlock.dev/tools-port: 8401 is the sidecar's own, of admin"),
        ({"tools_port": "9000"}, "interlock.dev/tools-port: 9000 is taken by the container agent"),
        ({"agent_id": "a b"}, "interlock.dev/agent-id: must be an agent's id"),
        ({"config": "../secrets"}, "interlock.dev/config: must be the name of a ConfigMap"),
        ({"agent_key_secret": "A"}, "interlock.dev/agent-key-secret: must be the name of a Secret"),
        ({"inject": "yes"}, 'interlock.dev/inject: must be "true" or "false"'),
        ({"agnet_id": "a"}, "interlock.dev/agnet-id: is not known"),
    ],
)
async def test_an_annotation_that_cannot_be_meant_refuses_the_pod_and_says_why(
    injector: Injector, annotations: dict[str, str], told: str
) -> None:
    response = await injector.response(review(pod(JOB, **annotations)))
    assert (response["allowed"], response["status"]["code"]) == (False, 400)
    assert told in response["status"]["message"]


async def test_what_is_no_new_pod_or_wants_no_sidecar_is_left_alone(injector: Injector) -> None:
    plain = pod(JOB)
    plain["metadata"]["labels"] = {}
    told_not_to = pod(JOB, inject="false")
    for asked in (review(plain), review(told_not_to), review(pod(JOB), "DELETE"), review(pod(JOB), kind="Deployment")):
        assert await injector.response(asked) == {"uid": "u-1", "allowed": True}
    on_the_node = await injector.response(review(pod(JOB | {"hostNetwork": True})))
    assert "spec.hostNetwork" in on_the_node["status"]["message"]


async def test_what_is_no_review_is_refused_and_harms_nobody(injector: Injector) -> None:
    deep = b'{"request":' + b"[" * 100_000
    broken = pod(JOB) | {"spec": [1]}
    reviews: list[object] = [
        b"",
        b"{",
        b"[]",
        b"null",
        deep,
        {},
        {"request": {}},
        review(pod(JOB)) | {"apiVersion": "v1"},
    ]
    for body in reviews:
        assert (await injector.ask(body)).status_code == 400, body
    assert (await injector.ask(review(pod(JOB)), "text/plain")).status_code == 415
    assert (await injector.ask(b" " * 4_000_000)).status_code == 413
    assert not (await injector.response(review(broken)))["allowed"]
    no_grace = await injector.injected(pod(JOB | {"terminationGracePeriodSeconds": None}))
    assert no_grace["spec"]["terminationGracePeriodSeconds"] == 40
    for odd in ({"containers": "x"}, {"containers": [1]}, {"containers": [], "volumes": 1}):
        assert not (await injector.response(review(pod(odd))))["allowed"], odd
    assert (await injector.injected(pod(JOB)))["spec"]["initContainers"]
    async with httpx.AsyncClient() as client:
        figures = (await client.get(f"{injector.admin}/metrics")).text
    assert 'interlock_injections_total{outcome="injected"} 2.0' in figures
    assert 'interlock_injections_total{outcome="refused"} 4.0' in figures


async def test_certificate_and_sidecar_are_taken_up_without_a_restart(injector: Injector) -> None:
    other = Authority(injector.folder, "other")
    other.issue("injector")  # over the files that it was started with
    assert (await injector.ask(review(pod(JOB)), trusted=other)).is_success
    with pytest.raises(httpx.ConnectError):
        await injector.ask(review(pod(JOB)))
    file = injector.folder / "sidecar.yaml"
    changed = file.read_text().replace("registry.internal/interlock:", "registry.internal/interlock-next:")
    for text, image in ((changed, "interlock-next:"), ("container: [", "interlock-next:")):
        new = file.with_suffix(".new")
        new.write_text(text)
        new.rename(file)
        response = (await injector.ask(review(pod(JOB)), trusted=other)).json()["response"]
        assert image in base64.b64decode(response["patch"]).decode()
