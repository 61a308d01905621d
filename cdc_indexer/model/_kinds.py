"""The kinds of values that settings have, and what is said of one that is wrong; none of these sentences repeats a value."""

from __future__ import annotations

import re
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
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

from cdc_indexer.model.study import KEYS

#: Keys that a study's JSON has already, or has in a batch.
_RESERVED_FIELDS = frozenset({*KEYS, "idempotency_key", "version"})


class Section(BaseModel):
    """An object of config.json: frozen, without unknown keys."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False
    )


def wrong(what: str) -> PydanticCustomError:
    return PydanticCustomError("said", what)


def _path(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str):
        return value
    if not value or "\0" in value:
        raise wrong("must be the name of a file or directory")
    base: Path = info.context["base"] if info.context else Path()
    return (base / value).absolute()


def _socket(value: object, info: ValidationInfo) -> object:
    path = _path(value, info)
    return str(path) if isinstance(path, Path) else path


def _existing_file(path: Path) -> Path:
    if not path.is_file():
        raise wrong("names a file that isn't there")
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
        raise wrong("holds a host name that can't exist")
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
        raise wrong("must not be blank")
    return value


def _verify(value: object) -> object:
    if value != "ca" and not isinstance(value, bool):
        raise wrong('must be true, false or "ca"')
    return value


def _port(value: object) -> object:
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,5}", value) else value


def _printable(value: str) -> str:
    if not value.isprintable():
        raise wrong("holds characters that can't be printed")
    return value


def _header(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text:
        raise wrong("must not be empty")
    if not (text.isascii() and text.isprintable()) or text != text.strip():
        raise wrong(
            "holds characters that an HTTP header can't carry (a space or line end at its edge, or not ASCII)"
        )
    return value


def _url(value: str) -> str:
    if not value.isprintable() or " " in value:
        raise wrong("must not hold spaces or line ends")
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise wrong("is not an address: expected https://host/path") from None
    if parts.scheme not in ("http", "https") or not host:
        raise wrong("must begin with http:// or https:// and a host")
    if "@" in parts.netloc:
        raise wrong("must not hold a user or password: the web service knows us by `key`")
    if parts.fragment:
        raise wrong("must not hold a '#'")
    try:
        ascii_host = host.encode("idna").decode()
    except UnicodeError:
        ascii_host = ""
    if ":" not in host and not _HOST.fullmatch(ascii_host):
        raise wrong("holds a host name that can't exist")
    return value


def _listen(value: str) -> str:
    host, _, port = value.rpartition(":")
    if (
        not host
        or not re.fullmatch(r"[0-9]{1,5}", port)
        or int(port) > 65535
        or ("[" in host) != (":" in host)
    ):
        raise wrong("must be ADDRESS:PORT, such as 127.0.0.1:9108 or [::1]:9108")
    return value


def _column(value: str) -> str:
    if not re.fullmatch(r"[0-9A-Za-z_$]{1,64}", value):
        raise wrong("must be the name of a column of indexer_study")
    return value


def _field_names(value: dict[str, str]) -> dict[str, str]:
    for name in value:
        if not name or not name.isprintable():
            raise wrong("holds an empty or unprintable name")
        if name in _RESERVED_FIELDS:
            raise wrong(f"can't use the name {name}: every study's JSON has it already")
    return value


def _batch_size(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1000):
        return value
    raise wrong('must be "auto" or a whole number from 1 to 1000')


Text = Annotated[str, Field(min_length=1), AfterValidator(_printable)]
Port = Annotated[int, BeforeValidator(_port), Field(ge=1, le=65535)]
PathName = Annotated[Path, BeforeValidator(_path)]
Socket = Annotated[str, BeforeValidator(_socket)]
File = Annotated[Path, BeforeValidator(_path), AfterValidator(_existing_file)]

Host = Annotated[Text, AfterValidator(_host)]
Verify = Annotated[bool | Literal["ca"], BeforeValidator(_verify)]
BatchSize = Annotated[Literal["auto"] | int, BeforeValidator(_batch_size)]
Listen = Annotated[str, AfterValidator(_listen)]
Header = Annotated[SecretStr, AfterValidator(_header)]
Url = Annotated[str, AfterValidator(_url)]
NotBlank = Annotated[Text, AfterValidator(_not_blank)]
Column = Annotated[str, AfterValidator(_column)]
FieldNames = Annotated[dict[str, Column], AfterValidator(_field_names)]
