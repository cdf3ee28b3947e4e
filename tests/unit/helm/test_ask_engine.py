"""The script of `helm test`, run as its pod runs it, against a gRPC server that shows and asks for certificates."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from tests.certificates import Authority
from tests.unit.helm.charts import CHART

GOVERNANCE = "interlock.governance.v1.Governance"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def health() -> HealthServicer:
    return HealthServicer()


@pytest.fixture(scope="module")
def target(authority: Authority, health: HealthServicer) -> Iterator[str]:
    certificate, key = (file.read_bytes() for file in authority.issue("localhost"))
    credentials = grpc.ssl_server_credentials([(key, certificate)], authority.file.read_bytes(), True)
    server = grpc.server(ThreadPoolExecutor(2))
    add_HealthServicer_to_server(health, server)
    port = server.add_secure_port("localhost:0", credentials)
    server.start()
    yield f"grpcs://localhost:{port}"
    server.stop(None).wait()


def ask(target: str, authority: Authority, *, shows_certificate: bool = True) -> subprocess.CompletedProcess[str]:
    certificate, key = authority.issue("localhost")
    variables = {"TARGET": target, "TIMEOUT_S": "10" if shows_certificate else "1", "CA_FILE": str(authority.file)}
    if shows_certificate:
        variables |= {"CERT_FILE": str(certificate), "KEY_FILE": str(key)}
    script = (CHART / "files" / "ask_engine.py").read_text()
    command = [sys.executable, "-c", script]
    return subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, timeout=30, check=False, cwd=Path("/")
    )


def test_an_engine_that_can_judge_passes(target: str, authority: Authority, health: HealthServicer) -> None:
    health.set(GOVERNANCE, HealthCheckResponse.SERVING)
    answer = ask(target, authority)
    assert (answer.returncode, answer.stderr) == (0, "")


def test_an_engine_that_cannot_judge_fails(target: str, authority: Authority, health: HealthServicer) -> None:
    health.set(GOVERNANCE, HealthCheckResponse.NOT_SERVING)
    answer = ask(target, authority)
    assert answer.returncode == 1
    assert "cannot judge" in answer.stderr


def test_an_engine_is_not_reached_without_the_certificate_that_it_asks_for(target: str, authority: Authority) -> None:
    answer = ask(target, authority, shows_certificate=False)
    assert answer.returncode == 1
    assert "was not reached" in answer.stderr
