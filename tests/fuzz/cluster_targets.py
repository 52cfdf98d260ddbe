"""Fuzz targets: what nodes of a cluster send each other."""

from contextlib import suppress

from scalesocket.cluster.handed import decode_handed, encode_handed
from scalesocket.cluster.preamble import HEAD_SIZE, NONCE_SIZE, Answer, PreambleError, check_head, parse_greeting, parse_head


def fuzz_peers(data: bytes) -> None:
    """Greetings, heads and payloads of strangers: nothing but the right signature is let in."""
    with suppress(PreambleError):
        assert len(parse_greeting(data)) == NONCE_SIZE
    if len(data) >= HEAD_SIZE:
        head = parse_head(data[:HEAD_SIZE])
        assert check_head(head, b"secret", bytes(NONCE_SIZE)) is Answer.WRONG_SIGNATURE
        head.is_of(data[HEAD_SIZE:])
    handed = decode_handed(data)
    if handed is not None:
        assert handed.facts.generation == 0
        if handed.facts.who is not None:
            with suppress(UnicodeDecodeError):  # its sender has signed it
                handed.facts.who.identity()
        encoded = encode_handed(handed)
        again = decode_handed(encoded)
        assert again is not None
        assert encode_handed(again) == encoded
