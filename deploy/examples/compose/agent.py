"""An agent: it places an order a second, each of them twice, and tries to send a mail, which it may not.

It knows where its tools are (TOOLS_URL) and its own key (AGENT_KEY_FILE), and prints what became of each call.
"""

import itertools
import json
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

URL = os.environ["TOOLS_URL"]
KEY = json.loads(Path(os.environ["AGENT_KEY_FILE"]).read_text())["key"]
BEGAN = int(time.time())


def call(tool: str, arguments: dict[str, object]) -> None:
    """One call of a tool; prints its answer."""
    request = urllib.request.Request(  # noqa: S310 - who starts it says where its tools are
        f"{URL}/{tool}",
        data=json.dumps(arguments).encode(),
        headers={"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - see above
            told(tool, answer.status, answer.headers["Interlock-Decision"], answer.read())
    except urllib.error.HTTPError as refused:
        told(tool, refused.code, refused.headers["Interlock-Decision"], refused.read())
    except OSError as error:
        print(json.dumps({"tool": tool, "error": str(error)}))


def told(tool: str, status: int, decision: str, body: bytes) -> None:
    """Prints one answer."""
    print(json.dumps({"tool": tool, "status": status, "decision": decision, "body": json.loads(body)}))


if __name__ == "__main__":
    for number in itertools.count(1):
        order = f"{BEGAN}-{number}"
        for _ in range(2):
            call("payments.charge", {"order": order})
        call("mail.send", {"order": order})
        time.sleep(1)
