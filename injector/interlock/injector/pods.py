"""What a pod with a sidecar is: the changes that make it of one without, as a JSON Patch (RFC 6902).

The sidecar is a native one (KEP-753: an init container with `restartPolicy: Always`), and the first: it is up before
any other container starts, ends after them, and a Job's pod is over when its own containers are.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from interlock.governance.errors import InvalidRequestError
from interlock.injector.sidecar import Sidecar

Object = Mapping[str, Any]
Patch = list[dict[str, Any]]

PREFIX = "interlock.dev/"
INJECT, STATUS = f"{PREFIX}inject", f"{PREFIX}status"
AGENT_ID, PORT = f"{PREFIX}agent-id", f"{PREFIX}tools-port"
CONFIG, KEY_SECRET = f"{PREFIX}config", f"{PREFIX}agent-key-secret"
KNOWN = {INJECT, STATUS, AGENT_ID, PORT, CONFIG, KEY_SECRET}

_AGENT_ID = re.compile(r"[A-Za-z0-9_.@:-]{1,128}")
_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
LOWEST_PORT, HIGHEST_PORT = 1024, 65_535
"""The sidecar is not root."""

CONFIG_FOLDER = "/etc/interlock/config"
CONFIG_VOLUME = "interlock-config"
SPARE_S = 10
"""A pod outlasts its sidecar's drain by this much."""
GRACE_S = 30
"""What Kubernetes gives a pod that names no terminationGracePeriodSeconds."""
VARIABLE = "INTERLOCK_SIDECAR__"


def wants_sidecar(pod: Object) -> bool:
    """Whether a pod asks for one, by label or annotation, and has none yet. Errors: InvalidRequestError."""
    metadata = _mapping(pod, "metadata")
    asked = [_mapping(metadata, where).get(INJECT) for where in ("labels", "annotations")]
    for value in asked:
        if value not in (None, "true", "false"):
            raise _wrong(INJECT, 'must be "true" or "false"')
    return "true" in asked and "false" not in asked


def injected(pod: Object, sidecar: Sidecar) -> Patch:
    """The patch that puts the sidecar into a pod; none if it is there. Errors: InvalidRequestError, with the place."""
    spec, annotations = _mapping(pod, "spec"), _mapping(_mapping(pod, "metadata"), "annotations")
    containers = [*_list(spec, "initContainers"), *_list(spec, "containers")]
    if any(each.get("name") == sidecar.container["name"] for each in containers):
        return []
    if spec.get("hostNetwork"):
        raise InvalidRequestError(
            "invalid_pod", "spec.hostNetwork: the sidecar would listen on the node, for every pod"
        )
    if unknown := sorted(name for name in annotations if name.startswith(PREFIX) and name not in KNOWN):
        raise _wrong(unknown[0], f"is not known; there are {', '.join(sorted(KNOWN - {STATUS}))}")
    container, volumes = _container(annotations, sidecar, containers), _volumes(annotations, sidecar)
    taken = {each.get("name") for each in _list(spec, "volumes")}
    if clashing := [each["name"] for each in volumes if each["name"] in taken]:
        raise InvalidRequestError("invalid_pod", f"spec.volumes: {clashing[0]} is the sidecar's, and there is one")
    patch = [_first(spec, "initContainers", container), *_appended(spec, "volumes", volumes)]
    needed = sidecar.drain_s + SPARE_S
    grace = spec.get("terminationGracePeriodSeconds")
    if (grace if isinstance(grace, int) else GRACE_S) < needed:
        patch.append({"op": "add", "path": "/spec/terminationGracePeriodSeconds", "value": needed})
    return [*patch, *_marked(_mapping(pod, "metadata"))]


def _container(annotations: Object, sidecar: Sidecar, others: Sequence[Object]) -> Object:
    """The sidecar's container, as the pod's annotations have it."""
    variables: dict[str, Any] = {}
    if agent_id := _annotation(annotations, AGENT_ID, _AGENT_ID, "must be an agent's id: letters, digits, _ . @ : -"):
        variables["AGENT_ID"] = {"value": agent_id}
    if port := _port(annotations, sidecar, others):
        variables["PORT"] = {"value": port}
    if secret := _annotation(annotations, KEY_SECRET, _NAME, "must be the name of a Secret"):
        variables["AGENT_KEY"] = {"valueFrom": {"secretKeyRef": {"name": secret, "key": "key"}}}
    container = {**sidecar.container, "restartPolicy": "Always"}
    named = {f"{VARIABLE}{name}": value for name, value in variables.items()}
    container["env"] = [
        *(each for each in container.get("env", ()) if each["name"] not in named),
        *({"name": name, **value} for name, value in named.items()),
    ]
    if annotations.get(CONFIG) is not None:
        container["args"] = [*container.get("args", ()), "--config", f"{CONFIG_FOLDER}/interlock.yaml"]
        mount = {"name": CONFIG_VOLUME, "mountPath": CONFIG_FOLDER, "readOnly": True}
        container["volumeMounts"] = [*container.get("volumeMounts", ()), mount]
    return container


def _port(annotations: Object, sidecar: Sidecar, others: Sequence[Object]) -> str:
    port = _annotation(annotations, PORT, _PORT, f"must be a port from {LOWEST_PORT} to {HIGHEST_PORT}")
    if port and not LOWEST_PORT <= int(port) <= HIGHEST_PORT:
        raise _wrong(PORT, f"must be a port from {LOWEST_PORT} to {HIGHEST_PORT}")
    own = {sidecar.environment.get(f"{VARIABLE}{name}_PORT"): name.lower() for name in ("ADMIN", "GRPC")}
    if port in own:
        raise _wrong(PORT, f"{port} is the sidecar's own, of {own[port]}")
    theirs = {str(each.get("containerPort")): of.get("name") for of in others for each in _list(of, "ports")}
    if port in theirs:
        raise _wrong(PORT, f"{port} is taken by the container {theirs[port]}")
    return port


def _volumes(annotations: Object, sidecar: Sidecar) -> list[Object]:
    config = _annotation(annotations, CONFIG, _NAME, "must be the name of a ConfigMap")
    own = [{"name": CONFIG_VOLUME, "configMap": {"name": config}}] if config else []
    return [*sidecar.volumes, *own]


def _annotation(annotations: Object, name: str, pattern: re.Pattern[str], told: str) -> str:
    value = annotations.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise _wrong(name, told)
    return value


def _first(spec: Object, key: str, value: Object) -> dict[str, Any]:
    if spec.get(key) is None:
        return {"op": "add", "path": f"/spec/{key}", "value": [value]}
    return {"op": "add", "path": f"/spec/{key}/0", "value": value}


def _appended(spec: Object, key: str, values: Sequence[Object]) -> Patch:
    if spec.get(key) is None:
        return [{"op": "add", "path": f"/spec/{key}", "value": [*values]}]
    return [{"op": "add", "path": f"/spec/{key}/-", "value": value} for value in values]


def _marked(metadata: Object) -> Patch:
    if metadata.get("annotations") is None:
        return [{"op": "add", "path": "/metadata/annotations", "value": {STATUS: "injected"}}]
    return [{"op": "add", "path": f"/metadata/annotations/{STATUS.replace('/', '~1')}", "value": "injected"}]


def _mapping(of: Object, key: str) -> Object:
    value = of.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRequestError("invalid_pod", f"{key}: must be an object")
    return value


def _list(of: Object, key: str) -> Sequence[Object]:
    value = of.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
        raise InvalidRequestError("invalid_pod", f"{key}: must be a list of objects")
    return value


def _wrong(annotation: str, told: str) -> InvalidRequestError:
    return InvalidRequestError("invalid_annotation", f"{annotation}: {told}", field=annotation)
