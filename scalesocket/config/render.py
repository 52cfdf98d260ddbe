"""The effective configuration as TOML, with secrets masked."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from scalesocket.config.keys import file_keys_of
from scalesocket.config.model import App, Cluster, Routes, Server, Site
from scalesocket.config.parse import Origins
from scalesocket.config.positions import KeyPath
from scalesocket.config.problems import Place, key_text, quote
from scalesocket.config.secrets import mask_secrets, mask_variables

AnyTable = Server | Cluster | App
FROM_DEFAULT: Final = "default"
ANOTHER: Final = "(another)"
"""Follows a masked value that differs from the one it is compared with."""


def site_record(site: Site) -> dict[str, Any]:
    """Return a site as plain data in the forms of the file (`"30s"`, `"1MiB"`), with secrets masked and without unset keys."""
    return {
        "server": table_record(site.server),
        **({} if site.cluster is None else {"cluster": table_record(site.cluster)}),
        "apps": {name: table_record(app) for name, app in site.apps.items()},
    }


def table_record(table: AnyTable) -> dict[str, Any]:
    """Return a table as plain data in the forms of the file, with secrets masked and without unset keys."""
    return _masked(table, _plain_record(table))


def changed_records(old: AnyTable, new: AnyTable) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return two tables as `table_record` does. Values that differ, but look alike when masked, are shown as different."""
    plain_old, plain_new = _plain_record(old), _plain_record(new)
    masked = _masked(old, plain_old)
    return masked, _mark_others(masked, _masked(new, plain_new), plain_old, plain_new)


def _mark_others(
    old: Mapping[str, Any], new: Mapping[str, Any], plain_old: Mapping[str, Any], plain_new: Mapping[str, Any]
) -> dict[str, Any]:
    marked = dict(new)
    for key, value in new.items():
        if key not in old or plain_old[key] == plain_new[key]:
            continue
        if isinstance(value, Mapping) and isinstance(old[key], Mapping):
            marked[key] = _mark_others(old[key], value, plain_old[key], plain_new[key])
        elif value == old[key]:
            marked[key] = f"{value} {ANOTHER}"
    return marked


def _plain_record(table: AnyTable) -> dict[str, Any]:
    """Return a table with its secrets."""
    model = type(table)
    record: dict[str, Any] = table.model_dump(mode="json", include=set(file_keys_of(model)))
    if isinstance(table, App):
        record["routing"] = _routing_record(table.routing)
        record["join_message"] = table.join_message or ""
        record["leave_message"] = table.leave_message or ""
        record["env"] = dict(table.env)
    return _without_none(record)


def _masked(table: AnyTable, record: dict[str, Any]) -> dict[str, Any]:
    variables = {"env": mask_variables(record["env"])} if "env" in record else {}
    return mask_secrets(type(table), record | variables)


def render_site(site: Site, *, origins: Origins | None = None, app: str | None = None) -> str:
    """Write a site, or one app of it, as TOML. With `origins`, a comment says where each value was written, or `default`."""
    tables: list[tuple[KeyPath, AnyTable]] = [(("server",), site.server)] if app is None else []
    tables += [(("cluster",), site.cluster)] if app is None and site.cluster is not None else []
    tables += [(("apps", name), table) for name, table in site.apps.items() if app in (None, name)]
    blocks = []
    for path, table in tables:
        lines = [f"[{key_text(path)}]"]
        lines += [_line(path, key, value, origins) for key, value in table_record(table).items()]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def render_table(table: Server | App, *, only_changed: bool = False) -> str:
    """Write the keys of one table as lines of TOML; `only_changed` omits those that have their default.

    Values that the file cannot express (`max_rooms=None`) are omitted as well.
    """
    record = table_record(table)
    if only_changed:
        defaults = _default_record(table)
        record = {key: value for key, value in record.items() if key not in defaults or defaults[key] != value}
    return "".join(f"{key_text((key,))} = {to_site_toml(value)}\n" for key, value in record.items())


def to_site_toml(value: object) -> str:
    """Write one value for a site file: as `to_toml`, with `${` escaped as `$${` in its strings."""
    return to_toml(_escaped(value))


def to_toml(value: object) -> str:
    """Write one value on one line of TOML, with inline tables. Values of other types are written as strings."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case Mapping():
            inner = ", ".join(f"{key_text((str(key),))} = {to_toml(item)}" for key, item in value.items())
            return f"{{ {inner} }}" if inner else "{}"
        case list() | tuple():
            return f"[{', '.join(to_toml(item) for item in value)}]"
    return quote(str(value))


def _escaped(value: object) -> object:
    match value:
        case str() | Path():
            return str(value).replace("${", "$${")
        case Mapping():
            return {key: _escaped(item) for key, item in value.items()}
        case list() | tuple():
            return [_escaped(item) for item in value]
    return value


def _default_record(table: Server | App) -> dict[str, Any]:
    if isinstance(table, Server):
        return table_record(Server())
    app = App(name=table.name, command=("true",), routing=table.routing)  # the default of join_message depends on it
    record = table_record(app) | {"routing": _routing_record(Routes())}
    del record["command"]
    return record


def _without_none(record: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in record.items() if value is not None}
    return {key: _without_none(value) if isinstance(value, dict) else value for key, value in kept.items()}


def _routing_record(routing: Routes) -> str | dict[str, str]:
    if routing.client == routing.server:
        return routing.client.value
    return {"client": routing.client.value, "server": routing.server.value}


def _line(path: KeyPath, key: str, value: object, origins: Origins | None) -> str:
    line = f"{key_text((key,))} = {to_site_toml(value)}"
    if origins is None:
        return line
    places = list(dict.fromkeys(str(place) for place in _places(origins, (*path, key))))
    return f"{line}  # {', '.join(places) or FROM_DEFAULT}"


def _places(origins: Origins, path: KeyPath) -> Iterator[Place]:
    return (place for known, place in origins.items() if known[: len(path)] == path)
