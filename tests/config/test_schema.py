"""The JSON Schema and the reference page are made from the model, and their copies in the repository are current."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scalesocket.config.keys import file_keys_of
from scalesocket.config.model import App, Server
from scalesocket.config.reference import render_reference
from scalesocket.config.schema import render_schema, site_schema

ROOT = Path(__file__).parents[2]


def test_the_checked_in_schema_is_the_generated_one() -> None:
    assert (ROOT / "schemas/site.schema.json").read_text() == render_schema(), "run `make generate`"


def test_the_checked_in_reference_is_the_generated_one() -> None:
    assert (ROOT / "docs/config.md").read_text() == render_reference(), "run `make generate`"


def test_the_reference_names_every_key() -> None:
    page = render_reference()

    assert all(f"| `{name}` |" in page for model in (Server, App) for name in file_keys_of(model))


def schemas(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from schemas(inner)


def test_the_schema_describes_the_forms_of_the_file() -> None:
    properties = site_schema()["properties"]
    app = properties["apps"]["additionalProperties"]["properties"]

    assert app["idle_timeout"]["type"] == "string"
    assert app["idle_timeout"]["default"] == "0s"
    assert app["routing"]["anyOf"][0] == {"enum": ["broadcast", "json", "gwsocket"]}
    assert app["max_rooms"]["anyOf"][0] == {"type": "integer", "minimum": 1}
    assert properties["server"]["properties"]["tls"]["required"] == ["certificate", "key"]
    assert not {"name", "start_delay"} & app.keys()
    assert "mount" not in properties["defaults"]["properties"]


def test_the_schema_has_no_null_references_or_internal_words() -> None:
    text = render_schema()

    assert "null" not in text
    assert "$ref" not in text
    assert "x-form" not in text


def test_every_table_of_the_schema_is_closed_and_every_pattern_compiles() -> None:
    for schema in schemas(json.loads(render_schema())):
        if "properties" in schema and isinstance(schema.get("type"), str):
            assert schema["additionalProperties"] is False
        if isinstance(schema.get("pattern"), str):
            re.compile(schema["pattern"])
