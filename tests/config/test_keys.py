"""The declarations of the keys. Names, defaults and classes are fixed, because site files rely on them."""

from typing import Any

import pytest
from pydantic import BaseModel

from scalesocket.config.keys import file_keys_of, keys_of, table_of
from scalesocket.config.model import App, Cluster, Server
from scalesocket.config.render import table_record

SERVER = {
    "bind": (["127.0.0.1:9000"], "listener"),
    "tls": (None, "live"),
    "metrics": (True, "live"),
    "api": (True, "live"),
    "metrics_rooms": (False, "live"),
    "control": ("auto", "listener"),
    "admin": (None, "listener"),
    "trusted_proxies": ([], "live"),
    "hosts": (None, "live"),
    "http2_websockets": (False, "live"),
    "handshake_timeout": ("10s", "live"),
    "max_connections": (10_000, "live"),
    "max_connections_per_ip": (None, "live"),
    "connect_rate": (None, "live"),
    "drain_timeout": ("10s", "live"),
    "log": ({"format": "text", "level": "info"}, "live"),
    "workers": (1, "fixed"),
}
CLUSTER = {
    "engine": ("redis://10.0.0.2/0", "fixed"),
    "name": ("scalesocket", "fixed"),
    "node": (None, "fixed"),
    "listen": ("10.0.0.5:9100", "fixed"),
    "advertise": (None, "fixed"),
    "secret": ("***", "fixed"),
    "tls": (None, "fixed"),
    "lease": ("15s", "fixed"),
    "placement": ("local", "fixed"),
    "on_engine_loss": ("stop", "fixed"),
}
APP = {
    "mount": ("/chat", "next"),
    "command": (["cat"], "next"),
    "port": (None, "next"),
    "tcp": (None, "next"),
    "unix": (None, "next"),
    "start_timeout": ("10s", "next"),
    "cwd": ("/srv", "next"),
    "env": ({}, "next"),
    "pass_env": (["PATH", "LANG", "HOME"], "next"),
    "user": (None, "next"),
    "group": (None, "next"),
    "limits": (None, "next"),
    "routing": ("broadcast", "next"),
    "byte_order": ("little", "next"),
    "binary": (False, "next"),
    "delimiter": (None, "next"),
    "auth": (None, "live"),
    "join_message": ("", "live"),
    "leave_message": ("", "live"),
    "client_keys": ([], "next"),
    "history": (None, "next"),
    "max_record": ("16MiB", "next"),
    "rooms": (None, "live"),
    "room_pattern": (r"[\w.~-]{1,128}", "live"),
    "max_rooms": (1000, "live"),
    "room_rate": (None, "live"),
    "max_clients": (None, "live"),
    "max_connections": (None, "live"),
    "idle_timeout": ("0s", "live"),
    "client_idle_timeout": (None, "live"),
    "max_lifetime": (None, "live"),
    "ping_interval": ("25s", "live"),
    "ping_timeout": ("10s", "live"),
    "restart": ("never", "live"),
    "stop_signal": ("SIGTERM", "live"),
    "stop_timeout": ("3s", "live"),
    "oneshot": (False, "next"),
    "max_message": ("1MiB", "live"),
    "rate": (None, "live"),
    "send_buffer": ("1MiB", "live"),
    "slow_client": ("close", "live"),
    "stall_timeout": ("10s", "live"),
    "compression": (False, "live"),
    "origins": (None, "live"),
    "subprotocols": ([], "live"),
    "listed": (True, "live"),
    "static": (None, "live"),
    "static_headers": ({}, "live"),
}


def declared(table: Server | Cluster | App) -> dict[str, tuple[Any, str]]:
    record, keys = table_record(table), keys_of(type(table))
    return {name: (record.get(name), keys[name].reload.value) for name in file_keys_of(type(table))}


def test_the_keys_of_the_server_have_their_fixed_defaults_and_classes() -> None:
    assert declared(Server()) == SERVER


def test_the_keys_of_a_cluster_have_their_fixed_defaults_and_classes() -> None:
    cluster = Cluster.model_validate(
        {"engine": "redis://10.0.0.2/0", "listen": "10.0.0.5:9100", "secret": "16 characters or more"}
    )

    assert declared(cluster) == CLUSTER


def test_the_keys_of_an_app_have_their_fixed_defaults_and_classes() -> None:
    assert declared(App(name="chat", command=["cat"], cwd="/srv")) == APP


def all_models(model: type[BaseModel]) -> list[type[BaseModel]]:
    inner = [table for name in model.model_fields if (table := table_of(model, name))]
    return [model, *(found for table in inner for found in all_models(table))]


@pytest.mark.parametrize("model", [*all_models(Server), *all_models(Cluster), *all_models(App)])
def test_every_field_declares_its_meaning_and_class(model: type[BaseModel]) -> None:
    assert keys_of(model).keys() == model.model_fields.keys()
    assert all(key.meaning and not key.meaning.endswith(".") for key in keys_of(model).values())
