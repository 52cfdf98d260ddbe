"""Messages for the validation errors of pydantic, in the terms of the site file."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime, time
from difflib import get_close_matches
from typing import Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from scalesocket.config.keys import file_keys_of, keys_of, table_of
from scalesocket.config.positions import KeyPath
from scalesocket.config.problems import Finding, quote
from scalesocket.config.secrets import may_be_secret
from scalesocket.config.values import FROM_FILE, FileText

_BOOLEANS: Final = dict.fromkeys(("true", "yes", "on", "1"), "true") | dict.fromkeys(("false", "no", "off", "0"), "false")
TYPE_NAMES: Final[Mapping[type, str]] = {
    bool: "a boolean",
    str: "a string",
    int: "an integer",
    float: "a float",
    list: "an array",
    dict: "a table",
    datetime: "a date and time",
    date: "a date",
    time: "a time",
}


def describe_errors(
    model: type[BaseModel], error: ValidationError, *, elsewhere: Mapping[str, Iterable[str]]
) -> Iterator[Finding]:
    """Describe what is wrong with a table of `model`, one finding for each error of pydantic.

    `elsewhere` has the keys of other sections, by the name of the section, for hints about keys in the wrong place.
    """
    for details in error.errors(include_url=False):
        kind, path = details["type"], tuple(part for part in details["loc"] if part != "[key]")
        if kind == "default_factory_not_called":  # its default depends on a key with an error of its own
            continue
        if kind == "extra_forbidden":
            hints = elsewhere if len(path) == 1 else {}
            message = unknown_key(str(path[-1]), _keys_at(model, path[:-1]), elsewhere=hints)
            yield Finding(path, message, is_about_key=True)
        elif kind == "missing":
            yield Finding(path[:-1], f"{path[-1]} is missing")
        else:
            yield Finding(path, _SENTENCES.get(kind, _other)(details) + _table_hint(model, path, details["input"]))


def unknown_key(key: str, keys: Iterable[str], *, elsewhere: Mapping[str, Iterable[str]]) -> str:
    """Describe an unknown key, as in `unknown key (did you mean "routing"?)`, with the nearest key, its section, or all keys."""
    keys = tuple(keys)
    for section, others in elsewhere.items():
        if key in others:
            return f"unknown key here (it belongs in {section})"
    if near := nearest(key, keys):
        return f'unknown key (did you mean "{near}"?)'
    return f"unknown key (one of: {', '.join(keys)})" if len(keys) <= 8 else "unknown key (all keys are in docs/config.md)"


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Return the word that was probably meant, or None."""
    words = tuple(words)
    folded = word.lower().replace("-", "_")
    squeezed = {candidate.replace("_", ""): candidate for candidate in words}
    if folded.replace("_", "") in squeezed:
        return squeezed[folded.replace("_", "")]
    return next(iter(get_close_matches(folded, words, n=1)), None)


def type_name(value: object) -> str:
    """Return the name of a value's type in TOML, with its article."""
    return next((name for type_, name in TYPE_NAMES.items() if isinstance(value, type_)), type(value).__name__)


def _table_at(model: type[BaseModel], path: KeyPath) -> type[BaseModel] | None:
    for part in path:
        inner = table_of(model, str(part))
        if inner is None:
            return None
        model = inner
    return model


def _keys_at(model: type[BaseModel], path: KeyPath) -> tuple[str, ...]:
    table = _table_at(model, path)
    return () if table is None else file_keys_of(table)


def _table_hint(model: type[BaseModel], path: KeyPath, value: object) -> str:
    """Suggest the table that a single value was probably meant for: ` (write history = { size = 64 })`; empty without one."""
    table = _table_at(model, path)
    if table is None or isinstance(value, Mapping | list):
        return ""
    if value is True and not _errors(table, {}):
        return f" (write {path[-1]} = {{}})"
    for name in file_keys_of(table):
        is_taken = not isinstance(value, bool) and not keys_of(table)[name].is_secret
        if is_taken and not any(details["loc"][:1] == (name,) for details in _errors(table, {name: value})):
            text = quote(value) if isinstance(value, str) else str(value)
            shown = {name: '"…"' if may_be_secret(model, path, is_table=False) else text}
            shown |= {other: '"…"' for other, field in table.model_fields.items() if field.is_required() and other != name}
            return f" (write {path[-1]} = {{ {', '.join(f'{key} = {text}' for key, text in shown.items())} }})"
    return ""


def _errors(table: type[BaseModel], value: Mapping[str, object]) -> list[ErrorDetails]:
    try:
        table.model_validate(value, context=FROM_FILE)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


def _choice(details: ErrorDetails) -> str:
    choices = re.findall(r"'([^']+)'", str(details["ctx"]["expected"]))
    value = details["input"]
    return f"unknown value {_shown(value)} (one of: {', '.join(choices)})"


def _string(details: ErrorDetails) -> str:
    value = details["input"]
    hint = f' (write "{value}")' if isinstance(value, int | float) and not isinstance(value, bool) else ""
    return f"must be a string, not {type_name(value)}{hint}"


def _flag(details: ErrorDetails) -> str:
    value = details["input"]
    meant = _BOOLEANS.get(str(value).lower())
    hint = f" (write {meant}{' without quotes' if meant == value else ''})" if meant is not None else ""
    return _from_variables("true or false", value) or f"must be true or false, not {type_name(value)}{hint}"


def _whole(details: ErrorDetails) -> str:
    value = details["input"]
    return _from_variables("a whole number", value) or f"must be a whole number, not {type_name(value)}{_unquoted(value)}"


def _number(details: ErrorDetails) -> str:
    value = details["input"]
    return _from_variables("a number", value) or f"must be a number, not {type_name(value)}{_unquoted(value)}"


def _from_variables(form: str, value: object) -> str:
    """Describe a value that comes from variables, so that it may be a string; empty for other values."""
    if not isinstance(value, FileText) or not value.is_interpolated:
        return ""
    example = "true or false" if form == "true or false" else "digits, such as 5"
    return f"must be {form}, but its variables make it {_shown(value)} (set them to {example})"


def _unquoted(value: object) -> str:
    return f" (write {value} without quotes)" if isinstance(value, str) and re.fullmatch(r"\d+", value, re.ASCII) else ""


def _must_be(form: str) -> Callable[[ErrorDetails], str]:
    return lambda details: f"must be {form}, not {type_name(details['input'])}"


def _other(details: ErrorDetails) -> str:
    return details["msg"][:1].lower() + details["msg"][1:]


_SENTENCES: Final[Mapping[str, Callable[[ErrorDetails], str]]] = {
    "value_error": lambda details: str(details["ctx"]["error"]),
    "enum": _choice,
    "literal_error": _choice,
    "string_type": _string,
    "string_unicode": lambda _: "is not valid Unicode (retype it)",
    "path_type": _string,
    "bool_type": _flag,
    "int_type": _whole,
    "float_type": _number,
    "tuple_type": _must_be("a string or an array of strings"),
    "dict_type": _must_be("a table"),
    "model_type": _must_be("a table"),
    "model_attributes_type": _must_be("a table"),
    "too_short": lambda _: "is empty (name at least one)",
    "greater_than_equal": lambda details: f"must be at least {details['ctx']['ge']}, not {details['input']}",
    "greater_than": lambda details: f"must be more than {details['ctx']['gt']:g}, not {_shown(details['input'])}",
    "finite_number": lambda _: "must be a finite number",
}


def _shown(value: object) -> str:
    return repr(str(value)) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
