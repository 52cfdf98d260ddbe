"""README and docs are true: their site files load, and their commands run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from scalesocket.config.load import load_site
from tests.cli.serving import scalesocket
from tests.examples.listening import run_until_listening

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"
PAGES: Final = sorted([README, ROOT / "CHANGELOG.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SCALESOCKET: Final = (sys.executable, "-m", "scalesocket")


def find_blocks(page: Path, language: str) -> Iterator[str]:
    return (text for name, text in BLOCK.findall(page.read_text()) if name == language)


def find_sixty_seconds() -> str:
    """The site file that README's "Sixty seconds" has its reader save."""
    return next(block for block in find_blocks(README, "toml") if block.startswith("[server]"))


SITES: Final = [
    pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, text in enumerate(find_blocks(page, "toml"))
    if "[apps" in text
]
COMMANDS: Final = sorted(
    {
        tuple(shlex.split(line, comments=True)[2:])
        for page in PAGES
        for block in find_blocks(page, "console")
        for line in block.splitlines()
        if re.match(r"\$ scalesocket \w", line)
    }
)


SECRET_FILE: Final = re.compile(r'(?:secret|token)_file = "([\w.]+)"')


@pytest.mark.parametrize("text", SITES)
def test_every_site_file_in_the_docs_is_valid(text: str, tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(text)
    (tmp_path / "apps").mkdir()  # for `include`
    for name in SECRET_FILE.findall(text):
        (tmp_path / name).write_text("x" * 64)

    assert load_site(file).apps


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_in_the_docs_exists(words: tuple[str, ...]) -> None:
    shown = scalesocket(words[0], "--help")

    assert shown.code == 0, shown.err
    for flag in (word for word in words if word.startswith("--")):
        assert flag in shown.out


def test_the_readme_installs_into_an_environment() -> None:
    # Debian 12 refuses `pip install` outside of an environment (PEP 668).
    install = next(block for block in find_blocks(README, "console") if "pip install" in block)

    assert [line.removeprefix("$ ") for line in install.splitlines()] == [
        "python3 -m venv .venv",
        ". .venv/bin/activate",
        "pip install .",
    ]


def test_the_readme_has_a_picture_with_a_text_alternative() -> None:
    ((words, path),) = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", README.read_text())

    assert len(words) > 80
    assert (ROOT / path).read_bytes().startswith(b"\x89PNG")
    assert (ROOT / path).stat().st_size < 150_000


def test_both_clients_of_the_sixty_seconds_receive_a_typed_message(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(find_sixty_seconds())
    client, typed = next(block for block in find_blocks(README, "console") if "-m websockets" in block).splitlines()
    with ExitStack() as stack:
        address = stack.enter_context(
            run_until_listening(*SCALESOCKET, "serve", "--bind", "127.0.0.1:0", "site.toml", cwd=tmp_path)
        )
        command = [sys.executable, *shlex.split(client.replace("127.0.0.1:9000", address))[2:]]
        ann, bob = (
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(2)
        )
        for each in (ann, bob):
            deadline = threading.Timer(20, each.kill)  # ends its output, so that no read waits forever
            deadline.start()
            stack.callback(deadline.cancel)
            stack.callback(each.kill)
        assert ann.stdin is not None
        assert ann.stdout is not None
        assert bob.stdout is not None
        assert any('"_from":2,"_event":"join"' in line for line in ann.stdout)  # both have joined

        ann.stdin.write(typed.removeprefix("> ") + "\n")
        ann.stdin.flush()

        for output in (ann.stdout, bob.stdout):
            assert any(re.search(r'\{"_from":[12],"text":"hello"\}', line) for line in output)


def test_the_sixty_seconds_of_the_readme_check_ok(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(find_sixty_seconds())

    checked = scalesocket("check", str(file))

    assert checked.code == 0, checked.out + checked.err
    assert "OK" in checked.out


def test_the_readme_shows_the_example_script() -> None:
    assert (ROOT / "example.sh").read_text() in find_blocks(README, "bash")
    assert os.access(ROOT / "example.sh", os.X_OK)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_quick_start_of_the_readme_works_as_written() -> None:
    serve, connect = (
        shlex.split(block.removeprefix("$ "))
        for block in find_blocks(README, "console")
        if block.startswith(("$ scalesocket ./example.sh", "$ curl --include"))
    )
    with ExitStack() as stack:
        # Only the port differs from the page, because 9000 may be in use.
        address = stack.enter_context(run_until_listening(*SCALESOCKET, "--addr", "127.0.0.1:0", *serve[1:], cwd=ROOT))

        output = subprocess.run(
            [word.replace("localhost:9000", address) for word in connect], capture_output=True, timeout=20, check=False
        ).stdout

    assert output.startswith(b"HTTP/1.1 101 ")
    assert b'{"message": "hello world"}' in output
    assert b'{"message": "goodbye"}' in output


@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("openssl") is None, reason="needs curl and openssl")
def test_the_tutorial_of_tokens_works_as_written(tmp_path: Path) -> None:
    page = ROOT / "docs/auth.md"
    (tmp_path / "site.toml").write_text(next(find_blocks(page, "toml")))
    commands = [line.removeprefix("$ ") for block in list(find_blocks(page, "console"))[:2] for line in block.splitlines()]
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    outputs: list[str] = []

    def run(command: str) -> subprocess.CompletedProcess[str]:
        words = ["sh", "-c", command]
        return subprocess.run(words, cwd=tmp_path, env=environ, capture_output=True, errors="replace", timeout=20, check=False)

    with ExitStack() as stack:
        address = ""
        for command in commands:
            if command == "scalesocket serve site.toml &":
                address = stack.enter_context(
                    run_until_listening(*SCALESOCKET, "serve", "--bind", "127.0.0.1:0", "site.toml", cwd=tmp_path)
                )
                continue
            command = command.replace("127.0.0.1:9000", address)
            done = run(command)
            assert command.startswith("curl ") or done.returncode == 0, done.stderr
            outputs.append(done.stdout)
        refused = run(re.sub(r"--header \"Authorization[^\n]*?\)\"", "", command))

    assert "chat: lets in ann; rooms lobby; roles write; until " in outputs[-2]
    assert outputs[-1].startswith("HTTP/1.1 101 ")
    assert '"user":"ann"' in outputs[-1]
    assert refused.stdout.startswith("HTTP/1.1 401 ")
