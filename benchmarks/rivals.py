"""The proxies that Sidehop is compared with: are they here, and how are they set up?"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

# Another proxy that looks at nothing. It takes no part in drills: it has no health checks of its own.
NGINX = "nginx"
# Where distributions keep what nginx loads at run time; one that has it built in needs no file.
_NGINX_STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


def haproxy_installed() -> bool:
    return shutil.which("haproxy") is not None


def nginx_installed() -> bool:
    """Whether nginx is here and can relay TCP, which is a module that may be missing."""
    if shutil.which("nginx") is None:
        return False
    built = subprocess.run(["nginx", "-V"], capture_output=True, text=True, check=False).stderr.split()
    return "--with-stream" in built or _NGINX_STREAM.exists()


def haproxy_config(listen: int, endpoints: Sequence[str]) -> str:
    """HAProxy as one would put it beside RabbitMQ: TCP, health-checked, round robin, one thread like Sidehop."""
    servers = "\n".join(
        f"  server mq{n} {endpoint} check inter 500ms fall 2 rise 1" for n, endpoint in enumerate(endpoints, 1)
    )
    return f"""global
  nbthread 1
  maxconn 9800
defaults
  mode tcp
  timeout connect 2s
  timeout client 1h
  timeout server 1h
  option redispatch
listen amqp
  bind 127.0.0.1:{listen}
  balance roundrobin
{servers}
"""


def nginx_config(folder: Path, listen: int, endpoints: Sequence[str]) -> str:
    """Nginx with what HAProxy is given: TCP, round robin, one process, no timeout below an hour.

    Its own defaults are alike already: no delay of small segments, 16 KiB of buffer for each direction.
    """
    module = f"load_module {_NGINX_STREAM};\n" if _NGINX_STREAM.exists() else ""
    servers = "\n".join(f"    server {endpoint};" for endpoint in endpoints)
    return f"""{module}daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
worker_rlimit_nofile 16384;
events {{
  worker_connections 16384;
}}
stream {{
  upstream amqp {{
{servers}
  }}
  server {{
    listen 127.0.0.1:{listen} backlog=4096;
    proxy_pass amqp;
    proxy_connect_timeout 2s;
    proxy_timeout 1h;
    tcp_nodelay on;
  }}
}}
"""


def missing_proxies(modes: Sequence[str]) -> dict[str, str]:
    """Which of the ways can't be gone here, each with the command that installs what it needs."""
    known = {
        "haproxy": (haproxy_installed, "apt-get install haproxy"),
        NGINX: (nginx_installed, "apt-get install nginx-light libnginx-mod-stream"),
    }
    return {mode: known[mode][1] for mode in modes if mode in known and not known[mode][0]()}
