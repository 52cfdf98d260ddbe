"""Run a websocket server behind a TLS proxy: `python behind_tls.py PROXY PORT CERTIFICATE KEY INNER-PORT COMMAND…`.

PROXY is `haproxy` or `nginx`; COMMAND is the server, which listens on INNER-PORT without TLS. The proxy's configuration follows
its documentation for websockets, with as many threads or workers as the machine has CPUs.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

SBIN: Final = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"
START: Final = 10.0
"""Seconds until the server must listen."""

HAPROXY: Final = """
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 1h
frontend tls
    bind 127.0.0.1:{port} ssl crt {folder}/pair.pem alpn http/1.1 backlog 4096
    default_backend server
backend server
    server server 127.0.0.1:{inner}
"""
NGINX: Final = """
daemon off;
worker_processes auto;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 8000; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl backlog=4096;
        ssl_certificate {folder}/pair.pem;
        ssl_certificate_key {folder}/pair.pem;
        location / {{
            proxy_pass http://127.0.0.1:{inner};
            proxy_http_version 1.1;
            proxy_set_header Upgrade websocket;
            proxy_set_header Connection upgrade;
            proxy_set_header Host $http_host;
            proxy_read_timeout 1h;
        }}
    }}
}}
"""
PROXIES: Final[Mapping[str, tuple[str, Callable[[str], list[str]]]]] = {
    "haproxy": (HAPROXY, lambda file: ["-db", "-f", file]),
    "nginx": (NGINX, lambda file: ["-e", "stderr", "-c", file]),
}
NESTED: Final = ("sh", "-c", '"$@"; exit $?', "sh")
"""Runs the server one generation deeper, at the level of nginx's workers, which count as the server, too."""


def find_proxy(name: str) -> str | None:
    """Return the path of a proxy; None if it is not installed."""
    return shutil.which(name) or shutil.which(name, path=SBIN)


def wait_listening(port: int) -> None:
    deadline = time.monotonic() + START
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                sys.exit(f"the server does not listen on port {port}")
            time.sleep(0.02)
        else:
            return


def main(name: str, port: str, certificate: str, key: str, inner: str, *command: str) -> int:
    folder = Path(certificate).parent
    (folder / "pair.pem").write_text(Path(certificate).read_text() + Path(key).read_text())
    text, make_words = PROXIES[name]
    file = folder / f"{name}.conf"
    file.write_text(text.format(port=port, inner=inner, folder=folder))
    subprocess.Popen([*NESTED, *command])
    wait_listening(int(inner))
    subprocess.Popen([find_proxy(name) or name, *make_words(str(file))])
    os.wait()  # until the first one exits
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
