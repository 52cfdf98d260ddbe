"""The JSON Schema of site files, made from the model, for editors, for example those that use Taplo.

It describes the file, not the model: durations and sizes are strings with units, there is no null, and the name of an app is
the key of its table. It is written as draft 7 without references, which every editor supports.
"""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from pydantic import BaseModel

from scalesocket.config.keys import Key, Reload, file_keys_of, keys_of, table_of
from scalesocket.config.model import App, Cluster, Routes, Routing, Server
from scalesocket.config.secrets import secret_file_keys
from scalesocket.config.values import APP_NAME, RESERVED_APPS

TITLE: Final = "scalesocket site file"
EFFECTS: Final[Mapping[Reload, str]] = {
    Reload.LIVE: "An edit applies at once.",
    Reload.NEXT: "An edit applies to rooms that are opened afterwards.",
    Reload.LISTENER: "An edit opens new sockets before the old ones are closed.",
    Reload.FIXED: "An edit is refused: restart the server.",
}

NULL: Final = {"type": "null"}
VARIABLE: Final = r"\$\{"
"""Matches a string with a variable."""

Schema = dict[str, Any]


def site_schema() -> Schema:
    """Return the whole schema as plain data."""
    apps = {
        "type": "object",
        "description": "The apps by name; NAME is served at /NAME/ROOM.",
        "propertyNames": {"pattern": f"^{APP_NAME.pattern}$", "not": {"enum": sorted(RESERVED_APPS)}},
        "additionalProperties": table_schema(App),
    }
    defaults = table_schema(App)
    del defaults["properties"]["mount"]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": TITLE,
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "include": {
                "type": "array",
                "items": {"type": "string"},
                "description": "Files with more apps, relative to this one; patterns such as apps/*.toml.",
            },
            "server": table_schema(Server),
            "cluster": table_schema(Cluster) | {"description": "Several servers, on one machine or many, that share the rooms."},
            "defaults": defaults | {"description": "Defaults that every app inherits."},
            "apps": apps,
        },
    }


def render_schema() -> str:
    """Return the text of `schemas/site.schema.json`."""
    return json.dumps(site_schema(), indent=2, ensure_ascii=False) + "\n"


def table_schema(model: type[BaseModel]) -> Schema:
    """Return the schema of one table."""
    properties = {}
    for name in file_keys_of(model):
        schema = _or_variable(value_schema(model, name))
        default = default_of(model, name)
        if default is not None:
            schema["default"] = default
        properties[name] = {"description": _description(keys_of(model)[name])} | schema
    for file_key, name in secret_file_keys(model).items():
        properties[file_key] = {"type": "string", "description": f"Path of a file with the value of `{name}`."}
    required = [name for name in file_keys_of(model) if model.model_fields[name].is_required()]
    schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return schema | {"required": required} if required else schema


def value_schema(model: type[BaseModel], name: str) -> Schema:
    """Return the schema of a key's value, without the forms with `${NAME}`. `x-form` says what a string contains."""
    inner = table_of(model, name)
    if inner is Routes:
        return {"anyOf": [{"enum": [routing.value for routing in Routing]}, table_schema(Routes)]}
    if inner is not None:
        return table_schema(inner)
    if model is Routes:
        return {"enum": [routing.value for routing in Routing]}
    schema: Schema = dict(_generated_schema(model)["properties"][name])
    options = schema.get("anyOf", [])
    if NULL in options:  # TOML has no null
        schema = next(option for option in options if option != NULL)
    return {word: value for word, value in schema.items() if word not in ("title", "default")}


@cache
def _generated_schema(model: type[BaseModel]) -> Schema:
    """Return the schema that pydantic generates, which takes 5 ms for a large table."""
    return model.model_json_schema()


def default_of(model: type[BaseModel], name: str) -> Any:
    """Return the default of a key in the form of the file; None without a default, and if it depends on other keys."""
    field = model.model_fields[name]
    if field.is_required() or field.default is None or field.default_factory is not None:
        return None
    default = model.model_construct(name="app").model_dump(mode="json", include={name})[name]
    return "broadcast" if field.default == Routes() else default


def _or_variable(schema: Schema) -> Schema:
    """Allow a string with `${NAME}` where the parser does."""
    schema = {word: value for word, value in schema.items() if word != "x-form"}
    if "pattern" in schema:
        return schema | {"pattern": f"{schema['pattern']}|{VARIABLE}"}
    if "enum" in schema or schema.get("type") in ("boolean", "integer", "number"):
        return {"anyOf": [schema, {"type": "string", "pattern": VARIABLE}]}
    if "anyOf" in schema and "enum" in schema["anyOf"][0]:
        options = [
            option | {"items": _or_variable(option["items"])} if "items" in option else option for option in schema["anyOf"]
        ]
        return {"anyOf": [*options, {"type": "string", "pattern": VARIABLE}]}
    return schema


def _description(key: Key) -> str:
    default = f" Default: {key.default}." if key.default else ""
    return f"{key.meaning}.{default} {EFFECTS[key.reload]}"
