"""The declaration of a key of the site file, besides its type: meaning, class of its edits, whether it is secret."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from types import MappingProxyType
from typing import get_args

from pydantic import BaseModel, ConfigDict


class Reload(StrEnum):
    """The class of a key: what an edit to it does to a running site."""

    LIVE = "live"
    """Applies at once, to running rooms too."""
    NEXT = "next"
    """Applies to rooms that are opened afterwards; running rooms keep their settings."""
    LISTENER = "listener"
    """Opens new sockets before the old ones are closed; open connections stay."""
    FIXED = "fixed"
    """Is fixed when the server starts; a site with another value is not applied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """The declaration of one key, put into the annotation of its field."""

    meaning: str
    reload: Reload
    default: str | None = None
    """The default in words, if the value itself does not say it."""
    is_secret: bool = False
    """Masked wherever configuration is shown; see `secrets.py`."""
    is_url: bool = False
    """Its user, password and query are masked wherever configuration is shown."""
    is_in_file: bool = True
    """False for fields that are not keys of the site file: the app's name, and flags of the command line without a file."""


class Table(BaseModel):
    """A table of the site file: frozen, and without other keys than those it declares."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


def live_key(meaning: str, *, default: str | None = None, secret: bool = False, url: bool = False) -> Key:
    """Declare a key whose edits apply at once."""
    return Key(meaning=meaning, reload=Reload.LIVE, default=default, is_secret=secret, is_url=url)


def next_key(meaning: str, *, default: str | None = None, in_file: bool = True) -> Key:
    """Declare a key whose edits apply to rooms that are opened afterwards."""
    return Key(meaning=meaning, reload=Reload.NEXT, default=default, is_in_file=in_file)


def listener_key(meaning: str, *, default: str | None = None) -> Key:
    """Declare a key whose edits open new sockets."""
    return Key(meaning=meaning, reload=Reload.LISTENER, default=default)


def fixed_key(meaning: str, *, default: str | None = None, secret: bool = False, url: bool = False) -> Key:
    """Declare a key whose edits need a restart of the server."""
    return Key(meaning=meaning, reload=Reload.FIXED, default=default, is_secret=secret, is_url=url)


@cache
def keys_of(model: type[BaseModel]) -> Mapping[str, Key]:
    """Return the declarations of a model's fields by name, in the order of the documentation."""
    found = {name: key for name, field in model.model_fields.items() for key in field.metadata if isinstance(key, Key)}
    return MappingProxyType(found)


def file_keys_of(model: type[BaseModel]) -> tuple[str, ...]:
    """Return the names of a model's fields that are keys of the site file."""
    return tuple(name for name, key in keys_of(model).items() if key.is_in_file)


@cache
def table_of(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """Return the model of the table that is the value of a key; None for other and unknown keys."""
    field = model.model_fields.get(name)
    if field is None:
        return None
    for annotation in (field.annotation, *get_args(field.annotation)):
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return annotation
    return None
