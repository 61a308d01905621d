"""config.json, server.json and the environment -> one frozen :class:`Settings`.

A value in the environment (``CDC_INDEXER_DATABASE__PASSWORD``, or ``CDC_INDEXER_DATABASE__PASSWORD_FILE``
with the name of a file that holds it) wins over the one in the file; a whole object there is written as JSON and
replaces the file's. Every mistake is a ConfigError of one sentence that names the key and where it was read, and
never repeats a value: it might be a secret.
"""

from __future__ import annotations

import math
import os
import re
import socket
import zlib
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError

from cdc_indexer.model._sources import override, read_json, sentence
from cdc_indexer.model.errors import ConfigError
from cdc_indexer.model.study import KEYS

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

#: Keys that a study's JSON has already, or has in a batch.
_RESERVED_FIELDS = frozenset({*KEYS, "idempotency_key", "version"})

#: What Settings has but config.json hasn't.
_NOT_IN_FILE = ("center", "config_path")


def _wrong(what: str) -> PydanticCustomError:
    return PydanticCustomError("said", what)


def _path(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str):
        return value
    if not value or "\0" in value:
        raise _wrong("must be the name of a file or directory")
    base: Path = info.context["base"] if info.context else Path()
    return (base / value).absolute()


def _socket(value: object, info: ValidationInfo) -> object:
    path = _path(value, info)
    return str(path) if isinstance(path, Path) else path


def _existing_file(path: Path) -> Path:
    if not path.is_file():
        raise _wrong("names a file that isn't there")
    return path


def _host(value: str) -> str:
    """A host as the driver wants it: an IPv6 address without the brackets that it has in a URL."""
    value = value.strip()
    if value.startswith("[") and value.endswith("]"):
        value = value[1:-1]
    address = value.partition("%")[0]
    try:
        ascii_host = value.encode("idna").decode()
    except UnicodeError:
        ascii_host = ""
    if not _HOST.fullmatch(ascii_host) and not (":" in address and _is_address(address)):
        raise _wrong("holds a host name that can't exist")
    return value


_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")


def _is_address(value: str) -> bool:
    try:
        ip_address(value)
    except ValueError:
        return False
    return True


def _not_blank(value: str) -> str:
    if not value.strip():
        raise _wrong("must not be blank")
    return value


def _verify(value: object) -> object:
    if value != "ca" and not isinstance(value, bool):
        raise _wrong('must be true, false or "ca"')
    return value


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
    if ":" not in host and not _HOST.fullmatch(ascii_host):
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


def _batch_size(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1000):
        return value
    raise _wrong('must be "auto" or a whole number from 1 to 1000')


_Text = Annotated[str, Field(min_length=1), AfterValidator(_printable)]
_Port = Annotated[int, BeforeValidator(_port), Field(ge=1, le=65535)]
_Path = Annotated[Path, BeforeValidator(_path)]
_Socket = Annotated[str, BeforeValidator(_socket)]
_File = Annotated[Path, BeforeValidator(_path), AfterValidator(_existing_file)]


#: How long a study must be quiet where it is sent once and never corrected. DCM4CHEE 2.18 looks every minute for series
#: whose last image came at least a minute ago, and counts them: up to two minutes after that image (its
#: conf/xmdesc/dcm4chee-storescp-xmbean.xml: CheckPendingSeriesStoredInterval and SeriesStoredNotificationDelay, 1m each).
#: Half a minute more for an archive that is busy.
STABLE_SETTLE_SECONDS = 150.0

#: What grows for longer than this is sent although it isn't quiet, where it may be sent once more.
MAX_WAIT_SECONDS = 60.0


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False
    )


class TlsSettings(_Section):
    """TLS to the database, verified unless ``verify`` is false. ``cert`` may hold its ``key`` as well.

    ``verify`` "ca": the certificate must be signed by the CA, and may name another host or none.
    """

    ca: _File | None = None
    cert: _File | None = None
    key: _File | None = None
    verify: Annotated[bool | Literal["ca"], BeforeValidator(_verify)] = True

    @model_validator(mode="after")
    def _key_belongs_to_a_certificate(self) -> TlsSettings:
        if self.key is not None and self.cert is None:
            raise _wrong("has a key without its cert")
        if self.verify == "ca" and self.ca is None:
            raise _wrong('has verify "ca" without a ca: name the file of the CA that signs for the server')
        return self


class DatabaseSettings(_Section):
    """Where the PACS's database is. With ``unix_socket`` host and port aren't used."""

    host: Annotated[_Text, AfterValidator(_host)]
    port: _Port = 3306
    user: _Text
    password: SecretStr
    name: _Text
    unix_socket: _Socket | None = None
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
    """How studies are sent. ``client_cert`` is one PEM file with the certificate and its key.

    ``batch_size``: "auto" sends arrays to an index that says it takes them; a number, of up to so many, whatever it says.
    """

    concurrency: int = Field(default=8, ge=1, le=256)
    timeout_seconds: float = Field(default=10.0, ge=0.1, le=600)
    send: Literal["immediate", "stable"] = "immediate"
    updates: bool = True
    deletes: Literal["ignore", "delete"] = "ignore"
    settle_seconds: float = Field(default=5.0, ge=0, le=3600)
    batch_size: Annotated[Literal["auto"] | int, BeforeValidator(_batch_size)] = "auto"
    ca: _File | None = None
    client_cert: _File | None = None
    give_up_seconds: float = Field(default=3600.0, gt=0, le=2_592_000)

    @property
    def quiet_seconds(self) -> float:
        """``settle_seconds`` as set, or as long as what is sent needs."""
        if self.send == "stable" and not self.updates and "settle_seconds" not in self.model_fields_set:
            return STABLE_SETTLE_SECONDS
        return self.settle_seconds

    @property
    def max_wait_seconds(self) -> float:
        """A study that never is quiet is sent so long after the first of its rows that wait, if it may be sent once more."""
        if self.send == "stable" and not self.updates:
            return math.inf
        return max(self.quiet_seconds, MAX_WAIT_SECONDS)


class ReconcileSettings(_Section):
    """How often archive and ledger (and index) are compared, and how quickly; ``every_hours`` 0: only when asked."""

    every_hours: float = Field(default=24.0, ge=0, le=8760)
    studies_per_second: float = Field(default=2000.0, ge=1, le=100_000)


class MonitorSettings(_Section):
    """Where the status page listens, ADDRESS:PORT; None: nowhere. ``quiet_hours``: so long without a new study is said."""

    listen: Annotated[str, AfterValidator(_listen)] | None = "127.0.0.1:9108"
    quiet_hours: float | None = Field(default=None, gt=0, le=8760)

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
    center: Annotated[_Text, AfterValidator(_not_blank)]
    state_dir: _Path
    stream: StreamSettings = StreamSettings()
    delivery: DeliverySettings = DeliverySettings()
    reconcile: ReconcileSettings = ReconcileSettings()
    fields: Annotated[dict[str, Annotated[str, AfterValidator(_column)]], AfterValidator(_field_names)] = {}
    monitor: MonitorSettings = MonitorSettings()
    log: LogSettings = LogSettings()
    config_path: Path

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that must never be printed."""
        values = (self.key.get_secret_value(), self.database.password.get_secret_value())
        return tuple(value for value in values if value)

    @property
    def server_id(self) -> int:
        """Ours as a replica: as set, else the same for this machine and state directory, and above 2^31 so that no
        server of the house is likely to have it.
        """
        if self.stream.server_id is not None:
            return self.stream.server_id
        return 0x80000000 | zlib.crc32(f"{socket.gethostname()}:{self.state_dir}".encode())


def load_settings(config_path: Path, environ: Mapping[str, str] | None = None) -> Settings:
    """Reads ``config_path``, server.json beside it, and the environment (``os.environ`` if None).

    Raises ConfigError: one sentence that names the key or the file, without its value.
    """
    config_path = config_path.absolute()
    base = config_path.parent
    values = read_json(config_path)
    for name in _NOT_IN_FILE:
        if name in values:
            hint = ": the centre is read from server.json" if name == "center" else ""
            raise ConfigError(f"{config_path}: {name} isn't a key of this file{hint}.")
    values.pop("server", None)  # the old client's files have one that means nothing
    values.setdefault("state_dir", "state")

    origins = override(values, os.environ if environ is None else environ, base, Settings, {"config_path"})
    server_path = base / "server.json"
    if "center" not in values:
        server = read_json(server_path)
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
        raise ConfigError(sentence(details[0], config_path, origins, Settings, _NOT_IN_FILE)) from None
