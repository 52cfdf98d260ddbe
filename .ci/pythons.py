"""Run a short part of the tests on every supported version of Python that is installed, except that of .venv.

The classifiers of pyproject.toml name the supported versions. The Pythons are found on the PATH, in pyenv and in uv. Each gets an
environment below .pythons/.
"""

import hashlib
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
ENVIRONMENTS: Final = ROOT / ".pythons"
LOCK: Final = ROOT / "requirements-dev.lock"
TEST_PACKAGES: Final = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "httpx", "redis")
TESTS: Final = (
    "tests/wire",
    "tests/config",
    "tests/rooms/test_history.py",
    "tests/rooms/test_routing.py",
    "tests/rooms/test_state.py",
    "tests/rooms/test_sweep.py",
    "tests/backends/test_spawner_process.py",
    "tests/test_faults.py",
    "tests/test_gateway.py",
    "tests/test_scenario.py",
)
"""The wire, the site file, rooms in memory, both lanes on both loops with real processes, and a site of the real command."""
PRINT_BUILD: Final = """
import sys, sysconfig
print(sys.implementation.name, "{}.{}".format(*sys.version_info), sysconfig.get_config_var("Py_GIL_DISABLED") or 0)
"""


def find_supported() -> list[str]:
    """List the supported versions, such as `3.11`, oldest first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", text) for text in project["classifiers"]]
    return [match[1] for match in versions if match]


def find_pythons(version: str) -> list[Path]:
    """List where this version may be: on the PATH, or installed by pyenv or uv."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep)]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", Path.home() / ".local/share/uv/python"))
    installed = [*pyenv.glob(f"{version}*"), *uv.glob(f"cpython-{version}*")]
    return [folder / f"python{version}" for folder in (*folders, *(folder / "bin" for folder in sorted(installed)))]


def find_python(version: str) -> Path | None:
    """Find a CPython of this version that starts, and that is no free-threaded build."""
    for python in find_pythons(version):
        if python.exists():
            build = subprocess.run([python, "-c", PRINT_BUILD], capture_output=True, text=True, check=False).stdout
            if build.split() == ["cpython", version, "0"]:
                return python
    return None


def install(python: Path, environment: Path) -> Path:
    """Create an environment with the project and the packages of its tests, unless it is up to date; return its Python."""
    command, stamp = environment / "bin/python", environment / ".installed"
    inputs = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + LOCK.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != inputs:
        subprocess.run([python, "-m", "venv", "--clear", environment], check=True)
        pip = [command, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--constraint", LOCK, "--editable", ".", *TEST_PACKAGES], cwd=ROOT, check=True)
        stamp.write_text(inputs)
    return command


def run_tests(version: str, python: Path) -> bool:
    """Run the tests on one Python; return whether they passed."""
    started = time.monotonic()
    command = install(python, ENVIRONMENTS / version)
    say(f"{version}: installed from {python} in {time.monotonic() - started:.0f} s")
    started = time.monotonic()
    options = ("-n", "3", "--dist", "worksteal", "-p", "no:cacheprovider")
    done = subprocess.run([command, "-m", "pytest", *options, *TESTS], cwd=ROOT, check=False)
    say(f"{version}: {'passed' if done.returncode == 0 else 'FAILED'} in {time.monotonic() - started:.0f} s")
    return done.returncode == 0


def say(message: str) -> None:
    """Print a line at once, because programs that this script starts print too."""
    print(f"pythons: {message}", flush=True)


def main() -> int:
    """Run the tests on each Python; return 1 if they failed on one."""
    own = "{}.{}".format(*sys.version_info)
    failed = []
    for version in find_supported():
        if version == own:
            say(f"{version}: the whole suite runs on it (make test)")
        elif (python := find_python(version)) is None:
            say(f"{version}: NOT TESTED, because it was not found on this machine")
        elif not run_tests(version, python):
            failed.append(version)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
