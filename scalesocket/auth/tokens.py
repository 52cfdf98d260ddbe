"""Opaque tokens of `auth.tokens_file`, of which the file has only the hashes. Parsing is pure."""

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from scalesocket.auth.attempt import Attempt
from scalesocket.auth.denial import BAD_CREDENTIAL, Denial
from scalesocket.auth.identity import WRITER, Identity, Role, roles_of
from scalesocket.auth.jwt import MAX_USER
from scalesocket.errors import ScalesocketError

_HASH: Final = re.compile(r"[0-9A-Fa-f]{64}")
_SEPARATOR: Final = re.compile(r"[,\s]+")
_PREFIX: Final = 8
"""Bytes of a hash that find its entries; the whole is then compared in constant time."""


class LineError(ScalesocketError):
    """A line of a file that cannot be used. The text has its number and the name in it, and nothing secret."""


class TokenEntry(NamedTuple):
    """One line: a token's hash, and who has the token."""

    digest: bytes
    identity: Identity


TokenTable = Mapping[bytes, Sequence[TokenEntry]]
"""Entries by the first bytes of their hashes."""


class TokenVerifier:
    """Verifies opaque tokens of one app."""

    def __init__(self, table: Callable[[], TokenTable]) -> None:
        """`table` returns the current entries."""
        self._table = table

    def verify(self, attempt: Attempt) -> Identity | Denial | None:
        """Decide by the first token."""
        for token in attempt.credentials.tokens:
            return find_token(self._table(), token) or BAD_CREDENTIAL
        return None


def find_token(table: TokenTable, token: str) -> Identity | None:
    """Return the owner of a token; None if it has none."""
    digest = hashlib.sha256(token.encode(errors="surrogateescape")).digest()
    for entry in table.get(digest[:_PREFIX], ()):
        if hmac.compare_digest(entry.digest, digest):
            return entry.identity
    return None


def parse_tokens(text: str) -> TokenTable:
    """Parse lines `NAME:SHA256[:ROOMS[:ROLES]]`. Lists are separated by commas; `#` begins a comment. Raises LineError."""
    table: dict[bytes, list[TokenEntry]] = {}
    known: set[bytes] = set()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        entry = _parse_line(number, [part.strip() for part in line.split(":")])
        if entry.digest in known:
            raise LineError(f"line {number}: the token of {entry.identity.user!r} is in the file twice (delete one of the lines)")
        known.add(entry.digest)
        table.setdefault(entry.digest[:_PREFIX], []).append(entry)
    return table


def _parse_line(number: int, parts: list[str]) -> TokenEntry:
    name, digest, rooms, roles, *rest = [*parts, *[""] * (4 - len(parts))]
    if rest or len(parts) < 2:
        raise LineError(f"line {number}: is not NAME:SHA256[:ROOMS[:ROLES]]")
    check_name(number, name)
    if not _HASH.fullmatch(digest):
        # Without the name: in a line whose parts are swapped, it is the token.
        raise LineError(
            f"line {number}: what follows the name is not a SHA-256 hash in hexadecimal (printf %s TOKEN | sha256sum)"
        )
    names = [role for role in _SEPARATOR.split(roles) if role]
    if unknown := [role for role in names if role not in set(Role)]:
        raise LineError(f"line {number}: unknown role {unknown[0]!r} (one of: {', '.join(Role)})")
    patterns = tuple(room for room in _SEPARATOR.split(rooms) if room)
    for given, found in ((rooms, patterns), (roles, names)):
        if given and not found:
            raise LineError(f"line {number}: has a list without a name in it (leave the part between the colons empty)")
    identity = Identity(user=name, method="token", rooms=patterns or None, roles=roles_of(names) if names else WRITER)
    return TokenEntry(bytes.fromhex(digest), identity)


def check_name(number: int, name: str) -> None:
    """Check the name of a user. Raises LineError."""
    if not name or len(name) > MAX_USER or not name.isprintable():
        raise LineError(f"line {number}: the name must be 1 to {MAX_USER} printable characters")
