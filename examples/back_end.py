"""The tool that the examples call: an API of your own, which serves only what is signed by Interlock, and counts."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from interlock.client import SignatureError, verify_signature

SECRET = "correct horse battery staple"


class BackEnd(BaseHTTPRequestHandler):
    """Answers each genuine call with how many there were, or with 500 if it is asked to fail."""

    def do_POST(self) -> None:
        """A call, as `run_tool` has it: the arguments stand in the body's `args`."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        url = f"http://{self.headers['Host']}{self.path}"
        try:
            verify_signature(SECRET, self.headers.items(), body, method="POST", url=url)
        except SignatureError as error:
            self._answer(401, {"error": error.reason})
            return
        if json.loads(body)["args"].get("fail"):
            self._answer(500, {"error": "broken"})
            return
        self.server.calls += 1
        self._answer(200, {"receipt": self.server.calls})

    def _answer(self, status: int, told: dict) -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def serving() -> Iterator[str]:
    """Its URL, while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BackEnd)
    server.calls = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
