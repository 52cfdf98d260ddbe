"""Authorities and certificates of nodes, made with openssl."""

import subprocess
from pathlib import Path
from typing import Final

KEY: Final = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"


def openssl(folder: Path, words: str) -> None:
    subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True)


def make_authority(folder: Path, name: str) -> None:
    """Write NAME.pem and NAME.key."""
    openssl(folder, f"req -x509 {KEY} -subj /CN={name} -keyout {name}.key -out {name}.pem")


def make_certificate(folder: Path, node: str, *, by: str) -> None:
    """Write NODE.pem and NODE.key, new ones at every call, signed by an authority."""
    openssl(folder, f"req {KEY} -subj /CN={node} -keyout {node}.key -out {node}.csr")
    openssl(folder, f"x509 -req -days 2 -in {node}.csr -CA {by}.pem -CAkey {by}.key -CAcreateserial -out {node}.pem")
