"""Serve a starter site with the installed package. Run it with the Python of an environment that has only the wheel."""

import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Final

from websockets.sync.client import connect

SCALESOCKET: Final = Path(sys.executable).parent / "scalesocket"


def main() -> None:
    """Write a site, check it, serve it, use it and stop the server."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([SCALESOCKET, "init", "minimal", "site"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        site = Path(folder) / "site" / "site.toml"
        subprocess.run([SCALESOCKET, "check", site], check=True)
        command = [SCALESOCKET, "serve", "--bind", "127.0.0.1:0", site]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                port = next(match[1] for line in server.stdout if (match := re.search(r"listening on http://\S+:(\d+)", line)))
                try_site(int(port))
            finally:
                server.terminate()
        assert server.returncode == 0, f"the server ended with {server.returncode}"


def try_site(port: int) -> None:
    """Join a room, and load the app's page, the front page and the health check."""
    with connect(f"ws://127.0.0.1:{port}/hello/lobby", proxy=None) as client:
        client.send("good morning")
        while "good morning" not in str(client.recv(timeout=10)):
            pass
    for path in ("/", "/hello/", "/health"):
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}{path}") as response:
            assert response.read(), f"{path} is empty"


if __name__ == "__main__":
    main()
