"""A site file in a container, mounted as a file or with its folder."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.serving import serving
from tests.reload.editing import CHAT, OTHER, SERVER

WARNING = "mounted files not watched"
MOUNT = 'mount --bind "$0" "$1" && shift && exec "$@"'


def can_mount(folder: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-m", "mount", "--bind", folder, folder], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("what", ["the file", "its folder"])
def test_a_file_replaced_on_the_host_is_read_if_its_folder_is_mounted_and_else_warned_about(tmp_path: Path, what: str) -> None:
    if not can_mount(tmp_path):
        pytest.skip("may not mount (run as root)")
    host, inside = tmp_path / "host", tmp_path / "inside"
    host.mkdir()
    inside.mkdir()
    (host / "site.toml").write_text(SERVER + CHAT)
    (inside / "site.toml").touch()
    mounted = [host / "site.toml", inside / "site.toml"] if what == "the file" else [host, inside]

    with serving("serve", str(inside / "site.toml"), wrapper=["unshare", "-m", "sh", "-c", MOUNT, *map(str, mounted)]) as server:
        assert WARNING not in server.output
        (host / "new.toml").write_text(SERVER + CHAT + OTHER)
        (host / "new.toml").rename(host / "site.toml")

        if what == "the file":
            server.wait_output(WARNING)
            assert "reloaded" not in server.output
        else:
            server.wait_output("reloaded")
            assert WARNING not in server.output
