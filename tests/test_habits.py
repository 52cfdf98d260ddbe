"""The same commands and versions stand in the Makefile, in CONTRIBUTING.md, in pre-commit's file and in the workflow of CI."""

import ast
import re
from pathlib import Path
from typing import Any, Final

import pytest
import tomli

ROOT: Final = Path(__file__).parents[1]
MAKEFILE: Final = (ROOT / "Makefile").read_text()
CONTRIBUTING: Final = (ROOT / "CONTRIBUTING.md").read_text()
PROJECT: Final[dict[str, Any]] = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS: Final = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))


def commands_of(target: str) -> list[str]:
    """The commands of a target of the Makefile that run in .venv."""
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert recipe is not None
    return re.findall(r"^\t\$\(RUN\) (.+)$", recipe[1], re.MULTILINE)


def test_a_commit_is_checked_by_the_commands_of_make_check() -> None:
    hooks = re.findall(r"^ +entry: \.venv/bin/(.+)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.MULTILINE)

    assert hooks == commands_of("check")


def test_contributing_names_the_commands_of_make_check() -> None:
    row = next(line for line in CONTRIBUTING.splitlines() if line.startswith("| `make check` |"))

    assert re.findall(r"`([^`]+)`", row)[1:] == commands_of("check")


@pytest.mark.parametrize("text", [CONTRIBUTING, (ROOT / "README.md").read_text()], ids=["CONTRIBUTING", "README"])
def test_every_make_command_that_is_named_is_a_target(text: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))

    assert set(re.findall(r"(?:`|\$ )make ([\w-]+)", text)) <= targets


def test_help_lists_every_target() -> None:
    (targets,) = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)

    assert set(targets.split()) == {"help", *re.findall(r'@echo "make ([\w-]+) ', MAKEFILE)}


def test_the_test_that_contributing_quotes_is_one() -> None:
    (quoted,) = [code for code in re.findall(r"```python\n(.*?)```", CONTRIBUTING, re.DOTALL) if "def test_" in code]
    (file,) = re.findall(r"This one is from `(tests/\S+)`", CONTRIBUTING)

    assert quoted in (ROOT / file).read_text()


def test_every_file_that_contributing_names_exists() -> None:
    named = re.findall(r"`((?:tests|scalesocket|examples|docs)/[\w/.-]*)`", CONTRIBUTING)

    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_workflow_runs_every_supported_python() -> None:
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    (matrix,) = re.findall(r"python: (\[.+\])", workflow)

    assert ast.literal_eval(matrix) == PYTHONS
    assert f">={PYTHONS[0]}" == PROJECT["requires-python"]


def test_the_tests_for_other_pythons_exist() -> None:
    script = ast.parse((ROOT / ".ci/pythons.py").read_text())
    (tests,) = [
        ast.literal_eval(node.value)
        for node in script.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "TESTS" and node.value
    ]

    for test in tests:
        file, _, name = test.partition("::")
        assert (ROOT / file).exists()
        assert name in ((ROOT / file).read_text() if name else "")


def test_what_the_source_archive_includes_exists() -> None:
    included = tomli.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]

    assert [path for path in included if not (ROOT / path.lstrip("/")).exists()] == []


def test_every_folder_of_tests_is_a_package() -> None:
    # pytest refuses two files of the same name otherwise.
    folders = {file.parent for file in (ROOT / "tests").glob("**/test_*.py")}

    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []
