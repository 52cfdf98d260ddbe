"""Help, usage errors and suggestions."""

from pathlib import Path

import pytest

from tests.cli.serving import scalesocket


@pytest.mark.parametrize("words", [["--help"], ["-h"]])
def test_help_names_both_ways_to_serve(words: list[str]) -> None:
    done = scalesocket(*words)

    assert done.code == 0
    for word in ("scalesocket serve site.toml", "scalesocket [FLAGS] CMD [-- ARGS...]", "check", "reload", "init"):
        assert word in done.out


def test_run_help_lists_every_flag_of_the_original() -> None:
    done = scalesocket("run", "--help")

    assert done.code == 0
    for word in ("--frame[=MODE]", "--delimiters=CHARS", "--passenv LIST", "-b, --binary", "--oneshot"):
        assert word in done.out


@pytest.mark.parametrize("words", [["--version"], ["-V"], ["cat", "-V"]])
def test_the_version_is_printed(words: list[str]) -> None:
    done = scalesocket(*words)

    assert done.code == 0
    assert done.out.startswith("scalesocket 0.")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["cat", "file"],
        ["--jsno", "cat"],
        ["--json", "--frame", "cat"],
        ["serve"],
        ["serve", "site.toml", "--loop", "trio"],
        ["serve", "site.toml", "--bind", "nowhere"],
        ["init", "no-such-template"],
        ["init", "--from-cli", "scalesocket --jsno cat"],
        ["init", "--from-cli", "'"],
    ],
)
def test_wrong_usage_exits_with_2(words: list[str], tmp_path: Path) -> None:
    done = scalesocket(*words, cwd=tmp_path)

    assert done.code == 2, done
    assert "Usage:" in done.err
    assert "Traceback" not in done.err


def test_a_misspelt_command_gets_a_suggestion() -> None:
    done = scalesocket("chekc", "site.toml")

    assert done.code == 2
    assert "scalesocket check" in done.err


def test_without_arguments_both_ways_to_start_are_printed() -> None:
    done = scalesocket()

    assert done.code == 2
    for line in ("scalesocket init ", "scalesocket serve site.toml ", "scalesocket --addr 127.0.0.1:9000 cat "):
        assert f"\n  {line}" in done.err


@pytest.mark.parametrize("words", [["site.toml"], ["./site.toml"], ["site.toml", "--bind", "a:1"], ["--json", "site.toml"]])
def test_a_site_file_without_serve_gets_a_suggestion(words: list[str], file: Path) -> None:
    done = scalesocket(*words, cwd=file.parent)

    assert done.code == 2
    assert f"did you mean: scalesocket serve {' '.join(word for word in words if word != '--json')}" in done.err


@pytest.mark.parametrize(
    "words", [["--foo", "cat"], ["-x", "cat"], ["print", "x"], ["serve", "site.toml", "--foo"], ["check", "-z"]]
)
def test_an_unknown_word_like_no_other_gets_no_suggestion(words: list[str]) -> None:
    done = scalesocket(*words)

    assert done.code == 2
    assert "did you mean" not in done.err.lower()


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["--jsno", "cat"], "(did you mean --json?)"),
        (["--max-rooms=3", "cat"], "(did you mean --maxrooms?)"),
        (["serve", "site.toml", "--no-wacth"], "(did you mean --no-watch?)"),
        (["sevre", "site.toml"], "did you mean: scalesocket serve"),
    ],
)
def test_a_misspelt_word_gets_a_suggestion(words: list[str], meant: str) -> None:
    assert meant in scalesocket(*words).err


def test_help_is_also_a_word() -> None:
    assert scalesocket("help").out == scalesocket("--help").out
    assert scalesocket("help", "serve").out == scalesocket("serve", "--help").out
