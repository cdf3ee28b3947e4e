"""deploy/compose.yaml: valid, whole, and as closed as the chart. tests/integration/test_compose.py runs it."""

import re
from typing import Any

import compose_spec
import pytest

from tests.compose import DEPLOY, ROOT, read

CONTENT = read()
SERVICES: dict[str, dict[str, Any]] = CONTENT["services"]


def named(service: dict[str, Any], what: str) -> set[str]:
    return set(service.get(what, ()))


def test_it_is_what_the_compose_specification_allows() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    reading = compose_spec.PyOptions(apply_merge=True)
    assert set(reading.from_yaml(text).service_names()) == set(SERVICES)
    with pytest.raises(ValueError, match="raed_only"):
        reading.from_yaml(text.replace("read_only", "raed_only"))


@pytest.mark.parametrize("name", SERVICES)
def test_all_that_a_service_names_is_there(name: str) -> None:
    service = SERVICES[name]
    assert named(service, "networks") <= set(CONTENT["networks"])
    assert named(service, "secrets") <= set(CONTENT["secrets"])
    assert named(service, "depends_on") <= set(SERVICES)
    assert service.get("network_mode", "service:sidecar") == "service:sidecar"
    for volume in service.get("volumes", ()):
        source = volume.split(":")[0]
        assert (DEPLOY / source).exists() if source.startswith(".") else source in CONTENT["volumes"], volume


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_pinned_and_may_do_as_little_as_possible(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.search(r":(local|v?\d+\.\d+[\w.-]*)$", service["image"])
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert "privileged" not in service


def test_redis_the_engine_and_the_tool_are_reached_only_by_whom_it_concerns() -> None:
    assert {name for name in CONTENT["networks"] if not (CONTENT["networks"][name] or {}).get("internal")} == {
        "outside"
    }
    on = {
        net: {name for name, each in SERVICES.items() if net in each.get("networks", ())} for net in CONTENT["networks"]
    }
    assert on["tools"] == {"sidecar", "tool"}
    assert on["outside"] == {"prometheus", "grafana"}
    assert {name for name, each in SERVICES.items() if "network_mode" in each} == {"agent", "enrol", "operator"}


def test_its_images_are_those_of_the_chart_and_of_the_image() -> None:
    values = (ROOT / "helm" / "interlock" / "values.yaml").read_text()
    assert f"image: {SERVICES['redis']['image']}\n" in values
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert f"ARG BASE_IMAGE={SERVICES['tool']['image']}\n" in dockerfile
    ours = [each for each in SERVICES.values() if each["image"] == "interlock:local"]
    assert len(ours) == 5
    assert {(DEPLOY / each["build"]["context"] / each["build"]["dockerfile"]).resolve() for each in ours} == {
        DEPLOY / "Dockerfile"
    }


def test_no_secret_stands_in_the_file() -> None:
    for service in SERVICES.values():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"TOKEN|SECRET|PASSWORD|MASTER_KEY|API_KEY|BOOTSTRAP", variable):
                assert re.fullmatch(r"\$\{\w+:\?[^}]*\}", value), variable
