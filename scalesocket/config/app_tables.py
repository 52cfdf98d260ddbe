"""The `[apps.NAME]` tables: what each app inherits from `[defaults]`, and the parsing of both."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from scalesocket.config.conflicts import DISPLACES, find_conflicts
from scalesocket.config.keys import file_keys_of, keys_of
from scalesocket.config.lint import find_suspicious
from scalesocket.config.model import App, Server
from scalesocket.config.positions import KeyPath
from scalesocket.config.problems import Finding, Place, Severity
from scalesocket.config.site_file import SiteFile
from scalesocket.config.validation_errors import describe_errors, unknown_key
from scalesocket.config.values import FROM_FILE, FileText, parse_name

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppTable:
    """The table of one app, and the defaults that it inherits."""

    name: str
    site_file: SiteFile
    """The file with the table."""
    own: Mapping[str, Any]
    main: SiteFile
    """The file with `[defaults]`."""
    defaults: Mapping[str, Any]

    @property
    def path(self) -> KeyPath:
        """The path of the table in its file."""
        return ("apps", self.name)

    def merged(self) -> dict[str, Any]:
        """Merge the app's keys with the inherited ones: `env` key by key, other values as a whole.

        A key of the app removes inherited keys that it excludes: `tcp` removes `command`.
        """
        displaced = {inherited for key in self.own for inherited in DISPLACES.get(key, ())}
        merged = {key: value for key, value in self.defaults.items() if key not in displaced} | dict(self.own)
        if isinstance(self.own.get("env"), Mapping) and isinstance(self.defaults.get("env"), Mapping):
            merged["env"] = {**self.defaults["env"], **self.own["env"]}
        return merged

    def given(self) -> dict[str, Any]:
        """Merge the keys, and set `cwd` to the folder of the file if nothing else does."""
        return {"cwd": FileText("", self.site_file.document.folder), **self.merged()}

    def is_inherited(self, path: KeyPath) -> bool:
        """Whether the value at `path`, relative to the app, comes from `[defaults]`."""
        match path:
            case ("env", name, *_) if "env" in self.own and isinstance(self.own["env"], Mapping):
                return name not in self.own["env"] and name in self.defaults.get("env", {})
            case (key, *_):
                return key not in self.own and key in self.defaults
        return False

    def place(self, path: KeyPath, *, at_key: bool = False) -> Place:
        """Find the value at `path`, or the key, in the file that has it."""
        is_inherited = self.is_inherited(path)
        document = self.main.document if is_inherited else self.site_file.document
        full = ("defaults", *path) if is_inherited else (*self.path, *path)
        return document.key_place(full) if at_key else document.value_place(full)

    def report(self, finding: Finding) -> None:
        """Report what is wrong with the app, at the key or value where it was written."""
        place = self.place(finding.path, at_key=finding.is_about_key)
        self.site_file.report_at(place, (*self.path, *finding.path), finding.message, severity=finding.severity)


def parse_defaults(main: SiteFile) -> dict[str, Any]:
    """Check `[defaults]`. Its errors are reported here, once, and not for each app that inherits them."""
    defaults = main.table("defaults") or {}
    _remove_unsettable(main, ("defaults",), defaults)
    if "mount" in defaults:
        main.report(("defaults", "mount"), "applies to a single app (move it to [apps.NAME])", at_key=True)
        del defaults["mount"]
    try:
        App.model_validate({"name": "defaults", **defaults}, context=FROM_FILE)
    except ValidationError as error:
        for finding in describe_errors(App, error, elsewhere={"[server]": file_keys_of(Server)}):
            main.report(("defaults", *finding.path), finding.message, at_key=finding.is_about_key)
    return defaults


def collect_apps(site_files: Iterable[SiteFile], main: SiteFile, defaults: Mapping[str, Any]) -> list[AppTable]:
    """Collect the apps of all files. Reports a second app of the same name."""
    found: dict[str, AppTable] = {}
    for site_file in site_files:
        for name in site_file.table("apps") or {}:
            own = site_file.table("apps", name)
            if own is None:
                continue
            app = AppTable(name=name, site_file=site_file, own=own, main=main, defaults=defaults)
            if name in found:
                first = found[name].place((), at_key=True)
                site_file.report(app.path, f"is defined twice, first at {first} (rename one of the two)", at_key=True)
                continue
            _remove_unsettable(site_file, app.path, own)
            found[name] = app
    return list(found.values())


def parse_app(app: AppTable) -> App | None:
    """Parse an app, or report all its problems and return None."""
    try:
        parse_name(app.name)
    except ValueError as error:
        app.site_file.report(app.path, str(error), at_key=True)
    conflicts = list(find_conflicts(app.name, app.merged()))
    for conflict in conflicts:
        app.report(conflict)
    try:
        parsed = App.model_validate({**app.given(), "name": app.name}, context=FROM_FILE)
    except ValidationError as error:
        for finding in describe_errors(App, error, elsewhere={"[server]": file_keys_of(Server)}):
            is_reported = finding.path == ("name",) or app.is_inherited(finding.path)
            if not is_reported:
                app.site_file.report((*app.path, *finding.path), finding.message, at_key=finding.is_about_key)
        return None
    if conflicts:
        return None
    for warning in find_suspicious(parsed, app.own):
        app.report(replace(warning, severity=Severity.WARNING))
    return parsed


def usable_part(model: type[T], table: Mapping[str, Any]) -> T | None:
    """Parse a table without its invalid keys; None if a required key is among them."""
    try:
        return model.model_validate(table, context=FROM_FILE)
    except ValidationError as error:
        blamed = {details["loc"][0] for details in error.errors(include_url=False) if details["loc"]}
    try:
        return model.model_validate({key: value for key, value in table.items() if key not in blamed}, context=FROM_FILE)
    except ValidationError:
        return None


def usable_app(app: AppTable) -> App | None:
    """Parse an app without its invalid keys, to check the others. Reports nothing; the result may have another name."""
    blamed = {key for conflict in find_conflicts(app.name, app.merged()) for key in conflict.path}
    return usable_part(App, {"name": "app", **{key: value for key, value in app.given().items() if key not in blamed}})


def check_mounts(apps: Iterable[AppTable]) -> None:
    """Report a second app at the root."""
    at_root = [app for app in apps if app.own.get("mount") == "/"]
    for app in at_root[1:]:
        first = at_root[0]
        message = f'"/" is the mount of apps.{first.name} already, at {first.place(("mount",))} (keep one of the two)'
        app.site_file.report((*app.path, "mount"), message)


def _remove_unsettable(site_file: SiteFile, section: KeyPath, table: dict[str, Any]) -> None:
    """Report and remove fields of the model that are not keys of the file."""
    for name in set(keys_of(App)) - set(file_keys_of(App)):
        if name in table:
            site_file.report((*section, name), unknown_key(name, file_keys_of(App), elsewhere={}), at_key=True)
            del table[name]
