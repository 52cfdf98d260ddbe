"""The grammar of the original's command line."""

import click
import pytest

from scalesocket.cli.flags import FLAGS, Takes, parse_command_line


def test_the_quick_start_is_a_command_and_nothing_else() -> None:
    line = parse_command_line(["./example.sh"])

    assert line.command == ("./example.sh",)
    assert line.flags == {}


def test_arguments_after_the_dashes_belong_to_the_command() -> None:
    line = parse_command_line(["--oneshot", "echo", "--", "hello", "--json", "--", "-v"])

    assert line.command == ("echo", "hello", "--json", "--", "-v")
    assert set(line.flags) == {"--oneshot"}


def test_flags_after_the_command_are_read_until_the_dashes() -> None:
    line = parse_command_line(["cat", "--json", "--addr", "127.0.0.1:1", "--", "-n"])

    assert line.command == ("cat", "-n")
    assert set(line.flags) == {"--json", "--addr"}


def test_a_command_after_dashes_may_look_like_a_flag() -> None:
    assert parse_command_line(["--json", "--", "serve"]).command == ("serve",)
    assert parse_command_line(["--", "--json", "-v"]).command == ("--json", "-v")
    assert parse_command_line(["--", "serve", "--", "-v"]).command == ("serve", "-v")


def test_a_bare_frame_takes_no_value_from_the_next_word() -> None:
    line = parse_command_line(["--frame", "cat"])

    assert line.command == ("cat",)
    assert line.flags["--frame"] == (None,)


def test_a_value_after_an_equal_sign_may_be_anything_or_empty() -> None:
    line = parse_command_line(["--passenv=", "--delimiters=--", "--joinmsg=-x=y", "cat"])

    assert line.value("--passenv") == ""
    assert line.values("--passenv") == ()
    assert line.value("--delimiters") == "--"
    assert line.value("--joinmsg") == "-x=y"


def test_a_repeated_flag_extends_its_list() -> None:
    line = parse_command_line(["--rooms", "a,b", "--rooms=c", "cat"])

    assert line.values("--rooms") == ("a", "b", "c")
    assert line.values("--passenv") is None


def test_short_flags_can_be_combined() -> None:
    line = parse_command_line(["-bvv", "cat"])

    assert line.has("--binary")
    assert len(line.flags["-v"]) == 2


def test_maxforks_is_another_name_of_maxrooms() -> None:
    assert parse_command_line(["--maxforks", "3", "cat"]).value("--maxrooms") == "3"


def test_a_lone_dash_is_a_word_and_a_value() -> None:
    assert parse_command_line(["-"]).command == ("-",)
    assert parse_command_line(["--joinmsg", "-", "cat"]).value("--joinmsg") == "-"


@pytest.mark.parametrize("asked", ["-h", "--help", "-V", "--version"])
def test_help_and_version_ignore_the_rest_of_the_line(asked: str) -> None:
    line = parse_command_line(["--json", "--frame", asked, "--no-such-flag"])

    assert len(line.flags) == 1
    assert line.command == ()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no command given"),
        (["--json"], "no command given"),
        (["--"], "no command given"),
        (["cat", "file"], "unexpected argument 'file'"),
        (["--frame", "json", "cat"], "--frame takes its value after an equal sign (write --frame=json)"),
        (["--jsno", "cat"], "unknown flag '--jsno'"),
        (["cat", "-n"], "unknown flag '-n' (scalesocket run --help lists the flags; flags of CMD come after --: cat -- -n)"),
        (["-bx", "cat"], "unknown flag '-x' in '-bx'"),
        (["--json=yes", "cat"], "--json takes no value"),
        (["--delimiters", "bc", "cat"], "--delimiters needs its value after an equal sign"),
        (["--clientframe", "json", "cat"], "--clientframe needs its value after an equal sign"),
        (["--serverframe", "json", "cat"], "--serverframe needs its value after an equal sign"),
        (["cat", "--addr"], "--addr needs a value"),
        (["--joinmsg", "-x", "cat"], "--joinmsg needs a value"),
        (["--json", "--json", "cat"], "--json is given more than once"),
        (["--addr=a:1", "--addr=b:2", "cat"], "--addr is given more than once"),
        (["--json", "--frame", "cat"], "--json cannot be used with --frame"),
        (["--json", "--clientframe=json", "cat"], "--json cannot be used with --clientframe"),
        (["--serverframe=json", "--json", "cat"], "--serverframe cannot be used with --json"),
        (["--frame", "--clientframe=json", "cat"], "--clientframe cannot be used with --frame"),
        (["--serverframe=json", "--frame=json", "cat"], "--serverframe cannot be used with --frame"),
        (["-b", "--delimiters=x", "cat"], "--binary cannot be used with --delimiters"),
        (["--tcpports=1:2", "cat"], "--tcpports needs --tcp"),
    ],
)
def test_a_line_that_the_original_refuses_is_a_usage_error(words: list[str], message: str) -> None:
    with pytest.raises(click.UsageError) as refused:
        parse_command_line(words)

    assert message in refused.value.format_message()


def test_a_misspelt_flag_gets_a_suggestion() -> None:
    with pytest.raises(click.UsageError) as refused:
        parse_command_line(["--metrisc", "cat"])

    assert "--metrics" in refused.value.format_message()


def test_every_flag_has_a_meaning_and_a_name_for_its_value() -> None:
    for flag in FLAGS:
        assert bool(flag.value) == (flag.takes is not Takes.NOTHING), flag.name
        assert flag.meaning, flag.name
