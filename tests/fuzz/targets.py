"""The fuzz targets by name.

A target takes bytes. It catches the errors that the code declares; any other exception, a hang, and memory without a bound are
findings.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tests.fuzz.auth_targets import fuzz_credentials, fuzz_hook, fuzz_jwt, fuzz_keys, fuzz_tokens, fuzz_users
from tests.fuzz.cluster_targets import fuzz_peers
from tests.fuzz.http_targets import fuzz_range
from tests.fuzz.routing_targets import fuzz_gwsocket_input, fuzz_json_input, fuzz_output, fuzz_template
from tests.fuzz.site_targets import fuzz_site
from tests.fuzz.wire_targets import (
    fuzz_accept,
    fuzz_forwarded,
    fuzz_frames,
    fuzz_head,
    fuzz_inflate,
    fuzz_proxy,
    fuzz_splitter,
)

CORPUS: Final = Path(__file__).parent / "corpus"
"""A folder of inputs for each target: the start of every run, and its findings that were fixed."""

TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "head": fuzz_head,
    "proxy": fuzz_proxy,
    "forwarded": fuzz_forwarded,
    "accept": fuzz_accept,
    "range": fuzz_range,
    "frames": fuzz_frames,
    "inflate": fuzz_inflate,
    "splitter": fuzz_splitter,
    "output": fuzz_output,
    "json_input": fuzz_json_input,
    "gwsocket_input": fuzz_gwsocket_input,
    "template": fuzz_template,
    "site": fuzz_site,
    "credentials": fuzz_credentials,
    "jwt": fuzz_jwt,
    "keys": fuzz_keys,
    "hook": fuzz_hook,
    "tokens": fuzz_tokens,
    "users": fuzz_users,
    "peers": fuzz_peers,
}


def seeds_of(target: str) -> dict[str, bytes]:
    """The inputs of a target's corpus, by the names of their files."""
    return {file.name: file.read_bytes() for file in sorted((CORPUS / target).iterdir())}
