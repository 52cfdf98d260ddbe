"""What a key of the site file declares beside its type: its meaning, what an edit to it does, and whether it is secret."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from types import MappingProxyType
from typing import get_args

from pydantic import BaseModel, ConfigDict


class Reload(StrEnum):
    """What an edit to a key does to a running site."""

    LIVE = "live"
    """At once, for running rooms too."""
    NEXT = "next"
    """For rooms opened from now on; running rooms keep what they have."""
    LISTENER = "listener"
    """New sockets are opened before the old ones close; open connections stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """The declaration of one key, put into the annotation of its field."""

    meaning: str
    reload: Reload
    default: str | None = None
    """The default in words, where the value itself does not say it."""
    is_secret: bool = False
    """Masked wherever configuration is shown; see `secrets.py`."""
    is_in_file: bool = True
    """False for what the site file cannot say: the app's name, which is its table's, and flags of the bare command line."""


class Table(BaseModel):
    """A table of the site file: frozen, and without other keys than those it declares."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


def live_key(meaning: str, *, default: str | None = None, secret: bool = False) -> Key:
    """Declare a key whose edits apply at once."""
    return Key(meaning=meaning, reload=Reload.LIVE, default=default, is_secret=secret)


def next_key(meaning: str, *, default: str | None = None, in_file: bool = True) -> Key:
    """Declare a key whose edits apply to the rooms opened from now on (class *next*)."""
    return Key(meaning=meaning, reload=Reload.NEXT, default=default, is_in_file=in_file)


def listener_key(meaning: str, *, default: str | None = None) -> Key:
    """Declare a key whose edits open new sockets."""
    return Key(meaning=meaning, reload=Reload.LISTENER, default=default)


@cache
def keys_of(model: type[BaseModel]) -> Mapping[str, Key]:
    """The declarations of a model's fields by name, in the order of the documentation."""
    found = {name: key for name, field in model.model_fields.items() for key in field.metadata if isinstance(key, Key)}
    return MappingProxyType(found)


def file_keys_of(model: type[BaseModel]) -> tuple[str, ...]:
    """The names of a model's fields that the site file may set."""
    return tuple(name for name, key in keys_of(model).items() if key.is_in_file)


@cache
def table_of(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The model of the table that is the value of a key; None for other keys and for unknown ones."""
    field = model.model_fields.get(name)
    if field is None:
        return None
    for annotation in (field.annotation, *get_args(field.annotation)):
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return annotation
    return None
