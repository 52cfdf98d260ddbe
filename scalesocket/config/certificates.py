"""Loading of a certificate and its key, with errors that name the wrong file, which those of OpenSSL do not."""

import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from scalesocket.config.model import Tls
from scalesocket.config.validity import Validity, read_validity

FILES: Final[tuple[Literal["certificate"], Literal["key"]]] = ("certificate", "key")


class CertificateError(Exception):
    """A pair that cannot be used: which of the two files is wrong, and why."""

    def __init__(self, blamed: Literal["certificate", "key"], reason: str) -> None:
        self.blamed = blamed
        """The key of `tls` in the site file."""
        self.reason = reason
        super().__init__(f"{blamed}: {reason}")


def find_unreadable(tls: Tls) -> Iterator[CertificateError]:
    """Find which of the two files cannot be read."""
    for name in FILES:
        try:
            _read(name, getattr(tls, name))
        except CertificateError as error:
            yield error


def load_pair(context: ssl.SSLContext, tls: Tls) -> Validity | None:
    """Load a certificate and its key into `context`. Raises CertificateError; never asks for a passphrase.

    Returns when the certificate is valid; None if only OpenSSL can read it.
    """
    certificate = _read("certificate", tls.certificate)
    key = _read("key", tls.key)
    try:
        context.load_cert_chain(tls.certificate, tls.key, password="")
    except (OSError, ValueError) as error:  # ValueError: a key with a passphrase
        raise _blame(certificate, key, error) from error
    with suppress(ValueError):  # OpenSSL has accepted it, which is what counts
        return read_validity(certificate)
    return None


def _read(name: Literal["certificate", "key"], file: Path) -> str:
    try:
        return file.read_text(encoding="latin-1")
    except OSError as error:
        raise CertificateError(name, f"cannot be read: {(error.strerror or str(error)).lower()}") from error


def _blame(certificate: str, key: str, error: Exception) -> CertificateError:
    """Find the wrong file and the reason, which the error of OpenSSL does not name."""
    if "-----BEGIN CERTIFICATE-----" not in certificate:
        if "PRIVATE KEY-----" in certificate:
            return CertificateError("certificate", "contains a key, not a certificate (are the two files swapped?)")
        return CertificateError("certificate", 'contains no certificate (it would begin with "-----BEGIN CERTIFICATE-----")')
    if not _is_whole(certificate):
        return CertificateError("certificate", "contains a damaged certificate (copy the file again)")
    if "PRIVATE KEY-----" not in key:
        if "-----BEGIN CERTIFICATE-----" in key:
            return CertificateError("key", "contains a certificate, not a key (are the two files swapped?)")
        return CertificateError("key", 'contains no private key (it would begin with "-----BEGIN PRIVATE KEY-----")')
    if "ENCRYPTED" in key:
        return CertificateError("key", "has a passphrase (remove it: openssl pkey -in OLD -out NEW)")
    reason = getattr(error, "reason", None) or str(error)
    if "MISMATCH" in reason:
        return CertificateError("key", "does not belong to the certificate (use the key that the certificate was made for)")
    if "TOO_SMALL" in reason or "TOO_WEAK" in reason:
        return CertificateError("certificate", "is too weak for this machine's OpenSSL settings (use a longer key)")
    return CertificateError("key", "contains a damaged key (copy the file again)")


def _is_whole(certificate: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificate)
    except (ssl.SSLError, ValueError):
        return False
    return True
