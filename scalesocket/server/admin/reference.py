"""The text of `docs/admin-api.md`, made from the table of operations."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from scalesocket.operations.table import MAX_TAILS, OPERATIONS, STREAMS
from scalesocket.server.admin.failures import FREE, LIMIT, WINDOW
from scalesocket.server.admin.openapi import ERRORS, PAGES, fields_of, required_of, summary_of
from scalesocket.server.admin.tail import LONGEST

INTRODUCTION: Final = """\
# The admin API

<!-- Generated from scalesocket/operations/ by `make generate`; edits here are lost. -->

The admin API does over HTTP what the [commands for a running site](admin.md) do. It has an address of its own:

```toml
[server]
admin = { bind = "127.0.0.1:9001", token_file = "admin.token" }  # or token = "…"
```

```console
$ openssl rand -hex 32 > admin.token && chmod 600 admin.token
$ curl -H "Authorization: Bearer $(cat admin.token)" http://127.0.0.1:9001/admin/status
$ curl -H "Authorization: Bearer $(cat admin.token)" -X POST -d '{"dry_run": true}' http://127.0.0.1:9001/admin/reload
```

or a unix socket, which only the user of the server can open, and which needs no token:

```toml
admin = { bind = "unix:admin.sock" }
```

```console
$ curl --unix-socket admin.sock http://admin/admin/status
```

- The public listeners never serve it, and it serves nothing else: no pages and no websockets.
- Every request needs the token, probes and metrics included. An edit of the token, or of its file, applies to the next request.
- Without a token, an address other than `unix:…` is an error of the site file. `check` warns of a token with fewer than 16
  characters.
- It has no TLS. Keep it on a loopback address, and reach it through `ssh -L 9001:127.0.0.1:9001 HOST`, or through a proxy that
  ends TLS. `check` warns of other addresses. List such a proxy in `trusted_proxies`, so that wrong tokens count for its clients.
- After FREE wrong tokens from one address in SPAN s, further ones are answered ever later; after LIMIT, the address gets 429
  until SPAN s have passed. The right token is answered at any time, so that nobody locks you out: make it long and random.
- Requests that a browser makes for a page of another site get 403, with or without the token.
- An edit of `bind` opens the new address before the old one is closed.
- It has at most 64 connections, which do not count in `max_connections`. Further ones displace those
  without a request with the token.
- Each change is logged with the address that asked for it.
- In a cluster, operations are about the rooms of all nodes. The field `unreachable` of a result names the nodes that were not
  reached: a change with the status 200 may be incomplete ([admin.md](admin.md#in-a-cluster)).

`GET /api/openapi.json` describes it all for tools, results included.

## Operations

Arguments are in the query of a GET, and in the JSON object in the body of a POST.
"""
STREAM: Final = """\
The response is a stream of server-sent events (`curl -N` shows it): `begin` with the numbers of rooms and clients, a message with
a JSON object for each message that passes, and `end` after the last room, or after LONGEST. At most MAX tails are open at a time.
In a cluster, `begin` also has `unreachable`, the nodes that could not be asked. What passes too fast is left out and counted; a
tail never slows down a room.
"""
READING: Final = """
## Other paths

The same as on the public listeners, with nothing left out: rooms of apps with `listed = false`, and what `metrics = "admin"` and
`api = "admin"` take off the public listeners.
"""


def render_reference() -> str:
    """Return the whole page."""
    limits = {"FREE": FREE, "LIMIT": LIMIT, "SPAN": f"{WINDOW:.0f}"}
    introduction = INTRODUCTION
    for word, value in limits.items():
        introduction = introduction.replace(word, str(value))
    listed = [(name, "POST" if operation.changes else "GET", operation.arguments) for name, operation in OPERATIONS.items()]
    listed += [(name, "GET", arguments) for name, arguments in STREAMS.items()]
    operations = "\n".join(line for each in listed for line in _operation(*each))
    pages = "".join(f"| `{path}` | {text} |\n" for path, text in PAGES.items())
    errors = "".join(f"| {status} | {text} |\n" for status, text in ERRORS.items())
    return (
        f"{introduction}\n{operations}{READING}\n| path | shows |\n|---|---|\n{pages}"
        f'\n## Errors\n\nThe body of an error is `{{"error": TEXT}}`.\n\n| status | meaning |\n|---|---|\n{errors}'
    )


def _operation(name: str, method: str, arguments: type[msgspec.Struct]) -> Iterator[str]:
    yield f"### `{method} /admin/{name}`\n\n{summary_of(arguments)}\n"
    if name in STREAMS:
        yield STREAM.replace("LONGEST", f"{LONGEST / 3600:.0f} h").replace("MAX", str(MAX_TAILS))
    fields, required = fields_of(arguments), required_of(arguments)
    if fields:
        yield "| argument | type | required | meaning |\n|---|---|---|---|"
        for field, schema in fields.items():
            text = " ".join(schema.get("description", "").split())
            yield f"| `{field}` | {_type(schema)} | {'yes' if field in required else 'no'} | {text} |"
        yield ""


def _type(schema: Mapping[str, Any]) -> str:
    """Return the type of an argument in words; null, which stands for an argument that is not given, is left out."""
    options = [option.get("type", "object") for option in schema.get("anyOf", [schema])]
    return " or ".join(option for option in options if option != "null")


if __name__ == "__main__":
    sys.stdout.write(render_reference())
