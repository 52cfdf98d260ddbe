"""`[cluster]`: what is refused, what is warned of, and what nothing shows."""

import subprocess
import sys
from pathlib import Path

import pytest

from scalesocket.config.addresses import Endpoint
from scalesocket.config.load import find_problems, load_site
from scalesocket.config.plan import make_plan
from scalesocket.config.problems import Severity
from scalesocket.config.render import render_site, site_record
from scalesocket.config.urls import Sentinels, parse_sentinels

APP = '[apps.chat]\ncommand = "cat"\n'
SECRET = "correct-horse-battery"
CLUSTER = {"engine": '"redis://10.0.0.2/0"', "listen": '"10.0.0.5:9100"', "secret": f'"{SECRET}"'}


def write(folder: Path, *, server: str = "", **keys: str) -> Path:
    """A site file with these keys in `[cluster]`, as TOML; an empty text takes a key out."""
    given = {key: value for key, value in (CLUSTER | keys).items() if value}
    file = folder / "site.toml"
    cluster = "".join(f"{key} = {value}\n" for key, value in given.items())
    file.write_text(f"[server]\n{server}\n[cluster]\n{cluster}\n{APP}")
    file.chmod(0o600)
    return file


def problems(file: Path, severity: Severity = Severity.ERROR) -> list[str]:
    return [f"{problem.key}: {problem.message}" for problem in find_problems(file, {}) if problem.severity is severity]


def test_a_cluster_needs_an_engine_an_address_and_a_secret_and_has_defaults_for_the_rest(tmp_path: Path) -> None:
    cluster = load_site(write(tmp_path), {}).cluster

    assert cluster is not None
    assert (cluster.listen, cluster.secret, cluster.lease, cluster.name) == (
        Endpoint("10.0.0.5", 9100),
        SECRET,
        15.0,
        "scalesocket",
    )
    assert not cluster.keeps_rooms
    assert problems(write(tmp_path), Severity.WARNING) == []


def test_a_site_without_the_table_has_no_cluster(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(APP)

    assert load_site(file, {}).cluster is None
    assert "cluster" not in site_record(load_site(file, {}))


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"engine": ""}, "cluster: engine is missing"),
        ({"listen": ""}, "cluster: listen is missing"),
        ({"secret": ""}, "cluster: has no secret, with which nodes recognise each other (set secret or secret_file)"),
        ({"secret": '"short"'}, "cluster.secret: has fewer than 16 characters (write a random one: openssl rand -hex 32)"),
        ({"secret": "", "secret_file": '"none"'}, "cluster.secret_file: cannot be read: no such file or directory"),
        ({"secret": "", "secret_file": "5"}, "cluster.secret_file: must be a string, not an integer"),
        ({"secret": "", "secret_file": '"empty"'}, "cluster.secret_file: has fewer than 16 characters (write a random one"),
        ({"engine": '"10.0.0.2:6379"'}, 'is not a URL of redis, rediss or unix (write for example "redis://10.0.0.2:6379/0")'),
        ({"engine": '"http://10.0.0.2"'}, "is not a URL of redis, rediss or unix"),
        ({"engine": '"redis://"'}, "has no host"),
        ({"engine": '"redis://h/games"'}, "has a path that is not the number of a database"),
        ({"engine": '"redis://h?retry=1"'}, "has an unknown option after '?' (one of: db)"),
        ({"engine": '"rediss://h?db=x"'}, "has an option db that is not a number"),
        ({"engine": '"unix:run/redis.sock"'}, "has no path of a socket"),
        ({"engine": '"redis+sentinel://10.0.0.2:26379"'}, "is not a URL of sentinels (write for example"),
        ({"engine": '"redis+sentinel://10.0.0.2,10.0.0.3/main"'}, "has an address of a sentinel that is not host:port"),
        ({"listen": '"9100"'}, "cluster.listen: '9100' has no host"),
        ({"listen": '"0.0.0.0:9100"'}, "cluster: has no advertise, and other nodes cannot connect to 0.0.0.0:9100"),
        ({"advertise": '"10.0.0.5:0"'}, "cluster.advertise: '10.0.0.5:0' has port 0, which cannot be connected to"),
        ({"name": '"my games"'}, "cluster.name: 'my games' is not a name"),
        ({"node": '"a:1"'}, "cluster.node: 'a:1' is not a name"),
        ({"lease": '"100ms"'}, 'cluster.lease: is too short (write at least "500ms"'),
        ({"lease": "15"}, 'cluster.lease: 15 has no unit (write "15s")'),
        ({"placement": '"random"'}, "cluster.placement: unknown value 'random' (one of: local, least)"),
        ({"on_engine_loss": '"wait"'}, "cluster.on_engine_loss: unknown value 'wait' (one of: stop, keep)"),
        ({"workers": "2"}, "cluster.workers: unknown key here (it belongs in [server])"),
        ({"tls": '{ certificate = "a.pem", key = "a.key" }'}, "cluster.tls: ca is missing"),
    ],
)
def test_a_mistake_is_named_with_its_key_and_what_to_do(tmp_path: Path, keys: dict[str, str], problem: str) -> None:
    (tmp_path / "empty").touch(mode=0o600)
    found = problems(write(tmp_path, **keys))

    assert len(found) == 1
    assert problem in found[0]
    assert found[0].startswith("cluster")


def test_sentinels_are_read_with_the_url_of_their_primary() -> None:
    found = parse_sentinels("redis+sentinel://me:p%40ss@10.0.0.2:26379,[::1]:26380/main/3")

    assert found == Sentinels((Endpoint("10.0.0.2", 26379), Endpoint("::1", 26380)), "main", "redis://me:p%40ss@{}/3")
    assert "p%40ss" not in repr(found)


@pytest.mark.parametrize("workers", ["2", '"auto"'])
def test_a_node_has_one_process(tmp_path: Path, workers: str) -> None:
    (problem,) = problems(write(tmp_path, server=f"workers = {workers}"))

    message = "has several processes, which a node of a cluster cannot have (run several nodes on one machine instead)"
    assert problem == f"server.workers: {message}"


def test_the_table_is_not_allowed_in_an_included_file(tmp_path: Path) -> None:
    (tmp_path / "more.toml").write_text('[cluster]\nlisten = "10.0.0.5:9100"\n')
    file = tmp_path / "site.toml"
    file.write_text('include = ["more.toml"]\n' + APP)

    (problem,) = problems(file)

    assert problem.startswith("cluster: is not allowed in an included file")


@pytest.mark.parametrize(
    ("keys", "warning"),
    [
        ({"lease": '"2s"'}, "cluster.lease: is short: a pause of the engine of 1.6 s ends all rooms (default: 15s)"),
        ({"engine": '"redis://:pw@redis.example.com"'}, "cluster.engine: sends its password over a public network"),
        ({"listen": '"9.9.9.9:9100"'}, "cluster.listen: is in a public network"),
        ({"advertise": '"a1.example.com:9100"'}, "cluster.advertise: is in a public network"),
        ({"listen": '"127.0.0.1:9100"'}, "cluster.listen: can be reached from this machine alone, but the engine is on another"),
    ],
)
def test_a_probable_mistake_is_warned_of(tmp_path: Path, keys: dict[str, str], warning: str) -> None:
    found = problems(write(tmp_path, **keys), Severity.WARNING)

    assert [problem[: len(warning)] for problem in found] == [warning]


@pytest.mark.parametrize(
    "engine", ["redis://:pw@10.0.0.2", "redis://:pw@redis", "unix://u:pw@/run/redis.sock", "rediss://:pw@x.example.com"]
)
def test_a_password_in_a_private_network_is_not_warned_of(tmp_path: Path, engine: str) -> None:
    assert problems(write(tmp_path, engine=f'"{engine}"'), Severity.WARNING) == []


def test_neither_the_secret_nor_the_password_of_the_engine_is_shown_anywhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    (tmp_path / "secret").chmod(0o600)
    password = "pass-of-engine"
    site = load_site(write(tmp_path, secret="", secret_file='"secret"', engine=f'"redis://me:{password}@10.0.0.2/0"'), {})
    other = load_site(write(tmp_path, secret=f'"another-{SECRET}"', engine=f'"redis://me:{password}2@10.0.0.2/0"'), {})

    assert site.cluster is not None
    assert site.cluster.secret == SECRET
    changes = make_plan(site, other).cluster
    shown = [repr(site), str(site.cluster), render_site(site), str(site_record(site)), *map(str, changes)]
    assert not [text for text in shown if SECRET in text or password in text]
    assert [change.key for change in changes] == ["engine", "secret"]
    assert 'engine = "redis://***@10.0.0.2/0"' in render_site(site)


def test_a_wrong_key_and_a_wrong_url_are_reported_without_their_values(tmp_path: Path) -> None:
    for keys in (
        {"sercet": f'"{SECRET}"'},
        {"engine": f'"redis+sentinel://me:{SECRET}@h/x"'},
        {"engine": f'"redis://me:{SECRET}@/x"', "secret": '"0123456789abcdef"'},
    ):
        found = find_problems(write(tmp_path, **({"secret": ""} | keys)), {})

        assert [problem for problem in found if problem.severity is Severity.ERROR]
        assert not [problem for problem in found if SECRET in problem.render()]


def test_a_file_of_secrets_that_others_can_read_is_warned_of(tmp_path: Path) -> None:
    file = write(tmp_path)
    file.chmod(0o644)

    assert problems(file, Severity.WARNING) == [
        "cluster.secret: can be read by others (chmod o-r site.toml, or write secret_file)"
    ]


def test_certificates_that_cannot_be_used_are_errors(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")

    found = problems(write(tmp_path, tls='{ certificate = "a.pem", key = "a.key", ca = "ca.pem" }'))

    assert found == [
        "cluster.tls.certificate: cannot be read: no such file or directory",
        "cluster.tls.key: cannot be read: no such file or directory",
        'cluster.tls.ca: contains no certificate (it would begin with "-----BEGIN CERTIFICATE-----")',
    ]


def test_without_redis_py_the_table_is_an_error_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    assert problems(write(tmp_path)) == ["cluster.engine: needs the package redis (pip install 'scalesocket[cluster]')"]


def test_a_server_without_the_table_imports_nothing_of_it(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(APP)
    script = (
        "import sys, pkgutil, importlib\n"
        "import scalesocket.cli.main, scalesocket.cli.serve, scalesocket.supervisor, scalesocket.workers.worker\n"
        "from scalesocket.config.load import find_problems\n"
        "from pathlib import Path\n"
        "find_problems(Path(sys.argv[1]))\n"
        "print([name for name in sys.modules if name.startswith(('redis', 'hiredis', 'scalesocket.cluster'))])\n"
    )

    done = subprocess.run([sys.executable, "-c", script, str(file)], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "[]"
