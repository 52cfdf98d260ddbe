"""Loading of site files from disk."""

import os
from pathlib import Path

import pytest

from scalesocket.config.load import Reader, find_problems, load_site, load_site_with_origins
from scalesocket.config.problems import ConfigError

APP = '[apps.{name}]\ncommand = "cat"\n'


def write(folder: Path, **files: str) -> Path:
    """Write `site` as site.toml and every other text as apps/NAME.toml."""
    (folder / "apps").mkdir()
    for name, text in files.items():
        path = folder / "site.toml" if name == "site" else folder / "apps" / f"{name}.toml"
        path.write_text(text)
    return folder / "site.toml"


def problems_of(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_site(path, {})
    return [str(problem) for problem in caught.value.problems]


def test_included_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        site='include = ["apps/*.toml"]\n' + APP.format(name="home"),
        b=APP.format(name="bee"),
        a=APP.format(name="ant"),
    )

    site = load_site(path)

    assert list(site.apps) == ["home", "ant", "bee"]
    assert site.apps["ant"].cwd == tmp_path / "apps"
    assert site.path == path


def test_the_name_of_the_folder_is_not_part_of_a_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "site[1]*"
    folder.mkdir()
    path = write(folder, site='include = ["apps/*.toml", "apps/b.toml"]\n', a=APP.format(name="ant"), b=APP.format(name="bee"))

    assert list(load_site(path, {}).apps) == ["ant", "bee"]


def test_all_files_and_folders_to_watch_are_returned(tmp_path: Path) -> None:
    path = write(tmp_path, site='include = ["apps/*.toml"]\n', a=APP.format(name="ant"))

    loaded = load_site_with_origins(path)

    assert loaded.files == {path, tmp_path / "apps/a.toml"}
    assert loaded.folders == {tmp_path / "apps"}


def test_a_pattern_may_match_nothing_but_a_named_file_must_exist(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    path = write(tmp_path, site='include = ["more/*.toml", "apps/none.toml"]\n' + APP.format(name="home"))

    assert problems_of(path) == [f"{path}:1:27: include: there is no file 'apps/none.toml'"]


@pytest.mark.parametrize("pattern", ["app/*.toml", "app/*/site.toml"])
def test_a_pattern_in_a_missing_folder_is_an_error(tmp_path: Path, pattern: str) -> None:
    """Otherwise moving the folder, or misspelling its name, would remove all its apps."""
    path = write(tmp_path, site=f'include = ["{pattern}"]\n' + APP.format(name="home"))

    assert problems_of(path) == [f"{path}:1:12: include: there is no folder '{tmp_path}/app' (create it, or delete the pattern)"]


def test_a_pattern_never_includes_the_site_file_itself(tmp_path: Path) -> None:
    path = write(tmp_path, site='include = ["*.toml", "apps/*.toml"]\n', a=APP.format(name="ant"))

    assert list(load_site(path).apps) == ["ant"]


def test_errors_in_several_files_are_reported_at_once_in_order(tmp_path: Path) -> None:
    site = 'include = ["apps/*.toml"]\n' + APP.format(name="home") + "routing = 5"
    path = write(tmp_path, site=site, a="a = =", b=APP.format(name="bee") + "max_rooms = 0")

    places = [line.removeprefix(f"{tmp_path}/").split(": ")[0] for line in problems_of(path)]

    assert places == ["site.toml:4:11", "apps/a.toml:1:5", "apps/b.toml:3:13"]


def test_apps_of_an_invalid_included_file_are_not_reported_as_missing(tmp_path: Path) -> None:
    path = write(tmp_path, site='include = ["apps/*.toml"]\n', a="a = =")

    [problem] = problems_of(path)
    assert problem.startswith(f"{tmp_path}/apps/a.toml:1:5: not valid TOML: the value is missing")


def test_a_missing_site_file_is_an_error(tmp_path: Path) -> None:
    assert problems_of(tmp_path / "none.toml") == [
        f"{tmp_path}/none.toml: cannot be read: no such file or directory (scalesocket init writes a site file)"
    ]


def test_bytes_that_are_not_utf8_are_an_error_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_bytes("# ü\n# ü ".encode() + b"\xff\n")

    assert problems_of(path) == [f"{path}:2:5: not valid TOML: byte 0xff is not UTF-8 (save the file as UTF-8)"]


def test_a_relative_name_stays_relative_in_errors_and_paths_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, site='include = ["apps/*.toml"]\n', a=APP.format(name="ant"))
    monkeypatch.chdir(tmp_path)
    site = load_site(Path("site.toml"))
    (tmp_path / "apps/a.toml").write_text("routing = 5")

    assert site.path == tmp_path / "site.toml"
    assert site.apps["ant"].cwd == tmp_path / "apps"
    assert problems_of(Path("site.toml"))[-1].startswith("apps/a.toml:1:1: routing: ")


def test_variables_come_from_the_environment_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "PROGRAM", "cat")
    path = write(tmp_path, site='[apps.chat]\ncommand = "${PROGRAM}"')

    assert load_site(path).apps["chat"].command == ("cat",)


def test_the_origin_of_each_value_is_known(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        site='include = ["apps/*.toml"]\nserver.log.level = "debug"\n[defaults]\nrestart = "always"\nenv = { A = "1" }\n',
        a=APP.format(name="ant") + 'env = { B = "2" }',
    )

    loaded = load_site_with_origins(path)

    origins = {".".join(map(str, key)): str(place) for key, place in loaded.origins.items()}
    included = tmp_path / "apps/a.toml"
    assert origins == {
        "server.log.level": f"{path}:2:20",
        "apps.ant.restart": f"{path}:4:11",
        "apps.ant.env.A": f"{path}:5:13",
        "apps.ant.env.B": f"{included}:3:13",
        "apps.ant.command": f"{included}:2:11",
    }


def test_a_secret_file_is_watched_and_reported_if_others_can_read_it(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("abc")
    file.chmod(0o644)
    reader = Reader()

    assert reader.secret(file) == "abc"

    assert reader.files == {file}
    assert [str(problem) for problem in reader.problems] == [
        f"{file}: warning: contains a secret and can be read by others (chmod o-r)"
    ]


def test_the_machine_is_checked_for_the_valid_apps_of_a_file_with_errors(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text('[apps.chat]\ncommand = "no-such-program"\n[apps.pong]\ncommand = "cat"\nrouting = "jsn"\n')

    def keys(*, with_machine: bool) -> list[str]:
        return [problem.key for problem in find_problems(path, with_machine=with_machine)]

    assert keys(with_machine=True) == ["apps.chat.command", "apps.pong.routing"]
    assert keys(with_machine=False) == ["apps.pong.routing"]
    with pytest.raises(ConfigError) as caught:
        load_site_with_origins(path, with_machine=True)
    assert [problem.key for problem in caught.value.problems] == ["apps.chat.command", "apps.pong.routing"]


def test_the_machine_is_checked_for_the_valid_keys_of_an_app_with_errors(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text(
        "\n".join(
            [
                '[server]\nbind = 5\ntls = { certificate = "a.pem", key = "b.pem" }',
                '[apps.chat]\ncommand = "no-such-program"\nstatic = "nowhere"\nmax_rooms = "many"',
                '[apps.pong]\ncommand = "cat"\ntcp = "localhost:1"\nstatic = "nowhere"',
                '[apps.Bad]\nstatic = "nowhere"',
                '[apps.unset]\ncommand = "${NOWHERE_SET}"\nstatic = 5',
                "[apps.none]",
            ]
        )
    )

    assert [problem.key for problem in find_problems(path)] == [
        *("server.bind", "server.tls.certificate", "server.tls.key"),
        *("apps.chat.command", "apps.chat.static", "apps.chat.max_rooms"),
        *("apps.pong.tcp", "apps.pong.static"),
        *("apps.Bad", "apps.Bad.static"),
        *("apps.unset.command", "apps.unset.static"),
        "apps.none",
    ]
