"""Dependencies whose internals are used are bounded, and a version outside the bounds is reported at start."""

import os
import re
from importlib import metadata
from pathlib import Path
from typing import Final

import pytest
import tomli

from scalesocket.server.asgi import create_app
from scalesocket.server.known_versions import KNOWN_VERSIONS, is_known, warn_of_unknown_versions
from tests.cli.serving import serving
from tests.conftest import capture_all_logs

ROOT: Final = Path(__file__).parents[2]


def install_fake(folder: Path, package: str, version: str) -> None:
    """Make a folder on the import path say that this version of a package is installed."""
    info = folder / f"{package}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")


def test_the_versions_of_the_lock_are_known() -> None:
    with capture_all_logs() as events:
        warn_of_unknown_versions()

    assert not events


@pytest.mark.parametrize("package", KNOWN_VERSIONS)
def test_a_newer_version_is_reported_with_what_to_do(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake(tmp_path, package, "99.1")
    monkeypatch.syspath_prepend(tmp_path)

    with capture_all_logs() as events:
        warn_of_unknown_versions()

    (event,) = events
    known = KNOWN_VERSIONS[package]
    assert event["log_level"] == "warning"
    assert (event["package"], event["installed"], event["known"]) == (package, "99.1", known)
    assert f"pip install '{package}{known}'" in event["hint"]


def test_a_package_without_metadata_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", fail)

    with capture_all_logs() as events:
        warn_of_unknown_versions()

    assert {event["installed"] for event in events} == {"unknown"}


def test_an_app_for_a_stock_hypercorn_reports_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake(tmp_path, "h2", "99.1")
    monkeypatch.syspath_prepend(tmp_path)

    with capture_all_logs() as events:
        create_app(str(tmp_path / "site.toml"))

    assert [event["package"] for event in events] == ["h2"]


def test_serve_reports_it_and_serves(tmp_path: Path) -> None:
    install_fake(tmp_path, "hypercorn", "99.1")
    (tmp_path / "site.toml").write_text('server = { bind = "127.0.0.1:0" }\n\n[apps.chat]\ncommand = ["cat"]\n')
    search_path = os.pathsep.join([str(tmp_path), str(ROOT)])

    with serving("serve", str(tmp_path / "site.toml"), environment={"PYTHONPATH": search_path}) as server:
        server.wait_output("dependency not tested in this version")

        assert re.search(r'package=hypercorn installed=99\.1 known=">=0\.\d+,<0\.\d+"', server.output)


@pytest.mark.parametrize(
    ("version", "is_in"),
    [
        ("0.17", True),
        ("0.17.0", True),
        ("0.18.3.post1", True),
        ("0.16.9", False),
        ("0.19", False),
        ("0.19.0b1", False),
        ("1.0", False),
        ("unknown", False),
    ],
)
def test_a_version_is_compared_number_by_number(version: str, is_in: bool) -> None:
    assert is_known(version, ">=0.17,<0.19") is is_in


def test_the_project_requires_the_known_versions() -> None:
    requirements = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]

    assert {name + known for name, known in KNOWN_VERSIONS.items()} <= set(requirements)
