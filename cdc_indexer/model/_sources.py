"""Where settings come from: JSON files and the environment, and what is said about a mistake in them.

Knows nothing of the settings themselves: the model is handed in.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from cdc_indexer.model.errors import ConfigError

PREFIX = "CDC_INDEXER_"

#: Variables of our prefix that aren't settings: the tests' own, and those that Kubernetes gives to every
#: container beside a service that is called cdc-indexer.
_NOT_SETTINGS = re.compile(r"CDC_INDEXER_(TEST_.*|FAILPOINT|SERVICE_HOST|SERVICE_PORT.*|PORT|PORT_\d+_.*)")

#: A file of settings or a secret is small; more is a mistake (a device, a log).
_MAX_FILE_BYTES = 1024 * 1024


# --- files -----------------------------------------------------------------------------------------------


#: What to do about a file of settings that can't be had; extras/cdc-indexer.service and the package have it there.
WHERE = "go to the directory that has it, such as /etc/cdc-indexer, or name it with `--config FILE`"
BESIDE = 'put it beside config.json, with the code that the region gave you: {"server": "CODE"}'
_NOT_ALLOWED = (
    "type it as root or as the service's account, such as: runuser -u cdc-indexer -- cdc-indexer check"
)


def _read_text(path: Path, what: str, absent: str = "") -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{what} isn't there: {absent}." if absent else f"{what} isn't there.") from None
    except PermissionError as error:
        raise ConfigError(f"{what} can't be read ({error.strerror}): {_NOT_ALLOWED}.") from None
    except OSError as error:
        raise ConfigError(f"{what} can't be read ({error.strerror}).") from None
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigError(f"{what} is larger than 1 MiB: that can't be it.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{what} isn't UTF-8.") from None


def read_json(path: Path, absent: str = "") -> dict[str, Any]:
    """A file's JSON object; raises ConfigError with its name. ``absent``: what to do when it isn't there."""
    text = _read_text(path, f"The file {path}", absent)
    if not text.strip():
        raise ConfigError(f"The file {path} is empty: put into it what README.md shows in step 5.")
    try:
        values = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path} isn't valid JSON: {error.msg}, line {error.lineno}, column {error.colno}."
        ) from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path} holds a number that is too long or nests too deeply.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a JSON object {{ }}.")
    return values


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ConfigError(f"{next(name for name in names if names.count(name) > 1)} is there twice.")
    return values


def _no_constant(name: str) -> None:
    raise ConfigError(f"{name} isn't a number that JSON knows.")


# --- environment -----------------------------------------------------------------------------------------


def override(
    values: dict[str, Any],
    environ: Mapping[str, str],
    base: Path,
    model: type[BaseModel],
    hidden: Collection[str] = (),
) -> dict[str, str]:
    """Puts the environment's values into ``values``; dotted key -> the variable that it came from.

    ``base`` is where relative names of files begin; ``hidden`` are the model's keys that can't be set.
    """
    origins: dict[str, str] = {}
    # Shorter names first: a whole object, then the keys inside it.
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or _NOT_SETTINGS.fullmatch(variable):
            continue
        name = variable.removesuffix("_FILE")
        path = name.removeprefix(PREFIX).lower().split("__")
        annotation = _annotation(model, path)
        if annotation is None or path[0] in hidden:
            raise ConfigError(
                f"The environment variable {variable} isn't a setting: correct its name or remove it."
            )
        dotted = ".".join(path)
        if dotted in origins:
            raise ConfigError(f"The environment has both {name} and {name}_FILE: remove one.")
        text = environ[variable]
        if name != variable:
            file = (base / text).absolute()
            text = (
                _read_text(file, f"The file that {variable} names ({file})")
                .removesuffix("\n")
                .removesuffix("\r")
            )
        _put(values, path, _convert(annotation, text, variable))
        origins[dotted] = f"environment variable {variable}"
    return origins


def _annotation(model: type[BaseModel], path: list[str]) -> Any:
    """The type of the setting that a dotted path names; None if there is none."""
    field = model.model_fields.get(path[0])
    if field is None:
        return None
    if len(path) == 1:
        return field.annotation
    nested = _model_in(field.annotation)
    return _annotation(nested, path[1:]) if nested else None


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for candidate in _leaves(annotation):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _convert(annotation: Any, text: str, variable: str) -> Any:
    """A variable's text as the type that the file would have; objects are written as JSON, and null where it may be."""
    if text == "null" and type(None) in _leaves(annotation):
        return None
    if _model_in(annotation) or get_origin(annotation) is dict:
        try:
            value = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
        except (ValueError, ConfigError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise ConfigError(f"environment variable {variable} must be a JSON object {{ }}.")
        return value
    for kind in (bool, int, float):
        if kind in _leaves(annotation):
            try:
                return TypeAdapter(kind).validate_python(text)
            except ValidationError:
                return text  # the model says what is wrong with it
    return text


def _leaves(annotation: Any) -> list[Any]:
    """The types that ``Annotated`` and ``|`` are made of."""
    inside = get_args(annotation)
    return [leaf for part in inside for leaf in _leaves(part)] if inside else [annotation]


def _put(values: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        inner = values.get(name)
        if not isinstance(inner, dict):
            if inner is not None:
                return  # a section that isn't an object: the model says so
            inner = values[name] = {}
        values = inner
    values[path[-1]] = value


# --- sentences -------------------------------------------------------------------------------------------

_SAID = {
    "missing": "is missing",
    "string_type": "must be a text in quotes",
    "path_type": "must be a text in quotes",
    "is_instance_of": "must be a text in quotes",
    "string_too_short": "must not be empty",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a number",
    "bool_type": "must be true or false",
    "model_type": "must be an object { }",
    "dict_type": "must be an object { }",
    "literal_error": "must be {expected}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}


def sentence(
    detail: ErrorDetails,
    config_path: Path,
    origins: Mapping[str, str],
    model: type[BaseModel],
    hidden: Collection[str] = (),
) -> str:
    """One mistake that pydantic found, for people, without the value."""
    kind, context = detail["type"], detail.get("ctx", {})
    path = [str(part) for part in detail["loc"] if part != "[key]"]
    dotted = ".".join(path)
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(path[-1], _siblings(path, model, hidden), n=1)
        said = "isn't a known key" + (f": did you mean {close[0]}?" if close else ".")
    elif kind == "said":
        said = detail["msg"] + "."
    else:
        said = _SAID.get(kind, "has a value that can't be used")
        for name, value in context.items():
            said = said.replace(f"{{{name}}}", str(value))
        said += "."
    # The nearest object above the key that the environment gave.
    ways = (origins.get(".".join(path[:length])) for length in range(len(path), 0, -1))
    origin = next((way for way in ways if way), None)
    if origin is None:
        return f"{config_path}: {dotted} {said}"
    return f"{origin} {said}" if dotted == "center" else f"{dotted} ({origin}) {said}"


def _siblings(path: list[str], model: type[BaseModel], hidden: Collection[str]) -> list[str]:
    inner: type[BaseModel] | None = model
    for name in path[:-1]:
        field = inner.model_fields.get(name) if inner else None
        inner = _model_in(field.annotation) if field else None
    return [name for name in inner.model_fields if name not in hidden] if inner else []
