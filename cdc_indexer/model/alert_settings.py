"""Who is told of a problem that lasts: by email, and by a webhook."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from cdc_indexer.model._kinds import Host, Port, Section, Text, Url, wrong

__all__ = ["AlertSettings", "EmailSettings", "webhook_key"]

_ADDRESS = re.compile(r"[0-9A-Za-z.!#$%&'*+/=?^_`{|}~-]{1,64}@[0-9A-Za-z_.-]{1,255}")

#: How the specification of Standard Webhooks writes a secret, and how long it may be, in bytes.
_PREFIX = "whsec_"
_KEY_BYTES = (24, 64)


def _address(value: str) -> str:
    if not _ADDRESS.fullmatch(value):
        raise wrong("must be an address such as it@hospital.example")
    return value


def _one_or_more(value: object) -> object:
    """One address needn't be in a list."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def webhook_key(secret: SecretStr) -> bytes:
    """The bytes that sign; ValueError when they are none."""
    try:
        key = base64.b64decode(secret.get_secret_value().removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError from None
    if not _KEY_BYTES[0] <= len(key) <= _KEY_BYTES[1]:
        raise ValueError
    return key


def _secret(value: SecretStr) -> SecretStr:
    try:
        webhook_key(value)
    except ValueError:
        raise wrong(
            "must be whsec_ and the Base64 of 24 to 64 bytes, such as `openssl rand -base64 32` gives"
        ) from None
    return value


_Address = Annotated[str, AfterValidator(_address)]


class EmailSettings(Section):
    """``to``: one address or several. ``tls``: "starttls", "tls" from the first byte, or "none"."""

    to: Annotated[tuple[_Address, ...], BeforeValidator(_one_or_more), Field(min_length=1, max_length=20)]
    sender: _Address
    host: Host = "localhost"
    port: Port = 25
    tls: Literal["none", "starttls", "tls"] = "none"
    user: Text | None = None
    password: SecretStr | None = None

    @model_validator(mode="after")
    def _a_login_is_whole_and_private(self) -> EmailSettings:
        if (self.user is None) != (self.password is None):
            raise wrong("has a user without a password, or a password without a user")
        if (
            self.user is not None
            and self.tls == "none"
            and self.host not in ("localhost", "127.0.0.1", "::1")
        ):
            raise wrong('would send its password unencrypted: set tls to "starttls" or "tls"')
        return self


class AlertSettings(Section):
    """Nobody is told unless one of them is set. ``webhook_secret`` signs what the webhook gets."""

    email: EmailSettings | None = None
    webhook: Url | None = None
    webhook_secret: Annotated[SecretStr, AfterValidator(_secret)] | None = None

    @model_validator(mode="after")
    def _a_secret_belongs_to_a_webhook(self) -> AlertSettings:
        if self.webhook_secret is not None and self.webhook is None:
            raise wrong("has a webhook_secret without a webhook")
        return self
