"""Who may do what: the file of keys."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

_EXAMPLE = '{"centers": {"000": "a long random key"}, "readers": {"radiology": "another one"}}'
_SHORTEST_KEY = 12


class UnusableKeys(Exception):
    """The file can't be used; the text is one sentence."""


class Role(NamedTuple):
    """What a key is for: one centre that writes, or one reader."""

    name: str
    writes: bool


class _File(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    centers: dict[Annotated[str, Field(min_length=1, max_length=64)], SecretStr]
    readers: dict[Annotated[str, Field(min_length=1, max_length=64)], SecretStr]


class Keys:
    """The roles by key. The file is read again when it has changed: a key that was taken out is refused at once."""

    def __init__(self, path: Path) -> None:
        """Raises UnusableKeys."""
        self._path = path
        self._read_from: tuple[int, int, int] | None = None
        self._roles: dict[bytes, Role] = {}
        self._read()

    def role(self, key: str) -> Role | None:
        """None for a key that isn't in the file."""
        return self.role_of_digest(digest(key))

    def role_of_digest(self, key_digest: bytes) -> Role | None:
        """As `role`, for who remembers the `digest` of a key instead of the key."""
        try:
            if self._signature() != self._read_from:
                self._read()
        except (OSError, UnusableKeys):
            # Half written, perhaps: what was read last counts until it can be read.
            pass
        return self._roles.get(key_digest)

    def _signature(self) -> tuple[int, int, int]:
        stat = self._path.stat()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _read(self) -> None:
        try:
            signature = self._signature()
            content = _File.model_validate(json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            raise UnusableKeys(f"{self._path} isn't there: write it, such as {_EXAMPLE}.") from None
        except OSError as error:
            raise UnusableKeys(f"{self._path} can't be read: {error.strerror}.") from None
        except (ValidationError, ValueError):
            # What they say would show keys.
            raise UnusableKeys(f"{self._path} must look like {_EXAMPLE}.") from None
        roles: dict[bytes, Role] = {}
        for writes, members in ((True, content.centers), (False, content.readers)):
            for name, secret in members.items():
                key = secret.get_secret_value()
                if len(key) < _SHORTEST_KEY:
                    raise UnusableKeys(f"{self._path}: the key of {name!r} is shorter than {_SHORTEST_KEY}.")
                if digest(key) in roles:
                    raise UnusableKeys(f"{self._path}: the key of {name!r} is another's, too.")
                roles[digest(key)] = Role(name, writes)
        self._roles = roles
        self._read_from = signature


def digest(key: str) -> bytes:
    """Compared instead of the key, so that the time a comparison takes says nothing about it."""
    return hashlib.sha256(key.encode(errors="replace")).digest()
