"""What a site needs of this machine: programs, folders, certificates, users. Reads, and changes nothing."""

import grp
import importlib.util
import os
import pwd
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from scalesocket.config.auth_lint import find_exposed_auth
from scalesocket.config.certificates import CertificateError, find_unreadable, load_authorities, load_pair
from scalesocket.config.command_hints import Spell
from scalesocket.config.model import Admin, App, Cluster, Server, Site, Tls
from scalesocket.config.parse import Origins
from scalesocket.config.positions import KeyPath
from scalesocket.config.problems import Finding, Place, Problem, Severity, key_text, quote
from scalesocket.config.programs import check_command
from scalesocket.config.secrets import is_readable_by_others
from scalesocket.config.validity import show_time


def spell_in_file(argv: Sequence[str]) -> str:
    """Write a command as an array of TOML."""
    return f"[{', '.join(quote(word) for word in argv)}]"


def check_machine(
    site: Site,
    origins: Origins | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    spell: Spell = spell_in_file,
) -> list[Problem]:
    """Find what this machine lacks for a site, in the order of the site.

    `origins` gives each problem its line. `environ` has the variables of the server, by default those of this process. `spell`
    writes the commands in hints.
    """
    environ = os.environ if environ is None else environ
    findings = [(("server", *finding.path), finding) for finding in _check_server(site.server)]
    if site.cluster is not None:
        findings += [(("cluster", *finding.path), finding) for finding in _check_cluster(site.cluster)]
    for name, app in site.apps.items():
        findings += [(("apps", name, *finding.path), finding) for finding in _check_app(app, environ, spell)]
    findings += [(("apps", name, *finding.path), finding) for name, finding in find_exposed_auth(site)]
    return [
        Problem(severity=found.severity, place=find_place(site, origins or {}, path), key=key_text(path), message=found.message)
        for path, found in findings
    ]


def _error(key: str, message: str) -> Finding:
    return Finding((key,), message)


def _check_server(server: Server) -> Iterator[Finding]:
    for address in server.bind:
        folder = Path(address.removeprefix("unix:")).parent
        if address.startswith("unix:") and not folder.is_dir():
            yield _error("bind", f"there is no folder {str(folder)!r} for the socket")
    if server.control not in ("auto", "off") and not Path(server.control).parent.is_dir():
        yield _error("control", f"there is no folder {str(Path(server.control).parent)!r} for the socket")
    if server.admin is not None:
        yield from _check_admin(server.admin)
    if server.tls is not None:
        yield from _check_pair(server.tls)


def _check_pair(tls: Tls) -> Iterator[Finding]:
    wrong = list(find_unreadable(tls))
    validity = None
    if not wrong:
        try:
            validity = load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), tls)
        except CertificateError as error:
            wrong = [error]
    for fault in wrong:
        yield Finding(("tls", fault.blamed), fault.reason)
    if validity is not None and (text := validity.warn(time.time())) is not None:
        period = f"valid from {show_time(validity.begins_at)} to {show_time(validity.ends_at)}; clients refuse it outside of that"
        yield Finding(("tls", "certificate"), f"{text} ({period})", Severity.WARNING)
    with suppress(OSError):
        if is_readable_by_others(tls.key):
            yield Finding(("tls", "key"), "the file can be read by others (chmod o-r)", Severity.WARNING)


def _check_cluster(cluster: Cluster) -> Iterator[Finding]:
    if importlib.util.find_spec("redis") is None:
        yield _error("engine", "needs the package redis (pip install 'scalesocket[cluster]')")
    if cluster.tls is None:
        return
    yield from _check_pair(Tls(certificate=cluster.tls.certificate, key=cluster.tls.key))
    try:
        load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), cluster.tls.ca)
    except CertificateError as error:
        yield Finding(("tls", error.blamed), error.reason)


def _check_admin(admin: Admin) -> Iterator[Finding]:
    folder = Path(admin.bind.removeprefix("unix:")).parent
    if admin.is_unix and not folder.is_dir():
        yield Finding(("admin", "bind"), f"there is no folder {str(folder)!r} for the socket")


def _check_app(app: App, environ: Mapping[str, str], spell: Spell) -> Iterator[Finding]:
    if app.command is not None:
        has_cwd = app.cwd.is_dir() and os.access(app.cwd, os.X_OK)
        if not has_cwd:
            yield _error("cwd", _folder_fault(app.cwd))
        yield from check_command(app, environ, spell, has_cwd=has_cwd)
        yield from _check_identity(app)
    if app.unix is not None and not app.unix.is_socket():
        yield Finding(("unix",), f"there is no socket {str(app.unix)!r} at the moment", Severity.WARNING)
    if app.static is not None and not (app.static.is_dir() and os.access(app.static, os.R_OK | os.X_OK)):
        yield _error("static", _folder_fault(app.static))


def _check_identity(app: App) -> Iterator[Finding]:
    uid = gid = None
    if app.user is not None:
        try:
            uid = pwd.getpwnam(app.user).pw_uid
        except KeyError:
            yield _error("user", f"there is no user {app.user!r}")
    if app.group is not None:
        try:
            gid = grp.getgrnam(app.group).gr_gid
        except KeyError:
            yield _error("group", f"there is no group {app.group!r}")
    if os.geteuid() == 0:
        return
    if uid is not None and uid != os.geteuid():
        yield _error("user", "only root can run programs as another user (run the server as root, or delete the key)")
    if gid is not None and gid != os.getegid():
        yield _error("group", "only root can run programs as another group (run the server as root, or delete the key)")


def _folder_fault(path: Path) -> str:
    if not path.exists():
        return f"there is no folder {str(path)!r}"
    return f"{str(path)!r} is not a folder" if not path.is_dir() else f"the folder {str(path)!r} cannot be read"


def find_place(site: Site, origins: Origins, path: KeyPath) -> Place:
    """Find the line of a value; without it, only the file."""
    for known, place in origins.items():
        if known[: len(path)] == path:
            return place
    return Place(file=site.path)
