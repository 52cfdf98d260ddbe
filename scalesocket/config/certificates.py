"""Loading of a certificate and its key, with errors that name the wrong file, which those of OpenSSL do not."""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from scalesocket.config.model import Tls
from scalesocket.config.validity import Validity, read_validity

FILES: Final[tuple[Literal["certificate"], Literal["key"]]] = ("certificate", "key")


class CertificateError(Exception):
    """Files that cannot be used: which of them is wrong, and why."""

    def __init__(self, blamed: Literal["certificate", "key", "ca"], reason: str) -> None:
        self.blamed = blamed
        """The key of `tls` in the site file."""
        self.reason = reason
        super().__init__(f"{blamed}: {reason}")


@dataclass(frozen=True, slots=True, repr=False)
class Pair:
    """The contents of the two files."""

    certificate: str
    key: str


def find_unreadable(tls: Tls) -> Iterator[CertificateError]:
    """Find which of the two files cannot be read."""
    for name in FILES:
        try:
            _read(name, getattr(tls, name))
        except CertificateError as error:
            yield error


def read_pair(tls: Tls) -> Pair:
    """Read the two files. Raises CertificateError."""
    return Pair(_read("certificate", tls.certificate), _read("key", tls.key))


def load_pair(context: ssl.SSLContext, tls: Tls, pair: Pair | None = None) -> Validity | None:
    """Load a certificate and its key into `context`. Raises CertificateError; never asks for a passphrase.

    `pair`: the contents of the files when another process read them, which are used instead. Returns when the certificate is
    valid; None if only OpenSSL can read it.
    """
    found = pair or read_pair(tls)
    try:
        if pair is None:
            context.load_cert_chain(tls.certificate, tls.key, password="")
        else:
            with _in_memory(pair.certificate) as certificate, _in_memory(pair.key) as key:
                context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:  # ValueError: a key with a passphrase
        raise _blame(found.certificate, found.key, error) from error
    with suppress(ValueError):  # OpenSSL has accepted it, which is what counts
        return read_validity(found.certificate)
    return None


def load_authorities(context: ssl.SSLContext, file: Path) -> None:
    """Load the certificates that sign those of peers into `context`. Raises CertificateError."""
    text = _read("ca", file)
    try:
        context.load_verify_locations(file)
    except OSError as error:
        if "CERTIFICATE-----" in text:
            raise CertificateError("ca", "contains a damaged certificate (copy the file again)") from error
        raise CertificateError("ca", 'contains no certificate (it would begin with "-----BEGIN CERTIFICATE-----")') from error


@contextmanager
def _in_memory(text: str) -> Iterator[str]:
    """Yield the path of a file in memory with this text: OpenSSL reads certificates and keys from files alone."""
    fd = os.memfd_create("scalesocket-tls", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(text.encode("latin-1"))
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _read(name: Literal["certificate", "key", "ca"], file: Path) -> str:
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
