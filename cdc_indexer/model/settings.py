"""config.json, server.json and the environment -> one frozen :class:`Settings`.

A value in the environment (``CDC_INDEXER_DATABASE__PASSWORD``, or ``CDC_INDEXER_DATABASE__PASSWORD_FILE``
with the name of a file that holds it) wins over the one in the file; a whole object there is written as JSON and
replaces the file's. Every mistake is a ConfigError of one sentence that names the key and where it was read, and
never repeats a value: it might be a secret.
"""

from __future__ import annotations

import math
import os
import socket
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from cdc_indexer.model._kinds import (
    BatchSize,
    FieldNames,
    File,
    Header,
    Host,
    Listen,
    NotBlank,
    PathName,
    Port,
    Section,
    Socket,
    Text,
    Url,
    Verify,
    wrong,
)
from cdc_indexer.model._sources import BESIDE, WHERE, override, read_json, sentence
from cdc_indexer.model.alert_settings import AlertSettings
from cdc_indexer.model.errors import ConfigError

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

#: What Settings has but config.json hasn't.
_NOT_IN_FILE = ("center", "config_path")


#: How long a study must be quiet where it is sent once and never corrected. DCM4CHEE 2.18 looks every minute for series
#: whose last image came at least a minute ago, and counts them: up to two minutes after that image (its
#: conf/xmdesc/dcm4chee-storescp-xmbean.xml: CheckPendingSeriesStoredInterval and SeriesStoredNotificationDelay, 1m each).
#: Half a minute more for an archive that is busy.
STABLE_SETTLE_SECONDS = 150.0

#: What grows for longer than this is sent although it isn't quiet, where it may be sent once more.
MAX_WAIT_SECONDS = 60.0


class TlsSettings(Section):
    """TLS to the database, verified unless ``verify`` is false. ``cert`` may hold its ``key`` as well.

    ``verify`` "ca": the certificate must be signed by the CA, and may name another host or none.
    """

    ca: File | None = None
    cert: File | None = None
    key: File | None = None
    verify: Verify = True

    @model_validator(mode="after")
    def _key_belongs_to_a_certificate(self) -> TlsSettings:
        if self.key is not None and self.cert is None:
            raise wrong("has a key without its cert")
        if self.verify == "ca" and self.ca is None:
            raise wrong('has verify "ca" without a ca: name the file of the CA that signs for the server')
        return self


class DatabaseSettings(Section):
    """Where the PACS's database is. With ``unix_socket`` host and port aren't used."""

    host: Host
    port: Port = 3306
    user: Text
    password: SecretStr
    name: Text
    unix_socket: Socket | None = None
    tls: TlsSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _socket_needs_no_host(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("unix_socket"):
            return {"host": "localhost", **values}
        return values


class StreamSettings(Section):
    """How the binary log is followed. ``server_id`` None: the service derives one."""

    server_id: Annotated[int, Field(ge=1, le=0xFFFFFFFF)] | None = None
    heartbeat_seconds: float = Field(default=5.0, ge=0.1, le=300)
    audit_seconds: float = Field(default=60.0, ge=0.1, le=86_400)


class DeliverySettings(Section):
    """How studies are sent. ``client_cert`` is one PEM file with the certificate and its key.

    ``batch_size``: "auto" sends arrays to an index that says it takes them; a number, of up to so many, whatever it says.
    """

    concurrency: int = Field(default=8, ge=1, le=256)
    timeout_seconds: float = Field(default=10.0, ge=0.1, le=600)
    send: Literal["immediate", "stable"] = "immediate"
    updates: bool = True
    deletes: Literal["ignore", "delete"] = "ignore"
    settle_seconds: float = Field(default=5.0, ge=0, le=3600)
    batch_size: BatchSize = "auto"
    ca: File | None = None
    client_cert: File | None = None
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


class ReconcileSettings(Section):
    """How often archive and ledger (and index) are compared, and how quickly; ``every_hours`` 0: only when asked."""

    every_hours: float = Field(default=24.0, ge=0, le=8760)
    studies_per_second: float = Field(default=2000.0, ge=1, le=100_000)


class MonitorSettings(Section):
    """Where the status page listens, ADDRESS:PORT; None: nowhere. ``quiet_hours``: so long without a new study is said."""

    listen: Listen | None = "127.0.0.1:9108"
    quiet_hours: float | None = Field(default=None, gt=0, le=8760)

    @property
    def address(self) -> tuple[str, int] | None:
        """``listen`` as host and port."""
        if self.listen is None:
            return None
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


class LogSettings(Section):
    """``auto``: for people on a terminal, JSON elsewhere."""

    format: Literal["auto", "json", "console"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(Section):
    """Everything that can be set; paths are absolute. ``center`` comes from server.json."""

    database: DatabaseSettings
    key: Header
    webservice_url: Url
    center: NotBlank
    state_dir: PathName
    stream: StreamSettings = StreamSettings()
    delivery: DeliverySettings = DeliverySettings()
    reconcile: ReconcileSettings = ReconcileSettings()
    fields: FieldNames = {}  # noqa: RUF012 - pydantic copies it
    monitor: MonitorSettings = MonitorSettings()
    alerts: AlertSettings = AlertSettings()
    log: LogSettings = LogSettings()
    config_path: Path

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that must never be printed."""
        email = self.alerts.email
        values = (self.key, self.database.password, self.alerts.webhook_secret, email and email.password)
        return tuple(value.get_secret_value() for value in values if value)

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
    values = read_json(config_path, WHERE)
    for name in _NOT_IN_FILE:
        if name in values:
            hint = ": the centre is read from server.json" if name == "center" else ""
            raise ConfigError(f"{config_path}: {name} isn't a key of this file{hint}.")
    values.pop("server", None)  # the old client's files have one that means nothing
    values.setdefault("state_dir", "state")

    origins = override(values, os.environ if environ is None else environ, base, Settings, {"config_path"})
    server_path = base / "server.json"
    if "center" not in values:
        server = read_json(server_path, BESIDE)
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
