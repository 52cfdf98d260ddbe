"""The text of `docs/config.md`, made from the model: every key with its type, default, class and meaning."""

import sys
from collections.abc import Iterator
from typing import Final

from pydantic import BaseModel

from scalesocket.config.keys import Key, file_keys_of, keys_of, table_of
from scalesocket.config.model import App, Cluster, Routes, Server
from scalesocket.config.render import to_toml
from scalesocket.config.schema import Schema, default_of, value_schema
from scalesocket.config.secrets import secret_file_keys
from scalesocket.config.values import RESERVED_APPS

INTRODUCTION: Final = """\
# The site file

<!-- Generated from scalesocket/config/ by `make generate`; edits here are lost. -->

A site file is TOML. It has a `[server]` table, an `[apps.NAME]` table for each app, a `[defaults]` table that all apps
inherit, and `include`, a list of files with more apps. A server that is one of several has a `[cluster]` table. All keys have
defaults, except the target or the folder of an app, and some of `[cluster]`.

```toml
#:schema ../schemas/site.schema.json
[server]
bind = "127.0.0.1:9000"

[apps.chat]
command = ["cat"]
routing = "json"
static = "chat"
```

`scalesocket check site.toml` prints all errors of a file, each with its line and column.

## How values are written

- **Durations** are strings with units, from large to small: `"30s"`, `"250ms"`, `"1h30m"`, `"2d"`. A bare number is an error.
- **Sizes** are strings with a unit: `"64kB"` is 64,000 bytes, `"64KiB"` is 65,536. A bare number is an error.
- **Paths** are relative to the folder of the file that contains them.
- **Lists** of strings may be written as a string if they have one item, except `include`.
- **Variables**: `${NAME}`, `${NAME:-default}` and `${NAME:?message}` are replaced in strings, after parsing. The braces are
  required: `$$` and `$X` stay as they are. `$${` gives a literal `${`. A variable that is not set and has no default is an
  error. Numbers and booleans may be strings with a variable: `max_rooms = "${MAX_ROOMS:-50}"`.

## What an edit does

The **class** of a key says what an edit does to a running site:

- *live*: applies at once, to running rooms too. Lower limits and shorter lists do not disconnect clients.
- *next*: applies to rooms that are opened afterwards. Running rooms keep their settings.
- *listener*: opens new sockets before the old ones are closed. Open connections stay.
- *fixed*: is fixed when the server starts. A file with another value is not applied, and the log says that a restart is needed.
"""

APPS: Final = """
NAME consists of lower-case letters, digits, `-` and `_`, and begins with a letter or digit. Its rooms are at `/NAME/ROOM`.
Reserved names are RESERVED.

An app has one target: `command`, `tcp` or `unix`. An app with `static` and no target has no rooms; websockets to it get 404.

`[defaults]` takes the same keys, except `mount`. The `env` of an app is merged with that of `[defaults]`, key by key. A target
of an app replaces that of `[defaults]`.
""".replace("RESERVED", ", ".join(f"`{name}`" for name in sorted(RESERVED_APPS)))

CLUSTER: Final = """\
Several servers, the nodes, share the rooms of a site: each room is on one of them, whichever its clients connect to. Without
the table, a server is alone. [cluster.md](cluster.md) says how to run them. It needs the extra `cluster`: in a clone,
`pip install '.[cluster]'`.
"""

INCLUDE: Final = """## `include`

`include = ["apps/*.toml"]` at the top of the file reads more apps, in the order of their file names. Included files contain
`[apps.NAME]` tables only and cannot include others. Relative paths in them start from their own folders. Their apps inherit
`[defaults]`. Two apps of the same name are an error.
"""


def render_reference() -> str:
    """Return the whole page."""
    parts = [INTRODUCTION, "## `[server]`\n", *_table(Server), *_inner_tables(Server, "server")]
    parts += ["## `[cluster]`\n", CLUSTER, *_table(Cluster), *_inner_tables(Cluster, "cluster")]
    parts += ["## `[apps.NAME]` and `[defaults]`", APPS, *_table(App), *_inner_tables(App, "apps.NAME"), INCLUDE]
    return "\n".join(parts)


def _table(model: type[BaseModel]) -> Iterator[str]:
    yield "| key | type | default | class | meaning |"
    yield "|---|---|---|---|---|"
    file_keys = {name: file_key for file_key, name in secret_file_keys(model).items()}
    for name in file_keys_of(model):
        key = keys_of(model)[name]
        meaning = key.meaning + (f". Or `{file_keys[name]}`, the path of a file with it" if name in file_keys else "")
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
