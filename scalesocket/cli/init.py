"""`scalesocket init [TEMPLATE] [DIR]`, and `init --from-cli` for a command line."""

import shlex
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

import click

from scalesocket.cli.convert import site_to_toml
from scalesocket.cli.site_file import SITE_FILE
from scalesocket.cli.site_from_flags import site_from_args

TEMPLATES: Final = {
    "minimal": "the smallest site: a Python program that reads and prints lines",
    "chat": "a chat with names and history; its program is just `cat`",
    "game": "a multiplayer game; a Python program has the rules and the score",
    "tcp": "a Python program that listens on a TCP port: dice",
}
"""The templates, with a description of each."""
SHARED: Final = "shared"
"""The folder of the files that all pages use: `room.js` and `style.css`, copies of those of the examples."""


@click.command
@click.argument("template", required=False)
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--from-cli", "line", metavar="LINE", help="Convert a command line, such as 'scalesocket --json cat', to a site file."
)
@click.option("--list", "is_listing", is_flag=True, help="List the templates; so does init without arguments.")
def init(template: str | None, folder: Path | None, line: str | None, is_listing: bool) -> None:
    """Write a starter site: a site file, a program and a page.

    TEMPLATE is minimal, chat, game or tcp; without it, the templates are listed. The files are written into DIR (default: this
    folder). With --from-cli, the site file is printed, or written into DIR if one is given. Files are never overwritten.
    """
    if line is not None:
        _convert(line, Path(template) if template is not None else None, folder)
        return
    if template is None or is_listing:
        _list_templates()
        return
    if template not in TEMPLATES:
        raise click.UsageError(f"unknown template {template!r} (one of: {', '.join(TEMPLATES)})")
    folder = folder or Path()
    contents = _contents(template, folder)
    write_new(contents)
    for path in contents:
        click.echo(f"wrote {path}")
    click.echo(f"next: scalesocket serve {shlex.quote(str(folder / SITE_FILE))}")


def write_new(contents: dict[Path, str]) -> None:
    """Write files and their folders. Raises click.ClickException, and writes nothing, if one of the files exists."""
    taken = [str(path) for path in contents if path.exists() or path.is_symlink()]
    if taken:
        raise click.ClickException(f"nothing written, because these files exist: {', '.join(taken)} (choose another DIR)")
    for path, text in contents.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise click.ClickException(f"{path}: {(error.strerror or str(error)).lower()}") from error


def _list_templates() -> None:
    width = max(map(len, TEMPLATES))
    for name, meaning in TEMPLATES.items():
        click.echo(f"{name:<{width}}  {meaning}")
    click.echo("\nTo write one: scalesocket init TEMPLATE [DIR]")


def _contents(template: str, folder: Path) -> dict[Path, str]:
    """Return the files of a template, with copies of the shared ones beside its page."""
    templates = files("scalesocket.cli") / "templates"
    contents = dict(_walk(templates / template, folder))
    for page in [path.parent for path in contents if path.name == "index.html"]:
        contents |= dict(_walk(templates / SHARED, page))
    return contents


def _convert(line: str, folder: Path | None, excess: Path | None) -> None:
    if excess is not None:
        raise click.UsageError("--from-cli takes one argument at most, DIR")
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise click.UsageError(f"--from-cli: cannot parse this line: {str(error).lower()}") from error
    if words and Path(words[0]).name == "scalesocket":
        words = words[2:] if words[1:2] == ["run"] else words[1:]
    site = site_from_args(words)
    if folder is None:
        click.echo(site_to_toml(site, line), nl=False)
        return
    is_elsewhere = folder.resolve() != Path.cwd()
    write_new({folder / SITE_FILE: site_to_toml(site, line, cwd=Path.cwd() if is_elsewhere else None)})
    click.echo(f"wrote {folder / SITE_FILE}")


def _walk(source: Traversable, target: Path) -> Iterator[tuple[Path, str]]:
    for entry in sorted(source.iterdir(), key=lambda entry: (entry.is_dir(), entry.name != SITE_FILE, entry.name)):
        if entry.is_dir():
            if entry.name != "__pycache__":
                yield from _walk(entry, target / entry.name)
        else:
            yield target / entry.name, entry.read_text(encoding="utf-8")
