"""The text of `docs/config.md`, made from the model: every key of the site file with its default, class and meaning."""

import sys
from collections.abc import Iterator
from typing import Final

from pydantic import BaseModel

from scalesocket.config.keys import Key, file_keys_of, keys_of, table_of
from scalesocket.config.model import App, Routes, Server
from scalesocket.config.render import to_toml
from scalesocket.config.schema import Schema, default_of, value_schema
from scalesocket.config.secrets import secret_file_keys
from scalesocket.config.values import RESERVED_APPS

INTRODUCTION: Final = """\
# The site file

<!-- Generated from scalesocket/config/ by `make generate`; edits here are lost. -->

A site file is TOML. It has a `[server]` table, an `[apps.NAME]` table for each app, a `[defaults]` table that every app
inherits, and `include`, a list of files with more apps. Every key but an app's target or folder has a default.

```toml
#:schema ../schemas/site.schema.json
[server]
bind = "127.0.0.1:9000"

[apps.chat]
command = ["cat"]
routing = "json"
static = "chat"
```

`scalesocket check site.toml` finds everything that is wrong with a file at once, each error with its line and column.

## How values are written

- **Durations** are strings with units, from large to small: `"30s"`, `"250ms"`, `"1h30m"`, `"2d"`.
- **Sizes** are strings with a unit: `"64kB"` is 64,000 bytes, `"64KiB"` is 65,536. A bare number is an error in both.
- **Paths** are relative to the folder of the file they stand in.
- **Lists** of strings may be a single string where there is one item; `include` is always an array.
- **Variables**: `${NAME}`, `${NAME:-default}` and `${NAME:?message}` are replaced inside string values, after parsing.
  The braces are needed; `$${` gives a literal `${`; `$$` and `$X` are left alone. A variable that is not set and has no
  default is an error. A number or boolean may be a string that holds a variable: `max_rooms = "${MAX_ROOMS:-50}"`.

## What an edit does

The **class** of a key says what an edit to it does to a running site:

- *live*: applies at once, to running rooms too. Lowered limits and shorter lists never put anyone out.
- *next*: applies to rooms opened from then on; running rooms keep what they were opened with.
- *listener*: new sockets are opened before the old ones close; open connections stay.
"""

APPS: Final = """
NAME is lower-case letters, digits, `-` and `_`, first a letter or digit; rooms are at `/NAME/ROOM`. Reserved are
RESERVED. Each app has one target: `command`, `tcp` or `unix`. An app with `static` and no target, its own or inherited, is
pages alone: it has no rooms, and websockets to it are answered with 404. `[defaults]` takes the same keys but `mount`; an
app's `env` is merged with the inherited one key by key, and a target of its own displaces an inherited one.
""".replace("RESERVED", ", ".join(f"`{name}`" for name in sorted(RESERVED_APPS)))

INCLUDE: Final = """## `include`

`include = ["apps/*.toml"]` at the top of the file reads more apps, in the order of their names. Included files hold
`[apps.NAME]` tables alone and include nothing further; their relative paths start from their own folders. They inherit
`[defaults]`; a name that two files use is an error.
"""


def render_reference() -> str:
    """The whole page."""
    parts = [INTRODUCTION, "## `[server]`\n", *_table(Server), *_inner_tables(Server, "server")]
    parts += ["## `[apps.NAME]` and `[defaults]`", APPS, *_table(App), *_inner_tables(App, "apps.NAME"), INCLUDE]
    return "\n".join(parts)


def _table(model: type[BaseModel]) -> Iterator[str]:
    yield "| key | type | default | class | meaning |"
    yield "|---|---|---|---|---|"
    file_keys = {name: file_key for file_key, name in secret_file_keys(model).items()}
    for name in file_keys_of(model):
        key = keys_of(model)[name]
        meaning = key.meaning + (f"; or `{file_keys[name]}`, the path of a file that holds it" if name in file_keys else "")
        cells = (
            f"`{name}`",
            _form(model, name),
            _default(model, name, key),
            key.reload,
            meaning + (" (secret)" if key.is_secret else ""),
        )
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def _inner_tables(model: type[BaseModel], section: str) -> Iterator[str]:
    for name in file_keys_of(model):
        inner = table_of(model, name)
        if inner is not None:
            yield f"### `{section}.{name}`\n"
            yield from _table(inner)


def _default(model: type[BaseModel], name: str, key: Key) -> str:
    if key.default is not None:
        return key.default
    if model.model_fields[name].is_required():
        return "required"
    default = default_of(model, name)
    return "none" if default is None else f"`{to_toml(default)}`"


def _form(model: type[BaseModel], name: str) -> str:
    inner = table_of(model, name)
    if inner is not None:
        return "word or table" if inner is Routes else "table"
    return _form_of(value_schema(model, name))


def _form_of(schema: Schema) -> str:
    if "enum" in schema:
        return ", ".join(f'`"{word}"`' for word in schema["enum"])
    if schema.get("type") == "integer":
        return "whole number"
    if schema.get("type") == "object":
        return "table of strings"
    return str(schema.get("x-form", schema.get("type")))


if __name__ == "__main__":
    sys.stdout.write(render_reference())
