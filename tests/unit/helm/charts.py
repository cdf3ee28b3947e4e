"""The charts as Helm's own engine renders them: objects by kind, with secrets put in as the kubelet would."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import helm_python as helm
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[3]
CHART = ROOT / "helm" / "interlock"
AGENT_CHART = ROOT / "deploy" / "examples" / "agent-chart"
VALUE_SETS = sorted(CHART.glob("ci/*.yaml"))

Object = dict[str, Any]
Secrets = Mapping[str, Mapping[str, str]]
"""By name, and key in it; ConfigMaps that the chart does not make, too."""


def read(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def value_set(name: str) -> Object:
    values: Object = read((CHART / "ci" / f"{name}-values.yaml").read_text())
    return values


def rendered(values: Object | None, chart: Path = CHART, release: str = "demo") -> dict[str, str]:
    """What each template gives, by its path in the chart."""
    with helm.Chart.load(chart) as loaded:
        return loaded.render(values, name=release, namespace="prod")


def manifests(texts: Mapping[str, str]) -> list[Object]:
    """All objects of a rendering."""
    found = [text for path, text in texts.items() if path.endswith(".yaml")]
    return [each for text in found for each in YAML(typ="safe", pure=True).load_all(text) if each]


def objects(values: Object | None, chart: Path = CHART, release: str = "demo") -> dict[str, Object]:
    """The one object of each kind; of kinds with several, the first."""
    found = manifests(rendered(values, chart, release))
    return {each["kind"]: each for each in reversed(found)}


def agent_chart(folder: Path) -> Path:
    """The example chart with this one fetched into it, as `helm dependency update` does it."""
    for source in (CHART, AGENT_CHART):
        shutil.copytree(source, folder / source.relative_to(ROOT))
    chart = folder / AGENT_CHART.relative_to(ROOT)
    helm.dependency_update(chart)
    return chart


def environment(container: Object, secrets: Secrets) -> dict[str, str]:
    """The container's variables."""
    variables = {}
    for each in container["env"]:
        reference = each.get("valueFrom", {}).get("secretKeyRef")
        variables[each["name"]] = secrets[reference["name"]][reference["key"]] if reference else each["value"]
    return variables


def mount(pod: Object, container: Object, secrets: Secrets, root: Path) -> None:
    """Puts the files of Secrets, and of ConfigMaps given like them, where the container has them, below `root`."""
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for each in container["volumeMounts"]:
        folder = root / each["mountPath"].lstrip("/")
        folder.mkdir(parents=True)
        volume = volumes[each["name"]]
        source = volume.get("secret") or volume.get("configMap") or {}
        name = source.get("secretName") or source.get("name")
        if "secret" in volume or name in secrets:
            data = secrets[name]
            items = source.get("items") or [{"key": key, "path": key} for key in data]
            for item in items:
                (folder / item["path"]).write_text(data[item["key"]])
