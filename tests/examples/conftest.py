import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the examples: a site file is served by one server at a time, and tests run side by side."""
    return shutil.copytree(Path(__file__).parents[2] / "examples", tmp_path_factory.mktemp("site") / "examples")
