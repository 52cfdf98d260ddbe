"""A site written back as TOML: the effective configuration, secrets masked."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel

from scalesocket.config.keys import file_keys_of
from scalesocket.config.model import App, Routes, Server, Site
from scalesocket.config.parse import Origins
from scalesocket.config.positions import KeyPath
from scalesocket.config.problems import Place, key_text
from scalesocket.config.secrets import mask_secrets

FROM_DEFAULT: Final = "default"


def site_record(site: Site) -> dict[str, Any]:
    """A site as plain data in the file's own forms (`"30s"`, `"1MiB"`), secrets masked; what is not set is left out."""
    return {
        "server": table_record(site.server),
        "apps": {name: table_record(app) for name, app in site.apps.items()},
    }


def table_record(table: Server | App) -> dict[str, Any]:
    """A table as plain data in the file's own forms, secrets masked; what is not set is left out."""
    model = type(table)
    record = table.model_dump(mode="json", include=set(file_keys_of(model)), exclude_none=True)
    if isinstance(table, App):
        record["routing"] = _routing_record(table.routing)
    return mask_secrets(model, record)


def render_site(site: Site, *, origins: Origins | None = None) -> str:
    """A site as TOML. With `origins`, each key is followed by a comment that names where it was written, or `default`."""
    sections: list[tuple[KeyPath, dict[str, Any]]] = [(("server",), table_record(site.server))]
    sections += [(("apps", name), table_record(app)) for name, app in site.apps.items()]
    blocks = []
    for path, record in sections:
        lines = [f"[{key_text(path)}]"]
        lines += [_line(path, key, value, origins) for key, value in record.items()]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def render_table(table: Server | App, *, only_changed: bool = False) -> str:
    """The keys of one table as lines of TOML; `only_changed` leaves out those that have their default."""
    record = table_record(table)
    if only_changed:
        default = table_record(
            Server() if isinstance(table, Server) else App(name=table.name, command=("true",), routing=table.routing)
        )
        default.pop("command", None)
        if isinstance(table, App) and table.routing == Routes():
            default["routing"] = record["routing"]
        else:
            default.pop("routing", None)
        record = {key: value for key, value in record.items() if default.get(key) != value}
    return "".join(f"{key_text((key,))} = {to_toml(value)}\n" for key, value in record.items())


def render_value(value: object) -> str:
    """One value of a model for a line of text, in the file's form where the value alone tells it; `none` for None."""
    if value is None:
        return "none"
    if isinstance(value, Routes):
        return to_toml(_routing_record(value))
    if isinstance(value, BaseModel):
        return to_toml(mask_secrets(type(value), value.model_dump(mode="json", exclude_none=True)))
    return to_toml(value)


def to_toml(value: object) -> str:
    """One value on one line of TOML, tables inline; what TOML has no type for is written as a string."""
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
    # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped, and for surrogate pairs.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _routing_record(routing: Routes) -> str | dict[str, str]:
    if routing.client == routing.server:
        return routing.client.value
    return {"client": routing.client.value, "server": routing.server.value}


def _line(path: KeyPath, key: str, value: object, origins: Origins | None) -> str:
    line = f"{key_text((key,))} = {to_toml(value)}"
    if origins is None:
        return line
    places = list(dict.fromkeys(str(place) for place in _places(origins, (*path, key))))
    return f"{line}  # {', '.join(places) or FROM_DEFAULT}"


def _places(origins: Origins, path: KeyPath) -> Iterator[Place]:
    return (place for known, place in origins.items() if known[: len(path)] == path)
