"""An agent. It knows the address of its tools and its own key; that an interlock stands in between, it need not know.

    agent.py TOOL ARGUMENTS [--times N] [--patience SECONDS]

calls a tool with JSON arguments (`{n}` in them counts the calls) and prints one JSON object for each answer. As agents
do, it tries again where that may help: after a lost connection, and after `Retry-After`, while its patience lasts.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator

import httpx


def answers(http: httpx.Client, tool: str, arguments: str, patience_s: float) -> Iterator[dict[str, object]]:
    """One call with its retries."""
    give_up_at = time.monotonic() + patience_s
    while True:
        try:
            response = http.post(tool, content=arguments, headers={"Content-Type": "application/json"})
        except httpx.TransportError as error:
            yield {"decision": "lost", "error": type(error).__name__}
            pause_s = 0.2
        else:
            yield told(response)
            pause_s = float(response.headers.get("Retry-After", "inf"))
        if time.monotonic() + pause_s > give_up_at:
            return
        time.sleep(pause_s)


def told(response: httpx.Response) -> dict[str, object]:
    """What the answer says."""
    body = response.json()
    return {
        "status": response.status_code,
        "decision": response.headers.get("Interlock-Decision"),
        "replayed": response.headers.get("Idempotent-Replayed") == "true",
        "reason": body.get("reason"),
        "retry_after": response.headers.get("Retry-After"),
        "body": body,
    }


def main() -> None:
    """Reads the command line and calls."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tool")
    parser.add_argument("arguments")
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--patience", type=float, default=0)
    asked = parser.parse_args()
    key = os.environ["AGENT_KEY"]
    with httpx.Client(
        base_url=os.environ["TOOLS_URL"], headers={"Authorization": f"Bearer {key}"}, timeout=30, trust_env=False
    ) as http:
        for n in range(asked.times):
            for answer in answers(http, asked.tool, asked.arguments.replace("{n}", str(n)), asked.patience):
                print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
