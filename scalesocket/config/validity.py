"""The period for which a certificate is valid, and the text that warns of its end."""

import binascii
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

DAY: Final = 86_400.0
WARN_DAYS: Final = 14.0
"""Days before the end at which warnings begin: Let's Encrypt's clients renew a certificate of 90 days 30 days before it."""
WARN_PART: Final = 0.25
"""The same as a part of a shorter lifetime: clients renew when a third is left."""

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_INTEGER, _SEQUENCE, _VERSION = 0x02, 0x30, 0xA0
_TIMES: Final = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}
"""UTCTime, in which strptime reads the years 69 to 99 as 1969 to 1999, and GeneralizedTime (RFC 5280 4.1.2.5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """From when to when a certificate is valid, in Unix time."""

    begins_at: float
    ends_at: float

    @property
    def warn_from(self) -> float:
        """When warnings of the end begin."""
        return self.ends_at - min(WARN_DAYS * DAY, WARN_PART * (self.ends_at - self.begins_at))

    def warn(self, now: float) -> str | None:
        """Describe an end that is near or past, or a beginning that is still to come; None while all is well."""
        if now < self.begins_at:
            return "is not valid yet"
        if now >= self.ends_at:
            return "has expired"
        if now < self.warn_from:
            return None
        days = math.floor((self.ends_at - now) / DAY)
        return f"expires in {days} day{'' if days == 1 else 's'}" if days else "expires in less than a day"


def show_time(unix_time: float) -> str:
    """Write a time in UTC to the second."""
    return datetime.fromtimestamp(unix_time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_validity(pem: str) -> Validity:
    """Read the validity of the first certificate in a PEM file, which is the server's own. Raises ValueError."""
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("contains no certificate")
    der = binascii.a2b_base64(found[1])
    certificate = _Der(der).enter(_SEQUENCE)
    fields = certificate.enter(_SEQUENCE)  # TBSCertificate (RFC 5280 4.1): version, serialNumber, signature, issuer, validity
    fields.skip(_VERSION, is_optional=True)
    for tag in (_INTEGER, _SEQUENCE, _SEQUENCE):
        fields.skip(tag)
    validity = fields.enter(_SEQUENCE)
    return Validity(begins_at=validity.read_time(), ends_at=validity.read_time())


class _Der:
    """A cursor over the elements of one constructed value (X.690 8.1)."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def enter(self, tag: int) -> "_Der":
        """Read the next element, and return a cursor over its content."""
        return _Der(self._read(tag))

    def skip(self, tag: int, *, is_optional: bool = False) -> None:
        """Skip the next element; if it is optional, only if it has this tag."""
        if not is_optional or self._content[self._at : self._at + 1] == bytes((tag,)):
            self._read(tag)

    def read_time(self) -> float:
        """Read the next element, a time."""
        tag = self._content[self._at] if self._at < len(self._content) else 0
        if tag not in _TIMES:
            raise ValueError("contains a damaged certificate")
        text = self._read(tag).decode("ascii")
        return datetime.strptime(text, _TIMES[tag]).replace(tzinfo=UTC).timestamp()

    def _read(self, tag: int) -> bytes:
        head = self._content[self._at : self._at + 2]
        if len(head) < 2 or head[0] != tag:
            raise ValueError("contains a damaged certificate")
        begin, size = self._at + 2, head[1]
        if size >= 0x80:  # the long form: the number of bytes that hold the length
            begin, width = begin + size - 0x80, size - 0x80
            size = int.from_bytes(self._content[begin - width : begin], "big")
        end = begin + size
        if end > len(self._content):
            raise ValueError("contains a damaged certificate")
        self._at = end
        return self._content[begin:end]
