"""Parsing: from the texts of a site file and its included files to a `Site`. Pure; finds all errors at once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from scalesocket.config.app_tables import AppTable, check_mounts, collect_apps, parse_app, parse_defaults, usable_app, usable_part
from scalesocket.config.cluster_lint import find_suspicious_cluster
from scalesocket.config.keys import file_keys_of
from scalesocket.config.lint import find_suspicious_server
from scalesocket.config.model import App, Cluster, Server, Site
from scalesocket.config.positions import KeyPath
from scalesocket.config.problems import ConfigError, Finding, Place, Problem, Severity, raise_errors, sort_problems
from scalesocket.config.secret_files import SecretReader, read_secret_files
from scalesocket.config.site_file import SiteFile
from scalesocket.config.toml_document import TomlDocument, parse_document
from scalesocket.config.validation_errors import describe_errors, nearest, type_name, unknown_key
from scalesocket.config.values import FROM_FILE

Origins = Mapping[KeyPath, Place]
"""The places of the values of a site, by path: `("apps", "chat", "routing")`. Defaults have none."""

Table = TypeVar("Table", bound=BaseModel)

SECTIONS: Final = ("include", "server", "cluster", "defaults", "apps")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """The result of parsing a site file."""

    site: Site
    """The valid part: without the apps that have errors, and with the default server if `[server]` has errors."""
    usable: Site
    """The same, with the valid keys of apps and server that have errors, for the checks of the machine."""
    origins: Origins
    problems: Sequence[Problem]
    """Errors and warnings, in the order of the files."""


def parse_site(text: str, path: Path, environ: Mapping[str, str], *, included: Mapping[Path, str] | None = None) -> Site:
    """Parse the text of a site file.

    `path` names the file in errors; relative paths start from its folder. `environ` has the variables for `${NAME}`. `included`
    has the texts of the included files; their relative paths start from their own folders. Raises ConfigError with all problems.
    """
    parsed = parse_documents(*parse_texts({path: text, **(included or {})}), environ)
    raise_errors(parsed.problems)
    return parsed.site


def parse_texts(texts: Mapping[Path, str]) -> tuple[TomlDocument, Sequence[TomlDocument]]:
    """Parse the TOML of the site file, which is first, and its included files. Raises ConfigError with all syntax errors."""
    problems: list[Problem] = []
    documents = []
    for file, text in texts.items():
        try:
            documents.append(parse_document(text, file))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return documents[0], documents[1:]


def parse_documents(
    main: TomlDocument,
    included: Sequence[TomlDocument],
    environ: Mapping[str, str],
    *,
    read_secret: SecretReader | None = None,
    is_whole: bool = True,
) -> Parsed:
    """Parse the documents of a site.

    `is_whole`: no included file is missing, so that a site without apps is an error.
    """
    problems: list[Problem] = []
    site_files = [SiteFile(document, environ, problems) for document in (main, *included)]
    for site_file in site_files:
        _check_sections(site_file, site_files[0])
        read_secret_files(site_file, read_secret or _read_nothing)
    _include(site_files[0])
    server = _server(site_files[0])
    cluster = _cluster(site_files[0], server)
    defaults = parse_defaults(site_files[0])
    tables = collect_apps(site_files, site_files[0], defaults)
    apps = [parse_app(table) for table in tables]
    check_mounts(tables)
    if is_whole and not any(site_file.tables.get("apps") or _misspells_apps(site_file) for site_file in site_files):
        problems.append(
            Problem(place=Place(file=main.file), message='no apps (add one, for example [apps.chat] with command = "cat")')
        )
    problems = sort_problems(problems, [site_file.file for site_file in site_files])
    path = main.folder / main.file.name
    site = Site(server=server or Server(), cluster=cluster, apps={app.name: app for app in apps if app is not None}, path=path)
    usable_apps = {table.name: app or usable_app(table) for table, app in zip(tables, apps, strict=True)}
    usable = Site.model_construct(  # without validation: an app may have no target
        server=server or _usable_server(site_files[0]),
        cluster=cluster,
        apps={name: app for name, app in usable_apps.items() if app is not None},
        path=path,
    )
    return Parsed(site=site, usable=usable, origins=_origins(site_files[0], tables), problems=problems)


def include_patterns(main: TomlDocument, environ: Mapping[str, str]) -> Sequence[tuple[str, Place]]:
    """Return the valid patterns of `include` with their places. `parse_documents` reports the others."""
    patterns = _include(SiteFile(main, environ, []))
    return [(pattern, main.value_place(("include", index))) for index, pattern in patterns.items()]


def _read_nothing(path: Path) -> str:
    raise OSError(f"{path} is not read while parsing")


def _check_sections(site_file: SiteFile, main: SiteFile) -> None:
    for key in site_file.tables:
        if site_file is main and key not in SECTIONS:
            elsewhere = {
                "[server]": file_keys_of(Server),
                "[cluster]": file_keys_of(Cluster),
                "[apps.NAME] or [defaults]": file_keys_of(App),
            }
            site_file.report((key,), unknown_key(key, SECTIONS, elsewhere=elsewhere), at_key=True)
        elif key != "apps" and site_file is not main:
            message = f"is not allowed in an included file, which has [apps.NAME] tables only (move it to {main.file})"
            site_file.report((key,), message, at_key=True)


def _misspells_apps(site_file: SiteFile) -> bool:
    """Whether there is an unknown key for which `apps` is suggested; then apps are not missing."""
    return any(key not in SECTIONS and nearest(key, SECTIONS) == "apps" for key in site_file.tables)


def _include(main: SiteFile) -> Mapping[int, str]:
    """Return the patterns of `include` by index. Reports those that are not strings."""
    patterns = main.tables.get("include", [])
    if not isinstance(patterns, list):
        hint = f' (write ["{patterns}"])' if isinstance(patterns, str) else ""
        main.report(("include",), f"must be an array, not {type_name(patterns)}{hint}")
        return {}
    for index, pattern in enumerate(patterns):
        if not isinstance(pattern, str):
            main.report(("include", index), f"must be a string, not {type_name(pattern)}")
    return {index: pattern for index, pattern in enumerate(patterns) if isinstance(pattern, str)}


def _server(main: SiteFile) -> Server | None:
    table = main.table("server") or {}
    return _read_table(main, "server", table, Server, {"[apps.NAME] or [defaults]": file_keys_of(App)}, find_suspicious_server)


def _cluster(main: SiteFile, server: Server | None) -> Cluster | None:
    table = main.table("cluster")
    if table is None:
        return None
    if server is not None and server.workers != 1:
        message = "has several processes, which a node of a cluster cannot have (run several nodes on one machine instead)"
        main.report(("server", "workers"), message)
    return _read_table(main, "cluster", table, Cluster, {"[server]": file_keys_of(Server)}, find_suspicious_cluster)


def _read_table(
    main: SiteFile,
    name: str,
    table: Mapping[str, Any],
    model: type[Table],
    elsewhere: Mapping[str, Iterable[str]],
    find_suspicious: Callable[[Table], Iterable[Finding]],
) -> Table | None:
    """Validate one table of the site file. Reports its errors, and warns of probable mistakes; None if it is not valid."""
    try:
        read = model.model_validate(table, context=FROM_FILE)
    except ValidationError as error:
        for finding in describe_errors(model, error, elsewhere=elsewhere):
            main.report((name, *finding.path), finding.message, at_key=finding.is_about_key)
        return None
    for finding in find_suspicious(read):
        path = main.document.written((name, *finding.path))
        main.report_at(main.document.value_place(path), path, finding.message, severity=Severity.WARNING)
    return read


def _usable_server(main: SiteFile) -> Server:
    written = main.tables.get("server")
    return usable_part(Server, written if isinstance(written, dict) else {}) or Server()


def _origins(main: SiteFile, apps: Sequence[AppTable]) -> Origins:
    origins: dict[KeyPath, Place] = {}

    def walk(value: Any, path: KeyPath, locate: Callable[[KeyPath], Place], section: KeyPath) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(inner, (*path, key), locate, section)
        else:
            origins[(*section, *path)] = locate(path)

    walk(main.tables.get("server", {}), (), lambda path: main.document.value_place(("server", *path)), ("server",))
    walk(main.tables.get("cluster", {}), (), lambda path: main.document.value_place(("cluster", *path)), ("cluster",))
    for app in apps:
        walk(app.merged(), (), app.place, app.path)
    return origins
