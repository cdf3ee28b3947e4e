"""A tool: it charges a card for each order that comes signed, and for no Idempotency-Key twice.

tool.py PORT; TOOL_SECRET is the secret that calls are signed with.
"""

import hashlib
import hmac
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = os.environ["TOOL_SECRET"].encode()

receipts: dict[str, str] = {}
"""By Idempotency-Key."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Refuses what is not signed: it did not come by way of Interlock."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        signature = hmac.new(SECRET, body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(signature, self.headers.get("X-OnceOnly-Signature", "")):
            self._answer(401, {"error": "not signed"})
            return
        receipt = receipts.setdefault(self.headers["Idempotency-Key"], f"ch_{len(receipts) + 1}")
        self._answer(200, {"receipt": receipt, "order": json.loads(body)["order"]})

    def _answer(self, status: int, said: dict[str, object]) -> None:
        text = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


if __name__ == "__main__":
    ThreadingHTTPServer(("", int(sys.argv[1])), Handler).serve_forever()
