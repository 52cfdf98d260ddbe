"""What a site needs of this machine."""

import os
import pwd
import subprocess
import time
from pathlib import Path

import pytest

from scalesocket.config.load import load_site_with_origins
from scalesocket.config.machine import check_machine
from scalesocket.config.model import App, Server, Site, Tls
from scalesocket.config.programs import find_program


def problems_of(site: Site) -> list[str]:
    return [str(problem) for problem in check_machine(site, environ={"PATH": os.defpath})]


def of_app(**keys: object) -> list[str]:
    return problems_of(Site(apps={"chat": App(name="chat", **keys)}))


@pytest.fixture
def pair(tmp_path: Path) -> Tls:
    """A certificate and its key, which others cannot read."""
    tls = Tls(certificate=tmp_path / "site.pem", key=tmp_path / "site.key")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=x"]
    subprocess.run([*command, "-out", tls.certificate, "-keyout", tls.key], check=True, capture_output=True)
    tls.key.chmod(0o600)
    return tls


def test_a_site_with_everything_it_needs_has_no_problems(tmp_path: Path, pair: Tls) -> None:
    apps = {"chat": App(name="chat", command=["cat"], static=tmp_path, user=pwd.getpwuid(os.geteuid()).pw_name)}

    assert problems_of(Site(server=Server(tls=pair), apps=apps)) == []


def test_a_program_that_is_not_on_the_path_is_an_error_at_its_line(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text('[apps.chat]\ncommand = "no-such-program"')
    loaded = load_site_with_origins(path)

    [problem] = check_machine(loaded.site, loaded.origins, {"PATH": "/bin"})

    assert str(problem) == f"{path}:2:11: apps.chat.command: 'no-such-program' is not found on PATH"
    assert problem.render().endswith("\n            ^^^^^^^^^^^^^^^^^")


def test_a_program_is_searched_on_the_path_of_its_child_process(tmp_path: Path) -> None:
    program = tmp_path / "game"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)

    own = App(name="chat", command=["game"], env={"PATH": str(tmp_path)})
    passed = App(name="chat", command=["game"])
    neither = App(name="chat", command=["game"], pass_env=())

    assert find_program(own, {"PATH": "/bin"}) == program
    assert find_program(passed, {"PATH": f"/bin:{tmp_path}"}) == program
    with pytest.raises(FileNotFoundError, match=r"'game' is not found in /bin:/usr/bin \(PATH is not in pass_env\)"):
        find_program(neither, {"PATH": str(tmp_path)})


def test_a_missing_certificate_and_a_missing_key_are_both_reported(tmp_path: Path) -> None:
    server = Server(tls=Tls(certificate=tmp_path / "site.pem", key=tmp_path / "site.key"))

    assert problems_of(Site(server=server, apps={})) == [
        "server.tls.certificate: cannot be read: no such file or directory",
        "server.tls.key: cannot be read: no such file or directory",
    ]


def test_a_program_with_a_slash_is_relative_to_the_working_directory(tmp_path: Path) -> None:
    program = tmp_path / "game"

    assert of_app(command=["./game"], cwd=tmp_path) == [f"apps.chat.command: there is no file '{program}'"]
    program.write_text("#!/bin/sh\n")
    assert of_app(command=["./game"], cwd=tmp_path) == [f"apps.chat.command: '{program}' is not executable (chmod +x)"]
    program.chmod(0o755)
    assert of_app(command=["./game"], cwd=tmp_path) == []


def test_a_script_named_without_its_folder_gets_a_suggestion(tmp_path: Path) -> None:
    file = tmp_path / "hello.py"
    file.write_text("#!/usr/bin/env python3\n")

    assert of_app(command=["hello.py", "-v"], cwd=tmp_path) == [
        "apps.chat.command: 'hello.py' is not found on PATH"
        ' (write ["python3", "hello.py", "-v"], or ["./hello.py", "-v"] after chmod +x)'
    ]
    assert of_app(command=["./hello.py"], cwd=tmp_path) == [
        f'apps.chat.command: \'{file}\' is not executable (chmod +x, or write ["python3", "./hello.py"])'
    ]
    file.chmod(0o755)
    assert of_app(command=["hello.py"], cwd=tmp_path) == [
        'apps.chat.command: \'hello.py\' is not found on PATH (write ["./hello.py"] or ["python3", "hello.py"])'
    ]
    file.rename(tmp_path / "hello")
    assert of_app(command=["hello"], cwd=tmp_path) == ["apps.chat.command: 'hello' is not found on PATH (write [\"./hello\"])"]


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        (["python3 hello.py"], '["python3", "hello.py"]'),
        (["python3 -u 'my game.py'", "x"], '["python3", "-u", "my game.py", "x"]'),
        (["./game --fast"], '["./game", "--fast"]'),
        (["it's here"], '["it\'s", "here"]'),
    ],
)
def test_a_command_in_one_word_gets_a_suggestion_with_separate_words(command: list[str], meant: str, tmp_path: Path) -> None:
    [problem] = of_app(command=command, cwd=tmp_path)

    assert problem.endswith(f"(the program and its arguments are separate words; write {meant})")


def test_a_program_on_the_path_that_is_not_executable_is_reported(tmp_path: Path) -> None:
    (tmp_path / "game").write_text("")

    assert of_app(command=["game"], env={"PATH": str(tmp_path)}) == [
        f"apps.chat.command: '{tmp_path}/game' is not executable (chmod +x)"
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"#!/bin/sh\r\ncat\r\n", "has Windows line ends, so its interpreter is not found (convert it with dos2unix)"),
        (b"#! /no/such/python -u\n", "needs the interpreter '/no/such/python', which does not exist"),
        (b"echo hello\n", "is neither a program nor a script with a first line like #!/bin/sh"),
        (b"#!\n", "is neither a program nor a script with a first line like #!/bin/sh"),
        (b"", "is neither a program nor a script with a first line like #!/bin/sh"),
        (b"#! /usr/bin/env sh\n", None),
        (b"\x7fELF\x02", None),
    ],
)
def test_a_script_that_the_system_cannot_run_is_reported_with_the_reason(tmp_path: Path, text: bytes, found: str | None) -> None:
    program = tmp_path / "game"
    program.write_bytes(text)
    program.chmod(0o755)

    problems = of_app(command=["./game"], cwd=tmp_path)

    severity = "warning: " if found is not None and found.startswith("is neither") else ""
    assert problems == ([f"{severity}apps.chat.command: '{program}' {found}"] if found is not None else [])


def test_missing_folders_and_files_in_their_place_are_errors(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()

    assert of_app(command=["cat"], cwd=tmp_path / "none") == [f"apps.chat.cwd: there is no folder '{tmp_path}/none'"]
    assert of_app(command=["cat"], static=file) == [f"apps.chat.static: '{file}' is not a folder"]


def test_users_and_groups_must_exist() -> None:
    found = of_app(command=["cat"], user="no-such-user", group="no-such-group")

    assert found == ["apps.chat.user: there is no user 'no-such-user'", "apps.chat.group: there is no group 'no-such-group'"]


def test_a_missing_target_socket_is_a_warning(tmp_path: Path) -> None:
    socket = tmp_path / "game.sock"

    assert of_app(unix=socket) == [f"warning: apps.chat.unix: there is no socket '{socket}' at the moment"]


def of_tls(tls: Tls) -> list[str]:
    found = problems_of(Site(server=Server(tls=tls), apps={"chat": App(name="chat", command=["cat"])}))
    return [line for line in found if "warning" not in line]


def test_a_certificate_or_key_that_cannot_be_used_is_reported_with_the_reason(tmp_path: Path, pair: Tls) -> None:
    damaged = tmp_path / "damaged"
    other = tmp_path / "other.key"
    locked = tmp_path / "locked.key"
    rubbish = tmp_path / "rubbish"
    rubbish.write_text("rubbish")
    for source, target in ((pair.certificate, tmp_path / "damaged"), (pair.key, tmp_path / "damaged.key")):
        first, middle, *rest = source.read_text().splitlines(keepends=True)
        target.write_text("".join([first, middle[:10] + "AAAAAAAA" + middle[18:], *rest[1:]]))
    make = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    subprocess.run([*make, "-out", other], check=True, capture_output=True)
    subprocess.run([*make, "-aes256", "-pass", "pass:x", "-out", locked], check=True, capture_output=True)

    def of(*, certificate: Path = pair.certificate, key: Path = pair.key) -> str:
        [problem] = of_tls(Tls(certificate=certificate, key=key))
        return problem.removeprefix("server.tls.")

    assert of(certificate=tmp_path / "none") == "certificate: cannot be read: no such file or directory"
    assert of(certificate=rubbish) == 'certificate: contains no certificate (it would begin with "-----BEGIN CERTIFICATE-----")'
    assert of(certificate=pair.key) == "certificate: contains a key, not a certificate (are the two files swapped?)"
    assert of(certificate=damaged) == "certificate: contains a damaged certificate (copy the file again)"
    assert of(key=tmp_path / "none") == "key: cannot be read: no such file or directory"
    assert of(key=rubbish) == 'key: contains no private key (it would begin with "-----BEGIN PRIVATE KEY-----")'
    assert of(key=pair.certificate) == "key: contains a certificate, not a key (are the two files swapped?)"
    assert of(key=tmp_path / "damaged.key") == "key: contains a damaged key (copy the file again)"
    assert of(key=locked) == "key: has a passphrase (remove it: openssl pkey -in OLD -out NEW)"
    assert of(key=other) == "key: does not belong to the certificate (use the key that the certificate was made for)"


def test_a_key_that_others_can_read_is_a_warning_without_its_path(pair: Tls) -> None:
    pair.key.chmod(0o644)

    found = problems_of(Site(server=Server(tls=pair), apps={"chat": App(name="chat", command=["cat"])}))

    assert found == ["warning: server.tls.key: the file can be read by others (chmod o-r)"]


def test_sockets_need_their_folders(tmp_path: Path) -> None:
    server = Server(bind=f"unix:{tmp_path}/none/site.sock", control=f"{tmp_path}/none/control.sock")

    assert problems_of(Site(server=server, apps={"chat": App(name="chat", command=["cat"])})) == [
        f"server.bind: there is no folder '{tmp_path}/none' for the socket",
        f"server.control: there is no folder '{tmp_path}/none' for the socket",
    ]


def test_a_missing_script_is_a_warning(tmp_path: Path) -> None:
    script = tmp_path / "game.py"

    assert of_app(command=["sh", "-e", "game.py"], cwd=tmp_path) == [f"warning: apps.chat.command: there is no file '{script}'"]
    script.touch()
    assert of_app(command=["sh", "-e", "game.py"], cwd=tmp_path) == []
    assert of_app(command=["sh", "-c", "exec x.py"], cwd=tmp_path) == []


@pytest.mark.parametrize(("days", "text"), [(25, "expires in 4 days"), (31, "has expired")])
def test_a_certificate_near_its_end_is_a_warning(days: int, text: str, pair: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + days * 86_400)  # openssl made it valid for 30 days

    [problem] = problems_of(Site(server=Server(tls=pair), apps={"chat": App(name="chat", command=["cat"])}))

    assert problem.startswith(f"warning: server.tls.certificate: {text} (valid from ")
