"""The structure of the package, as the documentation says it is."""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

import pytest
import tomli

from scalesocket.config.load import load_site
from scalesocket.errors import CloseCode

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = ROOT / "scalesocket"
MODULES: Final = sorted(PACKAGE.rglob("*.py"))

TESTS: Final = sorted((ROOT / "tests").rglob("test_*.py"))
ASSERTING: Final = {
    *("hear", "hear_nothing", "hear_until", "until", "wait_output", "wait_no_rooms", "wait_no_connections", "wait_applied"),
    *("run_bounded", "run_hypothesis"),
}
"""The functions beside the tests that fail a test. A function in a test's own file counts if it asserts."""
LIBRARIES_ASSERTING: Final = {"raises", "warns", "fail", "expect"}
"""Those of pytest and playwright."""

TREE: Final = re.compile(r"^  (\w+)(?:\.py|/) +(\d)  ", re.MULTILINE)
LAYERS: Final = {name: int(number) for name, number in TREE.findall((ROOT / "docs" / "architecture.md").read_text())}

READS_THE_MACHINE: Final = {
    "config/certificates.py",
    "config/command_hints.py",
    "config/machine.py",
    "config/programs.py",
    "config/load.py",
    "config/secrets.py",
}
"""Where the folder of pure code looks outside: the file asked for, whether what it names is there, who may read a secret."""
INPUT_AND_OUTPUT: Final = {
    *("asyncio", "anyio", "socket", "selectors", "ssl", "subprocess", "multiprocessing", "threading"),
    *("os", "io", "glob", "shutil", "tempfile", "time", "random", "http", "logging", "structlog", "watchfiles"),
}
MAX_LINES: Final = 300
CALLS: Final = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "exists", "stat", "is_file", "is_dir", "print"}


def part_of(module: Path) -> str:
    """The folder or the file right under the package."""
    first = module.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


@cache
def tree_of(module: Path) -> ast.Module:
    return ast.parse(module.read_text())


@cache
def imports_of(module: Path) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            names.add(node.module or "")
    return frozenset(names)


def imports_of_ours(module: Path) -> set[str]:
    return {name for name in imports_of(module) if name.startswith("scalesocket.")}


def modules_of(*parts: str) -> list[Path]:
    return [module for module in MODULES if part_of(module) in parts]


def named(module: Path) -> str:
    return str(module.relative_to(PACKAGE))


def test_the_architecture_names_every_part_of_the_package() -> None:
    parts = {part_of(module) for module in MODULES} - {"__init__", "__main__"}

    assert parts == set(LAYERS)


def test_imports_point_down_the_layers() -> None:
    arrows = {(named(module), part_of(module), name) for module in modules_of(*LAYERS) for name in imports_of_ours(module)}
    upward = {
        f"{module} ({LAYERS[part]}) imports {name} ({LAYERS[other]})"
        for module, part, name in arrows
        if (other := name.split(".")[1]) != part and LAYERS[other] > LAYERS[part]
    }

    assert arrows
    assert upward == set()


def test_no_two_parts_of_the_package_import_each_other() -> None:
    arrows = {(part_of(module), name.split(".")[1]) for module in MODULES for name in imports_of_ours(module)}

    assert {(one, other) for one, other in arrows if one < other and (other, one) in arrows} == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports for type checkers alone count as well."""
    names = {dotted(module): module for module in MODULES}
    arrows = {name: {target for target in import_targets(module) if target in names} for name, module in names.items()}

    assert find_circle(arrows) == []


@pytest.mark.parametrize("module", modules_of("rooms"), ids=named)
def test_rooms_reach_clients_through_the_ports_of_the_edge(module: Path) -> None:
    edge = {name for name in imports_of(module) if name.startswith("scalesocket.edge.")}
    allowed = {"scalesocket.edge.ports"}
    if module.name == "pool.py":  # makes the audiences, and adds clients to them
        allowed = {"scalesocket.edge.audience", "scalesocket.edge.client"}

    assert edge <= allowed


@pytest.mark.parametrize("module", modules_of("edge"), ids=named)
def test_the_edge_knows_nothing_of_rooms(module: Path) -> None:
    assert not {name for name in imports_of(module) if name.startswith("scalesocket.rooms")}


def dotted(module: Path) -> str:
    """`scalesocket.rooms.room`; a package has the name of its folder."""
    return ".".join(module.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def import_targets(module: Path) -> Iterator[str]:
    """What a module imports; of `from package import name` both, as the name may be a module."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            targets = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from targets
            yield node.module or ""


def find_circle(arrows: dict[str, set[str]]) -> list[str]:
    """A list of names of which each has an arrow to the next, and the last to the first; empty if there is none."""
    finished: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in finished:
            return []
        for target in sorted(arrows[name]):
            circle = visit(target, [*path, name])
            if circle:
                return circle
        finished.add(name)
        return []

    for name in sorted(arrows):
        circle = visit(name, [])
        if circle:
            return circle
    return []


@pytest.mark.parametrize(
    "module",
    [module for module in modules_of("config", "wire") if named(module) not in READS_THE_MACHINE],
    ids=named,
)
def test_config_and_wire_do_no_input_and_output(module: Path) -> None:
    calls = {
        node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)
    }

    assert {name.split(".")[0] for name in imports_of(module)} & INPUT_AND_OUTPUT == set()
    assert calls & CALLS == set()


@pytest.mark.parametrize("module", modules_of("wire"), ids=named)
def test_wire_knows_nothing_of_the_site(module: Path) -> None:
    ours = {name.split(".")[1] for name in imports_of_ours(module)}

    assert ours <= {"errors", "wire"}


def test_the_spawner_process_imports_the_standard_library_and_its_own_folder() -> None:
    imported = {name for module in MODULES if named(module).startswith("backends/spawner/") for name in imports_of(module)}
    foreign = {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names}

    assert {name for name in foreign if not name.startswith("scalesocket.backends.spawner.")} == set()
    assert imported & {"asyncio", "dataclasses", "logging", "pathlib"} == set()  # each adds milliseconds to its start


def test_no_module_is_long() -> None:
    """A long one is split where its parts have names of their own."""
    lines = {named(module): len(module.read_text().splitlines()) for module in MODULES}

    assert {name for name, count in lines.items() if count > MAX_LINES} == set()


def test_every_module_says_what_it_owns() -> None:
    documented = {module for module in MODULES if ast.get_docstring(tree_of(module))}

    assert {named(module) for module in MODULES if module not in documented and module.name != "__main__.py"} == set()


def test_every_package_that_is_imported_is_declared_and_explained() -> None:
    project = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    declared = {re.split(r"[<>=!~;\[ ]", requirement)[0] for requirement in requirements}
    rows = re.findall(r"^\| ([\w, -]+?)(?: \(extra `\w+`\))? \| ", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    explained = {name for row in rows for name in row.split(", ")}
    imported = {name.partition(".")[0] for module in MODULES for name in imports_of(module)}
    foreign = {name.replace("_", "-") for name in imported - sys.stdlib_module_names - {"scalesocket"}}

    foreign = {"pyjwt" if name == "jwt" else name for name in foreign}

    assert (
        foreign - {"pydantic-core", "cryptography"} <= declared
    )  # pydantic asks for the one version of it that fits, pyjwt[crypto] for the other
    assert declared <= explained


@pytest.mark.parametrize("file", TESTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_test_asserts_something(file: Path) -> None:
    tests = {one.name for one in functions_of(file) if one.name.startswith("test_")}

    assert tests - find_asserting(file, ASSERTING | LIBRARIES_ASSERTING) == set()


def test_no_client_with_threads_speaks_tls() -> None:
    """It reads in one thread and writes in another, and of 1,000 of its handshakes one is lost: python/cpython issue 77271."""
    threaded = [file for file in (ROOT / "tests").rglob("*.py") if "websockets.sync.client import connect" in file.read_text()]

    assert threaded
    assert [file for file in threaded if "connect" in find_calls_with(file, "ssl")] == []


def test_functions_that_count_as_assertions_can_fail() -> None:
    ours = {file: {one.name for one in functions_of(file)} & ASSERTING for file in (ROOT / "tests").rglob("*.py")}

    assert set().union(*ours.values()) == ASSERTING
    assert {file: names for file, names in ours.items() if names - find_asserting(file, {"timeout", "until"})} == {}


def find_asserting(file: Path, asserting: set[str]) -> set[str]:
    """`asserting`, and the functions of a file that have an assertion or call one that has."""
    asserting = set(asserting)
    while found := {one.name for one in functions_of(file) if one.has_assertion or one.calls & asserting} - asserting:
        asserting |= found
    return asserting


def find_calls_with(file: Path, keyword: str) -> set[str]:
    """The names of the functions that a file calls with this keyword."""
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    return {ast.unparse(call.func) for call in calls if any(one.arg == keyword for one in call.keywords)}


class Function(NamedTuple):
    name: str
    calls: set[str]
    has_assertion: bool


@cache
def functions_of(file: Path) -> list[Function]:
    functions = []
    for function in ast.walk(ast.parse(file.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            nodes = list(ast.walk(function))
            calls = {name_called(node) for node in nodes if isinstance(node, ast.Call)}
            functions.append(Function(function.name, calls, any(isinstance(node, ast.Assert) for node in nodes)))
    return functions


def name_called(call: ast.Call) -> str:
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


@pytest.mark.parametrize("code", CloseCode, ids=lambda code: f"{code.name}-{code:d}")
def test_every_close_code_is_documented(code: CloseCode) -> None:
    assert f"| {code:d} | " in (ROOT / "docs" / "closing.md").read_text()


@pytest.mark.parametrize("status", sorted(set(re.findall(r"status=(\d{3})", "".join(module.read_text() for module in MODULES)))))
def test_every_refusal_is_documented(status: str) -> None:
    assert f"| {status} | " in (ROOT / "docs" / "closing.md").read_text()


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.toml")), ids=lambda file: file.name)
def test_every_example_loads(file: Path) -> None:
    assert load_site(file).apps


def test_the_close_codes_of_errors_are_used_and_no_others() -> None:
    # A close code is written as a name: a bare number would hide from the one table.
    bare = {
        (named(module), number)
        for module in MODULES
        if named(module) not in {"errors.py", "wire/frames.py", "wire/json_routing.py"}
        for number in re.findall(r"\bClose\((1\d{3})\b", module.read_text())
    }

    assert bare == set()
