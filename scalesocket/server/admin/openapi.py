"""The description of the admin API in OpenAPI 3.1, made from the table of operations."""

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import msgspec

from scalesocket import __version__
from scalesocket.control.messages import TailEvent
from scalesocket.operations.table import OPERATIONS, STREAMS

SCHEMAS: Final = "#/components/schemas/{name}"
ERRORS: Final[Mapping[str, str]] = {
    "401": "The token is missing or wrong.",
    "403": "A page of another site made the request.",
    "404": "The app, room or client is not there.",
    "409": "The site cannot do it now; for `reload`, the site file has errors.",
    "422": "An argument is wrong.",
    "429": "Too many wrong tokens came from this address; see `Retry-After`.",
}
"""What each status of an error means. The body is `{"error": TEXT}`."""
PAGES: Final[Mapping[str, str]] = {
    "/health": "The process responds.",
    "/ready": "Whether new clients are admitted; the generation, and why the newest edit was not applied.",
    "/metrics": "Metrics for Prometheus.",
    "/api/apps/": "The apps with their counts, and how the last program of each ended.",
    "/api/cluster": "The nodes of the cluster; 422 without `[cluster]`.",
    "/{app}/api/rooms/": "The rooms of an app. Those of the app at the root are at `/api/rooms/`.",
    "/{app}/api/{room}/": "One room; also `connections/` and `metadata/` below it.",
}
"""Paths besides those of the operations: the same as on the public listeners, with nothing left out."""


COMMON: Final[Mapping[str, str]] = {
    "app": "The name of an app.",
    "room": "The name of a room, or a pattern in which `*` stands for any characters.",
    "id": "The id of a client, as `clients` lists it.",
    "text": "The record: one line, as the program would print it.",
}
"""What an argument means whose class does not say it."""


@cache
def describe_api() -> dict[str, Any]:
    """Return the description as plain data."""
    types = [*(operation.arguments for operation in OPERATIONS.values()), *STREAMS.values()]
    results = [*(operation.result for operation in OPERATIONS.values()), TailEvent]
    schemas, components = msgspec.json.schema_components([*types, *results], ref_template=SCHEMAS)
    for component in components.values():
        _correct(component)
    paths: dict[str, Any] = {path: {"get": _page(text, path)} for path, text in PAGES.items()}
    for (name, operation), result in zip(OPERATIONS.items(), schemas[len(types) :], strict=False):
        component = components[operation.arguments.__name__]
        _describe_fields(operation.arguments, component)
        paths[f"/admin/{name}"] = _path(name, operation.arguments, component, result, has_body=operation.changes)
    for name, arguments in STREAMS.items():
        component = components[arguments.__name__]
        _describe_fields(arguments, component)
        paths[f"/admin/{name}"] = _path(name, arguments, component, schemas[-1], media_type="text/event-stream")
    used = {name: schema for name, schema in components.items() if name not in {one.__name__ for one in types}}
    error = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "scalesocket admin API", "version": __version__},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": {**used, "Error": error},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "The token of server.admin"}},
        },
    }


def fields_of(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the schema of the arguments of an operation by name, each with its description."""
    _, components = msgspec.json.schema_components([struct], ref_template=SCHEMAS)
    component = components[struct.__name__]
    _correct(component)
    _describe_fields(struct, component)
    fields: dict[str, Any] = component["properties"]
    return fields


def required_of(struct: type[msgspec.Struct]) -> frozenset[str]:
    """Return the names of the arguments that must be given."""
    return frozenset(field.name for field in msgspec.structs.fields(struct) if field.required)


def summary_of(struct: type[msgspec.Struct]) -> str:
    """Return what an operation does, in one sentence."""
    text = inspect.getdoc(struct) or ""
    return text.split("\n\n")[0].partition(";")[0].rstrip(".") + "."


def _path(
    name: str,
    struct: type[msgspec.Struct],
    arguments: Mapping[str, Any],
    result: Any,
    *,
    has_body: bool = False,
    media_type: str = "application/json",
) -> dict[str, Any]:
    fields, required = arguments["properties"], arguments.get("required", [])
    described: dict[str, Any] = {
        "operationId": name,
        "summary": summary_of(struct),
        "responses": {"200": {"description": "Done.", "content": {media_type: {"schema": result}}}, **_errors()},
    }
    if has_body:
        body = {"type": "object", "properties": fields, "required": required, "additionalProperties": False}
        described["requestBody"] = {"required": bool(required), "content": {"application/json": {"schema": body}}}
        return {"post": described}
    described["parameters"] = [
        {"name": field, "in": "query", "required": field in required, "schema": schema} for field, schema in fields.items()
    ]
    return {"get": described}


def _page(text: str, path: str) -> dict[str, Any]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    return {"summary": text, "parameters": parameters, "responses": {"200": {"description": "Done."}, **_errors()}}


def _errors() -> dict[str, Any]:
    schema = {"application/json": {"schema": {"$ref": SCHEMAS.format(name="Error")}}}
    return {status: {"description": text, "content": schema} for status, text in ERRORS.items()}


def _correct(component: dict[str, Any]) -> None:
    """Remove the tag of requests, which the path replaces; describe bytes as the JSON that they hold."""
    fields = component.get("properties", {})
    if fields.get("command", {}).get("enum"):
        del fields["command"]
        component["required"] = [name for name in component.get("required", []) if name != "command"]
    for name, schema in fields.items():
        if any("contentEncoding" in option for option in (schema, *schema.get("anyOf", ()))):
            fields[name] = {"description": "A JSON object, or null"}


def _describe_fields(struct: type[msgspec.Struct], component: dict[str, Any]) -> None:
    docs = {**COMMON, **_field_docs(struct)}
    for name, schema in component["properties"].items():
        if name in docs:
            component["properties"][name] = {"description": docs[name].replace("None: ", "Without it: "), **schema}


def _field_docs(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Return the strings that follow the fields of a class in its source; none if there is no source."""
    try:
        source = textwrap.dedent(inspect.getsource(struct))
    except OSError:
        return {}
    (made,) = ast.parse(source).body
    assert isinstance(made, ast.ClassDef)
    docs = {}
    for field, text in zip(made.body, made.body[1:], strict=False):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(doc))):
                docs[name] = inspect.cleandoc(doc)
    return docs
