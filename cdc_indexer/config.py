"""config.json, server.json and the environment -> one frozen :class:`Settings`.

A value in the environment (``CDC_INDEXER_DATABASE__PASSWORD``, or ``CDC_INDEXER_DATABASE__PASSWORD_FILE``
with the name of a file that holds it) wins over the one in the file; a whole object there is written as JSON and
replaces the file's. Every mistake is a ConfigError of one sentence that names the key and where it was read, and
never repeats a value: it might be a secret.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from cdc_indexer.errors import ConfigError
from cdc_indexer.study import KEYS

__all__ = [
    "DatabaseSettings",
    "DeliverySettings",
    "LogSettings",
    "MonitorSettings",
    "Settings",
    "StreamSettings",
    "TlsSettings",
    "load_settings",
]

PREFIX = "CDC_INDEXER_"

#: Variables of our prefix that aren't settings: the tests' own, and those that Kubernetes gives to every
#: container beside a service that is called cdc-indexer.
_NOT_SETTINGS = re.compile(r"CDC_INDEXER_(TEST_.*|FAILPOINT|SERVICE_HOST|SERVICE_PORT.*|PORT|PORT_\d+_.*)")

#: Keys that a study's JSON has already, or has in a batch.
_RESERVED_FIELDS = frozenset({*KEYS, "idempotency_key"})

#: A file of settings or a secret is small; more is a mistake (a device, a log).
_MAX_FILE_BYTES = 1024 * 1024


def _wrong(what: str) -> PydanticCustomError:
    return PydanticCustomError("said", what)


def _path(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str):
        return value
    if not value or "\0" in value:
        raise _wrong("must be the name of a file or directory")
    base: Path = info.context["base"] if info.context else Path()
    return (base / value).absolute()


def _existing_file(path: Path) -> Path:
    if not path.is_file():
        raise _wrong("names a file that isn't there")
    return path


def _port(value: object) -> object:
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,5}", value) else value


def _printable(value: str) -> str:
    if not value.isprintable():
        raise _wrong("holds characters that can't be printed")
    return value


def _header(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text:
        raise _wrong("must not be empty")
    if not (text.isascii() and text.isprintable()) or text != text.strip():
        raise _wrong(
            "holds characters that an HTTP header can't carry (a space or line end at its edge, or not ASCII)"
        )
    return value


def _url(value: str) -> str:
    if not value.isprintable() or " " in value:
        raise _wrong("must not hold spaces or line ends")
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise _wrong("is not an address: expected https://host/path") from None
    if parts.scheme not in ("http", "https") or not host:
        raise _wrong("must begin with http:// or https:// and a host")
    if "@" in parts.netloc:
        raise _wrong("must not hold a user or password: the web service knows us by `key`")
    if parts.fragment:
        raise _wrong("must not hold a '#'")
    try:
        ascii_host = host.encode("idna").decode()
    except UnicodeError:
        ascii_host = ""
    if ":" not in host and not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?", ascii_host):
        raise _wrong("holds a host name that can't exist")
    return value


def _listen(value: str) -> str:
    host, _, port = value.rpartition(":")
    if (
        not host
        or not re.fullmatch(r"[0-9]{1,5}", port)
        or int(port) > 65535
        or ("[" in host) != (":" in host)
    ):
        raise _wrong("must be ADDRESS:PORT, such as 127.0.0.1:9108 or [::1]:9108")
    return value


def _column(value: str) -> str:
    if not re.fullmatch(r"[0-9A-Za-z_$]{1,64}", value):
        raise _wrong("must be the name of a column of indexer_study")
    return value


def _field_names(value: dict[str, str]) -> dict[str, str]:
    for name in value:
        if not name or not name.isprintable():
            raise _wrong("holds an empty or unprintable name")
        if name in _RESERVED_FIELDS:
            raise _wrong(f"can't use the name {name}: every study's JSON has it already")
    return value


_Text = Annotated[str, Field(min_length=1), AfterValidator(_printable)]
_Port = Annotated[int, BeforeValidator(_port), Field(ge=1, le=65535)]
_Path = Annotated[Path, BeforeValidator(_path)]
_File = Annotated[Path, BeforeValidator(_path), AfterValidator(_existing_file)]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False
    )


class TlsSettings(_Section):
    """TLS to the database, verified unless ``verify`` is false. ``cert`` may hold its ``key`` as well."""

    ca: _File | None = None
    cert: _File | None = None
    key: _File | None = None
    verify: bool = True

    @model_validator(mode="after")
    def _key_belongs_to_a_certificate(self) -> TlsSettings:
        if self.key is not None and self.cert is None:
            raise _wrong("has a key without its cert")
        return self


class DatabaseSettings(_Section):
    """Where the PACS's database is. With ``unix_socket`` host and port aren't used."""

    host: _Text
    port: _Port = 3306
    user: _Text
    password: SecretStr
    name: _Text
    unix_socket: _Text | None = None
    tls: TlsSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _socket_needs_no_host(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("unix_socket"):
            return {"host": "localhost", **values}
        return values


class StreamSettings(_Section):
    """How the binary log is followed. ``server_id`` None: the service derives one."""

    server_id: Annotated[int, Field(ge=1, le=0xFFFFFFFF)] | None = None
    heartbeat_seconds: float = Field(default=5.0, ge=0.1, le=300)
    audit_seconds: float = Field(default=60.0, ge=0.1, le=86_400)


class DeliverySettings(_Section):
    """How studies are sent. ``client_cert`` is one PEM file with the certificate and its key."""

    concurrency: int = Field(default=8, ge=1, le=256)
    timeout_seconds: float = Field(default=10.0, ge=0.1, le=600)
    send: Literal["immediate", "stable"] = "immediate"
    updates: bool = True
    deletes: Literal["ignore", "delete"] = "ignore"
    settle_seconds: float = Field(default=5.0, ge=0, le=3600)
    batch_size: int = Field(default=1, ge=1, le=1000)
    ca: _File | None = None
    client_cert: _File | None = None
    give_up_seconds: float = Field(default=3600.0, gt=0, le=2_592_000)


class MonitorSettings(_Section):
    """Where the status page listens, ADDRESS:PORT; None: nowhere."""

    listen: Annotated[str, AfterValidator(_listen)] | None = "127.0.0.1:9108"

    @property
    def address(self) -> tuple[str, int] | None:
        """``listen`` as host and port."""
        if self.listen is None:
            return None
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


class LogSettings(_Section):
    """``auto``: for people on a terminal, JSON elsewhere."""

    format: Literal["auto", "json", "console"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(_Section):
    """Everything that can be set; paths are absolute. ``center`` comes from server.json."""

    database: DatabaseSettings
    key: Annotated[SecretStr, AfterValidator(_header)]
    webservice_url: Annotated[str, AfterValidator(_url)]
    center: _Text
    state_dir: _Path
    stream: StreamSettings = StreamSettings()
    delivery: DeliverySettings = DeliverySettings()
    fields: Annotated[dict[str, Annotated[str, AfterValidator(_column)]], AfterValidator(_field_names)] = {}
    monitor: MonitorSettings = MonitorSettings()
    log: LogSettings = LogSettings()
    config_path: Path

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that must never be printed."""
        values = (self.key.get_secret_value(), self.database.password.get_secret_value())
        return tuple(value for value in values if value)


def load_settings(config_path: Path, environ: Mapping[str, str] | None = None) -> Settings:
    """Reads ``config_path``, server.json beside it, and the environment (``os.environ`` if None).

    Raises ConfigError: one sentence that names the key or the file, without its value.
    """
    config_path = config_path.absolute()
    base = config_path.parent
    values = _read_json(config_path)
    for name in ("center", "config_path"):
        if name in values:
            hint = ": the centre is read from server.json" if name == "center" else ""
            raise ConfigError(f"{config_path}: {name} isn't a key of this file{hint}.")
    values.pop("server", None)  # the old client's files have one that means nothing
    values.setdefault("state_dir", "state")

    origins = _override(values, os.environ if environ is None else environ, base)
    server_path = base / "server.json"
    if "center" not in values:
        server = _read_json(server_path)
        values["center"] = server.pop("server", None)
        if values["center"] is None:
            raise ConfigError(
                f'{server_path}: server is missing: expected {{"server": "000"}}, the centre\'s code.'
            )
        if server:
            raise ConfigError(f"{server_path}: {min(server)} isn't a key of this file: it holds only server.")
        origins["center"] = f"{server_path}: server"
    values["config_path"] = config_path
    try:
        return Settings.model_validate(values, context={"base": base})
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        # A misspelt key shows up twice, as unknown and as missing; the first says more.
        details.sort(key=lambda detail: detail["type"] != "extra_forbidden")
        raise ConfigError(_sentence(details[0], config_path, origins)) from None


# --- files -----------------------------------------------------------------------------------------------


def _read_text(path: Path, what: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{what} isn't there.") from None
    except OSError as error:
        raise ConfigError(f"{what} can't be read ({error.strerror}).") from None
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigError(f"{what} is larger than 1 MiB: that can't be it.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{what} isn't UTF-8.") from None


def _read_json(path: Path) -> dict[str, Any]:
    text = _read_text(path, f"The file {path}")
    try:
        values = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path} isn't valid JSON: {error.msg}, line {error.lineno}, column {error.colno}."
        ) from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply.") from None
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


def _override(values: dict[str, Any], environ: Mapping[str, str], base: Path) -> dict[str, str]:
    """Puts the environment's values into ``values``; dotted key -> the variable that it came from."""
    origins: dict[str, str] = {}
    # Shorter names first: a whole object, then the keys inside it.
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or _NOT_SETTINGS.fullmatch(variable):
            continue
        name = variable.removesuffix("_FILE")
        path = name.removeprefix(PREFIX).lower().split("__")
        annotation = _annotation(Settings, path)
        if annotation is None or path == ["config_path"]:
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
    """A variable's text as the type that the file would have; objects are written as JSON."""
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


def _sentence(detail: ErrorDetails, config_path: Path, origins: Mapping[str, str]) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    path = [str(part) for part in detail["loc"] if part != "[key]"]
    dotted = ".".join(path)
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(path[-1], _siblings(path), n=1)
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


def _siblings(path: list[str]) -> list[str]:
    model: type[BaseModel] | None = Settings
    for name in path[:-1]:
        field = model.model_fields.get(name) if model else None
        model = _model_in(field.annotation) if field else None
    names = list(model.model_fields) if model else []
    return [name for name in names if name not in ("center", "config_path")]
