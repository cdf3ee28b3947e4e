"""What `helm test` runs: asks the engine by gRPC, as a sidecar reaches it, whether it can judge; exits with 1 if not.

Variables: TARGET, grpc(s)://host:port; TIMEOUT_S; CA_FILE, CERT_FILE and KEY_FILE where there is TLS, each optional.
"""

import os
import sys
from pathlib import Path

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub


def _file(variable: str) -> bytes | None:
    path = os.environ.get(variable)
    return Path(path).read_bytes() if path else None


def _channel() -> grpc.Channel:
    scheme, _, address = os.environ["TARGET"].partition("://")
    if scheme == "grpc":
        return grpc.insecure_channel(address)
    credentials = grpc.ssl_channel_credentials(_file("CA_FILE"), _file("KEY_FILE"), _file("CERT_FILE"))
    return grpc.secure_channel(address, credentials)


with _channel() as channel:
    question = HealthCheckRequest(service="interlock.governance.v1.Governance")
    try:
        answer = HealthStub(channel).Check(question, timeout=float(os.environ["TIMEOUT_S"]), wait_for_ready=True)
    except grpc.RpcError as error:
        sys.exit(f"the engine was not reached: {error.code().name} {error.details()}")
    if answer.status != HealthCheckResponse.SERVING:
        sys.exit("the engine was reached, and cannot judge: its log says why")
