"""Sites written back as TOML."""

from pathlib import Path
from typing import Any

import tomli
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.config.load import load_site_with_origins
from scalesocket.config.model import App, History, Rate, Routes, Routing, Server, Site
from scalesocket.config.parse import parse_site
from scalesocket.config.render import render_site, render_table, to_toml

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_any_value_survives_being_written_and_read(value: Any) -> None:
    assert tomli.loads(f"x = {to_toml(value)}") == {"x": value}


def test_a_whole_site_survives_being_written_and_read() -> None:
    site = Site(
        server=Server(bind=["127.0.0.1:0", "[::1]:1"], trusted_proxies=["10.0.0.0/8", "unix:"], max_connections_per_ip=5),
        apps={
            "chat": App(
                name="chat",
                command=["sh", "-c", 'echo "\\$$HOME" ${A} $${B} $$${', "${"],
                port="auto",
                env={"A B": "\t\x7f", "C": "ü${D}"},
                routing=Routes(client=Routing.JSON),
                history=History(size=3),
                rate=Rate(bytes=1000),
                delimiter="\0\n",
                idle_timeout=5405.25,
                stop_signal=2,
                rooms=("a", "b"),
            ),
            "mud": App(name="mud", tcp="[::1]:4000", mount="/", routing="json", join_message=""),
        },
    )

    assert parse_site(render_site(site), Path("/site.toml"), {}).model_copy(update={"path": None}) == site


def test_keys_with_their_default_can_be_omitted() -> None:
    json_chat = App(name="app", command=["cat"], mount="/", routing="json", pass_env=("PATH",))
    quiet = App(name="app", command=["cat"], routing="json", join_message="")

    assert render_table(json_chat, only_changed=True) == (
        'mount = "/"\ncommand = ["cat"]\npass_env = ["PATH"]\nrouting = "json"\n'
    )
    assert render_table(quiet, only_changed=True) == 'command = ["cat"]\nrouting = "json"\njoin_message = ""\n'
    assert render_table(Server(api=False), only_changed=True) == "api = false\n"


def test_a_comment_can_name_the_place_of_each_value(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text('[defaults]\nenv = { A = "1" }\n[apps.chat]\ncommand = "cat"\n[apps.chat.env]\nB = "2"\n')
    loaded = load_site_with_origins(path)

    lines = render_site(loaded.site, origins=loaded.origins).splitlines()

    assert f'command = ["cat"]  # {path}:4:11' in lines
    assert f'env = {{ A = "1", B = "2" }}  # {path}:2:13, {path}:6:5' in lines
    assert "max_rooms = 1000  # default" in lines
