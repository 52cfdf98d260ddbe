"""The map of the package in its docstring."""

import ast
import re
from pathlib import Path

from scalesocket import config

FOLDER = Path(config.__file__).parent
ROWS = re.findall(r"^    (\w+(?:, \w+)*)  ", config.__doc__ or "", re.MULTILINE)
MODULES = [name for row in ROWS for name in row.split(", ")]


def imports_of(module: str) -> set[str]:
    """The modules of this package that a module imports."""
    nodes = ast.walk(ast.parse((FOLDER / f"{module}.py").read_text()))
    names = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.removeprefix("scalesocket.config.") for name in names if name.startswith("scalesocket.config.")}


def test_the_map_lists_every_module_once() -> None:
    assert sorted(MODULES) == sorted(file.stem for file in FOLDER.glob("*.py") if file.stem != "__init__")


def test_each_module_imports_only_from_modules_before_it_in_the_map() -> None:
    wrong = {(module, other) for at, module in enumerate(MODULES) for other in imports_of(module) if other not in MODULES[:at]}

    assert not wrong
