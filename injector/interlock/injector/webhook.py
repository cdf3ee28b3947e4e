"""Kubernetes' mutating admission webhook (admission.k8s.io/v1): AdmissionReviews in and out, by HTTPS.

https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

import base64
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Any, Protocol

import orjson
import structlog
from aiohttp import web

from interlock.governance.certificates import Certificates
from interlock.governance.errors import InvalidRequestError
from interlock.injector.pods import injected, wants_sidecar
from interlock.injector.settings import InjectorSettings, TlsFiles
from interlock.injector.sidecar import SidecarFile

API_VERSION = "admission.k8s.io/v1"
MAX_BODY_BYTES = 3 * 1024 * 1024
"""Kubernetes' own limit of an object is half of that; a review may hold the old one, too."""
SHUTDOWN_S = 5.0

log = structlog.get_logger(__name__)


class Recorder(Protocol):
    """Where figures go."""

    def injection(self, outcome: str) -> None: ...


@asynccontextmanager
async def webhook(
    settings: InjectorSettings, tls: TlsFiles, sidecar: SidecarFile, recorder: Recorder
) -> AsyncIterator[int]:
    """Answers while the context is open; gives the port. Errors: OSError, ValueError (the certificate)."""
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.router.add_post("/mutate", partial(_mutate, sidecar, recorder))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        secure = _Shown(Certificates(tls.cert_file, tls.key_file, None), tls).context
        await web.TCPSite(runner, settings.host, settings.port, ssl_context=secure).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def _mutate(sidecar: SidecarFile, recorder: Recorder, request: web.Request) -> web.Response:
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="an AdmissionReview is application/json")
    try:
        review = _request_of(orjson.loads(await request.read()))
    except (orjson.JSONDecodeError, InvalidRequestError) as error:
        raise web.HTTPBadRequest(text=f"not an AdmissionReview of {API_VERSION}: {error}") from error
    outcome, answer = _answer(review, sidecar)
    recorder.injection(outcome)
    log.info(
        "pod.reviewed",
        outcome=outcome,
        uid=review["uid"],
        namespace=str(review.get("namespace", "")),
        why=answer.get("status", {}).get("message", ""),
    )
    told = {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": {"uid": review["uid"], **answer}}
    return web.Response(body=orjson.dumps(told), content_type="application/json")


def _request_of(review: Any) -> Mapping[str, Any]:
    request = review.get("request") if isinstance(review, dict) else None
    if not isinstance(request, dict) or review.get("apiVersion") != API_VERSION:
        raise InvalidRequestError("invalid_review", "it has no request, or another version")
    if not isinstance(request.get("uid"), str):
        raise InvalidRequestError("invalid_review", "request.uid is missing")
    return request


def _answer(request: Mapping[str, Any], sidecar: SidecarFile) -> tuple[str, dict[str, Any]]:
    """How it went (`injected`, `left`, `refused`), and the response."""
    kind, pod = request.get("kind"), request.get("object")
    is_pod = isinstance(kind, dict) and (kind.get("group", ""), kind.get("kind")) == ("", "Pod")
    if not is_pod or request.get("operation") != "CREATE" or not isinstance(pod, dict):
        return "left", {"allowed": True}
    try:
        patch = injected(pod, sidecar.current()) if wants_sidecar(pod) else []
    except InvalidRequestError as error:
        status = {"code": HTTPStatus.BAD_REQUEST, "reason": "BadRequest", "message": f"interlock: {error.message}"}
        return "refused", {"allowed": False, "status": status}
    if not patch:
        return "left", {"allowed": True}
    encoded = base64.b64encode(orjson.dumps(patch)).decode()
    return "injected", {"allowed": True, "patchType": "JSONPatch", "patch": encoded}


class _Shown:
    """What handshakes show: the certificate that the files hold now."""

    def __init__(self, certificates: Certificates, tls: TlsFiles) -> None:
        self._certificates, self._tls = certificates, tls
        self._taken = certificates.current()
        self._newest = self._loaded()
        self.context = self._newest
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _: ssl.SSLContext) -> None:
        shown = self._certificates.current()
        if shown is not self._taken:
            try:
                self._newest, self._taken = self._loaded(), shown
            except (OSError, ssl.SSLError) as error:  # replaced once more since it was looked at
                log.warning("certificate.not_taken", file=str(self._tls.cert_file), error=str(error))
        connection.context = self._newest

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._tls.cert_file, self._tls.key_file)
        return context
