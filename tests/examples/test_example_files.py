"""The example site files load, and all pages have the same shared files."""

import filecmp
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from scalesocket.config.keys import file_keys_of
from scalesocket.config.load import load_site
from scalesocket.config.model import App, Server

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
FILES: Final = sorted(EXAMPLES.glob("*.toml"))
PAGES: Final = sorted(EXAMPLES.glob("*/page"))
TEMPLATES: Final = EXAMPLES.parent / "scalesocket/cli/templates"
SHARED: Final = sorted((EXAMPLES / "shared").iterdir())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_example_loads(file: Path) -> None:
    site = load_site(file)

    assert site.apps


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_example_passes_the_check(file: Path) -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "scalesocket", "check", str(file)], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_program_and_folder_of_an_example_exists(file: Path) -> None:
    for app in load_site(file).apps.values():
        scripts = [app.cwd / word for word in app.command or () if word.endswith((".py", ".sh"))]
        folders = [app.static] if app.static is not None else []
        for path in (*scripts, *folders):
            assert path.exists()


def test_the_options_example_names_every_key() -> None:
    text = (EXAMPLES / "options.toml").read_text()
    keys = (*file_keys_of(Server), *file_keys_of(App))

    missing = [key for key in keys if f"{key} =" not in text]

    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_every_page_folder_has_the_shared_files(page: Path) -> None:
    for shared in SHARED:
        copy = page / shared.name
        if copy.exists():
            assert filecmp.cmp(shared, copy, shallow=False), f"{copy} differs from {shared}: make generate"


def test_the_templates_of_init_have_the_shared_files() -> None:
    same, different, missing = filecmp.cmpfiles(
        EXAMPLES / "shared", TEMPLATES / "shared", [file.name for file in SHARED], shallow=False
    )

    assert (len(same), different, missing) == (len(SHARED), [], []), "make generate"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_no_page_loads_files_from_other_sites(page: Path) -> None:
    text = (page / "index.html").read_text()

    assert 'src="http' not in text
    assert 'href="http' not in text
    assert "url(http" not in text
