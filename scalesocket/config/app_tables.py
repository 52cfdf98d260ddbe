"""The `[apps.NAME]` tables of a site file: what each inherits from `[defaults]`, and whether its keys agree."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from scalesocket.config.conflicts import DISPLACES, find_conflicts
from scalesocket.config.keys import file_keys_of, keys_of
from scalesocket.config.lint import find_suspicious
from scalesocket.config.model import App, Server
from scalesocket.config.positions import KeyPath
from scalesocket.config.problems import Place, Severity
from scalesocket.config.site_file import SiteFile
from scalesocket.config.validation_errors import describe_errors, unknown_key
from scalesocket.config.values import FROM_FILE, FileText, parse_name

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppTable:
    """The table of one app, and what lies beneath it."""

    name: str
    site_file: SiteFile
    """The file the app is in."""
    own: Mapping[str, Any]
    main: SiteFile
    """The file `[defaults]` are in."""
    defaults: Mapping[str, Any]

    @property
    def path(self) -> KeyPath:
        """Where the table is."""
        return ("apps", self.name)

    def merged(self) -> dict[str, Any]:
        """The app's keys over the inherited ones: `env` key by key, everything else as a whole.

        A key of the app displaces inherited ones it cannot stand with: `tcp` an inherited `command`.
        """
        displaced = {inherited for key in self.own for inherited in DISPLACES.get(key, ())}
        merged = {key: value for key, value in self.defaults.items() if key not in displaced} | dict(self.own)
        if isinstance(self.own.get("env"), Mapping) and isinstance(self.defaults.get("env"), Mapping):
            merged["env"] = {**self.defaults["env"], **self.own["env"]}
        return merged

    def given(self) -> dict[str, Any]:
        """The merged keys, with the folder of the file as `cwd` unless they set it."""
        return {"cwd": FileText("", self.site_file.document.folder), **self.merged()}

    def is_inherited(self, path: KeyPath) -> bool:
        """True if the value at `path`, seen from the app, comes from `[defaults]`."""
        match path:
            case ("env", name, *_) if "env" in self.own and isinstance(self.own["env"], Mapping):
                return name not in self.own["env"] and name in self.defaults.get("env", {})
            case (key, *_):
                return key not in self.own and key in self.defaults
        return False

    def place(self, path: KeyPath, *, at_key: bool = False) -> Place:
        """Where the value, or the key, at `path` was written."""
        is_inherited = self.is_inherited(path)
        document = self.main.document if is_inherited else self.site_file.document
        full = ("defaults", *path) if is_inherited else (*self.path, *path)
        return document.key_place(full) if at_key else document.value_place(full)


def parse_defaults(main: SiteFile) -> dict[str, Any]:
    """Check `[defaults]`, so that its errors are reported once, whether or not an app inherits them."""
    defaults = main.table("defaults") or {}
    _remove_unsettable(main, ("defaults",), defaults)
    if "mount" in defaults:
        main.report(("defaults", "mount"), "belongs in an app (one app can be at the root)", at_key=True)
        del defaults["mount"]
    try:
        App.model_validate({"name": "defaults", **defaults}, context=FROM_FILE)
    except ValidationError as error:
        for finding in describe_errors(App, error, elsewhere={"[server]": file_keys_of(Server)}):
            main.report(("defaults", *finding.path), finding.message, at_key=finding.is_about_key)
    return defaults


def collect_apps(site_files: Iterable[SiteFile], main: SiteFile, defaults: Mapping[str, Any]) -> list[AppTable]:
    """Find the apps of all files; reports a name used twice at both places."""
    found: dict[str, AppTable] = {}
    for site_file in site_files:
        for name in site_file.table("apps") or {}:
            own = site_file.table("apps", name)
            if own is None:
                continue
            app = AppTable(name=name, site_file=site_file, own=own, main=main, defaults=defaults)
            if name in found:
                first = found[name].place((), at_key=True)
                site_file.report(app.path, f"a second app of this name (the first: {first})", at_key=True)
                continue
            _remove_unsettable(site_file, app.path, own)
            found[name] = app
    return list(found.values())


def parse_app(app: AppTable) -> App | None:
    """Make the app, or report all that is wrong with it."""
    try:
        parse_name(app.name)
    except ValueError as error:
        app.site_file.report(app.path, str(error), at_key=True)
    merged = app.merged()
    conflicts = find_conflicts(app.name, merged)
    for conflict in conflicts:
        path = (conflict.key,) if conflict.key else ()
        app.site_file.report_at(app.place(path, at_key=conflict.is_about_key), (*app.path, *path), conflict.message)
    try:
        parsed = App.model_validate({**app.given(), "name": app.name}, context=FROM_FILE)
    except ValidationError as error:
        for finding in describe_errors(App, error, elsewhere={"[server]": file_keys_of(Server)}):
            is_reported = finding.path == ("name",) or app.is_inherited(finding.path)
            if not is_reported:
                app.site_file.report((*app.path, *finding.path), finding.message, at_key=finding.is_about_key)
        return None
    for warning in find_suspicious(parsed, app.own):
        place = app.place((warning.key,), at_key=warning.is_about_key)
        app.site_file.report_at(place, (*app.path, warning.key), warning.message, severity=Severity.WARNING)
    return None if conflicts else parsed


def usable_part(model: type[T], table: Mapping[str, Any]) -> T | None:
    """Make what of a wrong table is valid: without the keys that are to blame. None if that is not enough for one."""
    try:
        return model.model_validate(table, context=FROM_FILE)
    except ValidationError as error:
        blamed = {details["loc"][0] for details in error.errors(include_url=False) if details["loc"]}
    try:
        return model.model_validate({key: value for key, value in table.items() if key not in blamed}, context=FROM_FILE)
    except ValidationError:
        return None


def usable_app(app: AppTable) -> App | None:
    """Make what of a wrong app is valid, and report nothing. Its name may be another."""
    blamed = {conflict.key for conflict in find_conflicts(app.name, app.merged())}
    return usable_part(App, {"name": "app", **{key: value for key, value in app.given().items() if key not in blamed}})


def check_mounts(apps: Iterable[AppTable]) -> None:
    """Report apps that are served at one path."""
    at_root = [app for app in apps if app.own.get("mount") == "/"]
    for app in at_root[1:]:
        first = at_root[0]
        message = f'"/" is taken by apps.{first.name} ({first.place(("mount",))}; one app can be at the root)'
        app.site_file.report((*app.path, "mount"), message)


def _remove_unsettable(site_file: SiteFile, section: KeyPath, table: dict[str, Any]) -> None:
    """Report and remove what the model has and the file cannot say."""
    for name in set(keys_of(App)) - set(file_keys_of(App)):
        if name in table:
            site_file.report((*section, name), unknown_key(name, file_keys_of(App), elsewhere={}), at_key=True)
            del table[name]
