"""A site file for the tests of the command line."""

from pathlib import Path

import pytest

from tests.cli.serving import SITE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "site.toml"
    path.write_text(SITE)
    return path
