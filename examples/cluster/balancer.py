"""The load balancer, HAProxy or nginx, with its configuration."""

import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from nodes import NODES
from process import ClusterError, Process, find_program

PROGRAMS = ("haproxy", "nginx")

HAPROXY = """\
defaults
    mode http
    timeout connect 2s
    timeout http-request 10s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
    retries 3
    option redispatch 1                 # to another node if one cannot be reached

frontend play
    bind {front}
    http-request del-header Upgrade unless {{ req.hdr(Upgrade) -i -m str websocket }}
    http-request del-header HTTP2-Settings
    http-request del-header Forwarded
    http-request set-header X-Forwarded-For %[src]
    default_backend nodes

backend nodes
    balance uri                         # all clients of a room first reach the same node
    hash-type consistent
    option httpchk GET /ready
    default-server inter 500ms fall 1 rise 1
{servers}
"""
HAPROXY_SERVER = "    server {name} {address} check\n"

NGINX = """\
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/balancer.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_max_temp_file_size 0;
    map $http_upgrade $ws_upgrade {{ default ""; websocket websocket; }}
    map $ws_upgrade $ws_connection {{ default ""; websocket upgrade; }}
    upstream nodes {{
        hash $uri consistent;           # all clients of a room first reach the same node
{servers}    }}
    server {{
        listen {front};
        location / {{
            proxy_pass http://nodes;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $ws_upgrade;
            proxy_set_header Connection $ws_connection;
            proxy_set_header HTTP2-Settings "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_next_upstream error timeout http_503 non_idempotent;
        }}
    }}
}}
"""
NGINX_SERVER = "        server {address} max_fails=1 fail_timeout=2s;\n"


def make_balancer(folder: Path, front: str, nodes: Mapping[str, Process]) -> Process:
    wanted = os.environ.get("BALANCER") or None
    if wanted not in (None, *PROGRAMS):
        raise ClusterError(f"BALANCER={wanted} is neither {' nor '.join(PROGRAMS)}")
    program = find_program(*PROGRAMS, package="haproxy") if wanted is None else find_program(wanted, package=wanted)
    file = folder / "balancer.conf"
    is_haproxy = Path(program).name == "haproxy"
    text, line = (HAPROXY, HAPROXY_SERVER) if is_haproxy else (NGINX, NGINX_SERVER)
    servers = "".join(line.format(name=name, address=address) for name, address in zip(NODES, nodes, strict=True))
    file.write_text(text.format(front=front, folder=folder, servers=servers))
    command = [program, "-db", "-f", str(file)] if is_haproxy else [program, "-c", str(file)]
    return Process("the load balancer", command, folder / "balancer.log", lambda: is_ready(front))


def is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/ready", timeout=1):
            return True
    except (OSError, urllib.error.URLError):
        return False
