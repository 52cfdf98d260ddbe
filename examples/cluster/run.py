"""Run a cluster on this machine: an engine, three nodes and a load balancer. `make cluster` calls it; Ctrl-C ends all of it.

A process that ends is started again after ten seconds, so that you can kill any of them and see what happens. Variables:

    BIND=127.0.0.1:8000   where the load balancer listens (default: 127.0.0.1:9000, or a free port if that is in use)
    LEASE=15s             the lease of the nodes (default: the one in site.toml)
"""

import ctypes
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

HERE = Path(__file__).parent
NODES = ("a1", "a2", "a3")
START = 20.0
"""Seconds for a process to start."""
STOP = 10.0
"""Seconds for all processes to end; then they are killed."""
RESTART = 10.0
"""Seconds after which a process that has ended is started again."""
PR_SET_PDEATHSIG = 1  # linux/prctl.h

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

WORDS = """
A cluster of three nodes is running. Logs: {folder}

    http://{front}/              the rooms of all nodes, through the load balancer
    http://{front}/chat/         the chat; open it twice
{nodes}

Try:

  1. Open the chat on two nodes, in two tabs: http://{first}/chat/ and http://{second}/chat/
     They are in one room: the second node hands its client over to the first.

  2. Ask where a room is:
         {websockets} ws://{first}/where/lobby
         {websockets} ws://{second}/where/lobby
     Both say the same node.

  3. Kill that node, for example a1:  kill -9 {pid}
     Its clients are disconnected. Connect again to another node: the room opens there after a lease ({lease}),
     with a higher fence.
     The node starts again after {restart:.0f} s.

  4. Ask any node about all:
         CONTROL={folder}/a1.sock {scalesocket} cluster status {site}
         CONTROL={folder}/a1.sock {scalesocket} rooms {site}

  5. Kill the engine:  kill -9 {engine}
     It starts again, empty, after {restart:.0f} s. With a lease shorter than that, all rooms
     end before; with LEASE=20s, none does.

Ctrl-C ends all of it.
"""


class ClusterError(Exception):
    """Something that is missing, or does not start."""


class Process:
    """One process of the cluster."""

    def __init__(self, name: str, command: Sequence[str], log: Path, is_up: Callable[[], bool], **variables: str) -> None:
        """`is_up` tells whether it serves. `variables` are added to the environment."""
        self.name = name
        self._command = command
        self._log = log
        self._is_up = is_up
        self._variables = variables
        self._process: subprocess.Popen[bytes] | None = None
        self._ended_at = 0.0

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it. It ends with this process, and Ctrl-C does not reach it."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=HERE,
                env={**os.environ, **self._variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
                preexec_fn=end_with_parent,
            )
        self._ended_at = 0.0

    def wait_up(self) -> None:
        """Wait until it serves."""
        deadline = time.monotonic() + START
        while not self._is_up():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ClusterError(f"{self.name} does not start. Its log, {self._log}:\n{tail(self._log)}")
            time.sleep(0.05)

    def watch(self) -> None:
        """Report its end, and start it again later."""
        assert self._process is not None
        status = self._process.poll()
        if status is None:
            return
        if not self._ended_at:
            self._ended_at = time.monotonic()
            how = signal.Signals(-status).name if status < 0 else f"exit code {status}"
            say(f"{self.name} has ended ({how}); it starts again in {RESTART:.0f} s. Log: {self._log}")
        elif time.monotonic() > self._ended_at + RESTART:
            self.start()
            say(f"{self.name} starts again, pid {self.pid}")

    def stop(self) -> None:
        """Ask it to end."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()

    def wait_ended(self, deadline: float) -> None:
        """Wait until it has ended; kill it at the deadline."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def end_with_parent() -> None:
    """End this process when the one that started it does, even if that is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def say(words: str) -> None:
    print(words, flush=True)


def tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


def find_program(*names: str, package: str) -> str:
    """Return the path of the first program that is installed."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    for name in names:
        if (found := shutil.which(name, path=path)) is not None:
            return found
    raise ClusterError(f"found neither {' nor '.join(names)} (Debian and Ubuntu: apt-get install {package})")


def find_scalesocket() -> str:
    """Return the path of `scalesocket`. Raises ClusterError if it, or what it needs for a cluster, is not installed."""
    beside = Path(sys.executable).with_name("scalesocket")
    found = str(beside) if beside.exists() else shutil.which("scalesocket")
    if found is None:
        raise ClusterError("found no scalesocket (run `make install`, or pip install 'scalesocket[cluster]')")
    if importlib.util.find_spec("redis") is None:
        raise ClusterError("Python's redis is not installed (pip install 'scalesocket[cluster]')")
    return found


def choose_front() -> str:
    """Return where the load balancer listens."""
    if wanted := os.environ.get("BIND"):
        host, _, port = wanted.rpartition(":")
        if not host or not port.isdigit():
            raise ClusterError(f"BIND={wanted} is not an address (write for example BIND=127.0.0.1:8000)")
        try:
            socket.create_server((host, int(port))).close()
        except (OSError, OverflowError) as error:
            raise ClusterError(f"the load balancer cannot listen on {wanted}: {error} (choose another BIND)") from error
        return wanted
    try:
        socket.create_server(("127.0.0.1", 9000)).close()
    except OSError:
        (port,) = free_ports(1)
        return f"127.0.0.1:{port}"
    return "127.0.0.1:9000"


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def is_listening(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/ready", timeout=1):
            return True
    except (OSError, urllib.error.URLError):
        return False


def make_engine(folder: Path, port: int) -> Process:
    program = find_program("redis-server", "valkey-server", package="redis-server")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    return Process("the engine", command, folder / "engine.log", lambda: is_listening(f"127.0.0.1:{port}"))


def make_nodes(folder: Path, ports: Sequence[int], engine: int) -> dict[str, Process]:
    """`ports`: two for each node, for clients and for other nodes."""
    common = {"ENGINE": f"redis://127.0.0.1:{engine}/0", "CLUSTER_SECRET": secrets.token_hex(32)}
    command = [find_scalesocket(), "serve", "site.toml"]
    nodes = {}
    for name, client, internal in zip(NODES, ports[::2], ports[1::2], strict=True):
        address = f"127.0.0.1:{client}"
        own = {"NODE": name, "BIND": address, "LISTEN": f"127.0.0.1:{internal}", "CONTROL": f"{folder}/{name}.sock"}
        nodes[address] = Process(
            f"node {name}", command, folder / f"{name}.log", lambda at=address: is_listening(at), **common, **own
        )
    return nodes


def make_balancer(folder: Path, front: str, nodes: Mapping[str, Process]) -> Process:
    program = find_program("haproxy", "nginx", package="haproxy")
    file = folder / "balancer.conf"
    is_haproxy = Path(program).name == "haproxy"
    text, line = (HAPROXY, HAPROXY_SERVER) if is_haproxy else (NGINX, NGINX_SERVER)
    servers = "".join(line.format(name=name, address=address) for name, address in zip(NODES, nodes, strict=True))
    file.write_text(text.format(front=front, folder=folder, servers=servers))
    command = [program, "-db", "-f", str(file)] if is_haproxy else [program, "-c", str(file)]
    return Process("the load balancer", command, folder / "balancer.log", lambda: is_ready(front))


def read_lease() -> str:
    if lease := os.environ.get("LEASE"):
        return lease
    return (HERE / "site.toml").read_text().partition("${LEASE:-")[2].partition("}")[0]


def describe(folder: Path, front: str, engine: Process, nodes: Mapping[str, Process]) -> str:
    addresses = list(nodes)
    tools = Path(find_scalesocket()).parent
    return WORDS.format(
        folder=folder,
        front=front,
        nodes="\n".join(f"    http://{address}/{'':13}{node.name}, pid {node.pid}" for address, node in nodes.items()),
        first=addresses[0],
        second=addresses[1],
        pid=nodes[addresses[0]].pid,
        engine=engine.pid,
        lease=read_lease(),
        restart=RESTART,
        websockets=tools / "websockets",
        scalesocket=tools / "scalesocket",
        site=HERE / "site.toml",
    )


def run(folder: Path, front: str) -> None:
    """Run the cluster until a signal."""
    engine_port, *ports = free_ports(1 + 2 * len(NODES))
    engine = make_engine(folder, engine_port)
    nodes = make_nodes(folder, ports, engine_port)
    balancer = make_balancer(folder, front, nodes)
    processes = [balancer, *nodes.values(), engine]  # in the order in which they end
    try:
        say("starting an engine, three nodes and a load balancer …")
        engine.start()
        engine.wait_up()
        for node in nodes.values():
            node.start()
        for node in nodes.values():
            node.wait_up()
        balancer.start()
        balancer.wait_up()
        say(describe(folder, front, engine, nodes))
        while True:
            for process in processes:
                process.watch()
            time.sleep(0.2)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        deadline = time.monotonic() + STOP
        for process in processes[:-1]:
            process.stop()
        for process in processes[:-1]:
            process.wait_ended(deadline)
        engine.stop()  # last, so that the nodes can leave
        engine.wait_ended(deadline + 1)


def raise_interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, raise_interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="scalesocket-cluster-") as folder:
            run(Path(folder), choose_front())
    except KeyboardInterrupt:
        say("ended")
    except ClusterError as error:
        sys.exit(f"make cluster: {error}")


if __name__ == "__main__":
    main()
