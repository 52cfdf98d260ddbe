"""The Markdown pages: links and anchors resolve, modules that they name exist, and their words are plain."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md"), *ROOT.glob(".github/**/*.md")]
)
FENCED: Final = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
LINK: Final = re.compile(r"\]\((?!https?://)([^)#]*)(?:#([^)]+))?\)")
HEADING: Final = re.compile(r"^#+ (.+)$", re.MULTILINE)
MODULE: Final = re.compile(r"`((?:\w+/)+\w+\.(?:py|c))`")
OBSCURE: Final = re.compile(
    r"\b(?:is|are|was|were) told\b|\bwhoever\b|\bwho comes\b|\bcrowds?\b|\bh(?:o|e)lds? up\b|\bturns? of the loop\b"
    r"|\bnewcomers?\b|\bhears?\b|\bdear\b",
    re.IGNORECASE,
)
"""Words that have a plainer term: notified, burst, block, event-loop iteration, new client, receive, expensive."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def find_anchors(page: Path) -> Iterator[str]:
    """Yield the anchors that GitHub gives the headings of a page."""
    for heading in HEADING.findall(FENCED.sub("", page.read_text())):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for path, anchor in LINK.findall(FENCED.sub("", page.read_text())):
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in find_anchors(target)):
            broken.append(f"{path}#{anchor}")

    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_module_that_a_page_names_exists(page: Path) -> None:
    places = (ROOT / "scalesocket", ROOT)

    missing = [name for name in MODULE.findall(page.read_text()) if not any((place / name).exists() for place in places)]

    assert not missing


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "config.md"], ids=name_of)
def test_pages_use_standard_terms(page: Path) -> None:
    text = FENCED.sub("", page.read_text())

    obscure = [line for line in text.splitlines() if OBSCURE.search(line)]

    assert not obscure
