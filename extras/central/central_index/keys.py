"""Who may do what: the file of keys."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import quote

import structlog
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

VIEWER_EXAMPLE = "https://pacs.example/viewer?StudyInstanceUIDs={study_iuid}"
_EXAMPLE = '{"centers": {"000": "a long random key"}, "readers": {"radiology": "another long random key"}}'
_SHORTEST_KEY = 12
_HASHER = PasswordHasher()

log = structlog.get_logger()


class UnusableKeys(Exception):
    """The file can't be used; the text is one sentence."""


@dataclass(frozen=True, slots=True)
class Role:
    """What a key is for: one centre that writes, or one reader.

    ``centers``: what a reader may see, None is all. ``initials``: a reader sees initials and pseudonyms instead of names and
    ids. ``until``: the last day on which the key counts. ``exports``: whether a reader may take a search as CSV.
    """

    name: str
    writes: bool
    centers: frozenset[str] | None = None
    initials: bool = False
    until: date | None = None
    exports: bool = False
    #: What pseudonyms are made with, which stay the same as long as it does.
    secret: bytes = b""

    def sees(self, center: str) -> bool:
        return self.centers is None or center in self.centers


LONGEST_NAME = 64
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]


def checked_viewer(template: str) -> str:
    """Raises ValueError, whose text says what it must be."""
    if not re.match(r"https?://[^/\s]", template) or "{study_iuid}" not in template or len(template) > 500:
        raise ValueError(f"must be such as {VIEWER_EXAMPLE}")
    return template


def _day(text: object) -> object:
    try:
        return date.fromisoformat(text) if isinstance(text, str) else text
    except ValueError:
        raise ValueError("must be a day as YYYY-MM-DD, such as 2027-06-30") from None


class _Entry(BaseModel):
    """Two keys at a time, while one takes the place of the other. One that is out keeps what it may see."""

    model_config = ConfigDict(strict=True, extra="forbid")
    keys: Annotated[list[SecretStr], Field(max_length=2)] = []
    disabled: bool = False

    #: What an entry that is only a key means besides.
    _MEANT: ClassVar[dict[str, Any]] = {}

    @model_validator(mode="before")
    @classmethod
    def _of_a_key(cls, value: object) -> object:
        return in_full(value, **cls._MEANT)


class _Center(_Entry):
    viewer: Annotated[str, AfterValidator(checked_viewer)] | None = None

    @model_validator(mode="after")
    def _can_come_in(self) -> _Center:
        if not self.keys and not self.disabled:
            raise ValueError("a key is missing")
        return self


class _Reader(_Entry):
    """A person with a name and a password needs no key."""

    _MEANT: ClassVar[dict[str, Any]] = {"exports": True}
    password: Annotated[SecretStr, Field(min_length=20)] | None = None
    centers: list[Name] | None = None
    names: Literal["full", "initials"] = "full"
    until: Annotated[date, BeforeValidator(_day)] | None = None
    exports: bool = False
    #: What their pseudonyms are made with, where that is no longer the first key or the password.
    pseudonyms: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _can_come_in(self) -> _Reader:
        if not self.keys and self.password is None and not self.disabled:
            raise ValueError("a key or a password is missing")
        return self


class _File(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    centers: dict[Name, _Center]
    readers: dict[Name, _Reader]


def in_full(entry: object, **meant: Any) -> Any:
    """An entry that is only a key as one with members."""
    return {"keys": [entry], **meant} if isinstance(entry, str) else entry


class Keys:
    """The roles by key. The file is read again when it has changed: a key that was taken out is refused at once."""

    def __init__(self, path: Path) -> None:
        """Raises UnusableKeys."""
        self._path = path
        self._read_from: tuple[int, int, int] | None = None
        self._roles: dict[bytes, Role] = {}
        self._by_password: dict[bytes, Role] = {}
        self._hashes: dict[str, str] = {}
        self._viewers: dict[str, str] = {}
        self._usable = True
        self._read()

    def usable(self) -> bool:
        """False while the file can't be read; what was read last counts."""
        self._read_if_changed()
        return self._usable

    def role(self, key: str) -> Role | None:
        """None for a key that isn't in the file."""
        # What the file holds of a password is no key.
        key_digest = digest(key)
        role = self.role_of_digest(key_digest)
        return role if key_digest in self._roles else None

    def digest_of_password(self, name: str, password: str) -> bytes | None:
        """For `role_of_digest`, if that is this person's password. Takes a while: call it in a thread."""
        self._read_if_changed()
        kept = self._hashes.get(name)
        try:
            # A name that isn't there takes as long as a wrong password.
            _HASHER.verify(kept or _nobody(), password)
        except (VerificationError, InvalidHashError):
            return None
        return digest(kept) if kept is not None else None

    def centers(self) -> list[str]:
        """All that have a key."""
        self._read_if_changed()
        return sorted({role.name for role in self._roles.values() if role.writes})

    def role_of_digest(self, key_digest: bytes) -> Role | None:
        """As `role`, for who remembers the `digest` of a key instead of the key."""
        self._read_if_changed()
        role = self._roles.get(key_digest) or self._by_password.get(key_digest)
        return None if role is None or (role.until is not None and date.today() > role.until) else role

    def viewer(self, center: str, study_iuid: str) -> str | None:
        """Where the centre shows this study's images."""
        template = self._viewers.get(center)
        return template.replace("{study_iuid}", quote(study_iuid, safe="")) if template is not None else None

    def _read_if_changed(self) -> None:
        try:
            if self._signature() != self._read_from:
                self._read()
                self._say(None)
        except OSError as error:
            self._say(f"{self._path} can't be read: {error.strerror}.")
        except UnusableKeys as error:
            # Half written, perhaps: what was read last counts until it can be read.
            self._say(str(error))

    def _say(self, wrong: str | None) -> None:
        """Once, when it begins and when it is over."""
        if wrong is not None and self._usable:
            log.error(
                "The file of keys can't be used; the keys that were read last go on to count.", reason=wrong
            )
        elif wrong is None and not self._usable:
            log.info("The file of keys can be used again.")
        self._usable = wrong is None

    def _signature(self) -> tuple[int, int, int]:
        stat = self._path.stat()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _read(self) -> None:
        try:
            signature = self._signature()
            text = self._path.read_bytes()
        except FileNotFoundError:
            raise UnusableKeys(f"{self._path} isn't there: write it, such as {_EXAMPLE}.") from None
        except OSError as error:
            raise UnusableKeys(f"{self._path} can't be read: {error.strerror}.") from None
        content, self._roles = _understood(text, self._path)
        self._by_password = {}
        self._hashes = {}
        for role, entry in _readers(content):
            if entry.password is not None:
                kept = entry.password.get_secret_value()
                #: A login by password is remembered by what the file holds of it: another password ends it.
                self._by_password[digest(kept)] = role
                self._hashes[role.name] = kept
        self._viewers = {
            name: entry.viewer
            for name, entry in content.centers.items()
            if entry.viewer is not None and not entry.disabled
        }
        self._read_from = signature


def check(text: bytes, path: Path) -> None:
    """Whether that can be the file's content. Raises UnusableKeys."""
    _understood(text, path)


def _understood(text: bytes, path: Path) -> tuple[_File, dict[bytes, Role]]:
    """The content, and whose each key is. Raises UnusableKeys."""
    try:
        content = _File.model_validate(json.loads(text))
    except ValidationError as error:
        raise UnusableKeys(f"{path} must look like {_EXAMPLE}; {_where(error)}.") from None
    except ValueError as error:
        # A text that is no UTF-8 has no line.
        where = f"; line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else ""
        raise UnusableKeys(f"{path} must look like {_EXAMPLE}{where}.") from None
    roles: dict[bytes, Role] = {}
    for role, secrets in _members(content):
        for secret in secrets:
            key = secret.get_secret_value()
            if len(key) < _SHORTEST_KEY:
                raise UnusableKeys(f"{path}: the key of {role.name!r} is shorter than {_SHORTEST_KEY}.")
            if digest(key) in roles:
                raise UnusableKeys(f"{path}: the key of {role.name!r} is another's, too.")
            roles[digest(key)] = role
    return content, roles


def _where(error: ValidationError) -> str:
    """The first mistake and its place, without a value: that may be a key."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "extra_forbidden":
        # Its name isn't known, so it may be anything.
        return f"in {_place(first['loc'][:-1])} stands what isn't known"
    said = "must be a key, or have members" if first["type"] == "model_type" else first["msg"]
    return f"{_place(first['loc'])}: {said.removeprefix('Value error, ')}"


def _place(where: Iterable[int | str]) -> str:
    return ".".join(map(str, where)) or "the file"


def _members(content: _File) -> Iterator[tuple[Role, list[SecretStr]]]:
    for name, center in content.centers.items():
        if not center.disabled:
            yield Role(name, writes=True), center.keys
    for role, reader in _readers(content):
        yield role, reader.keys


def _readers(content: _File) -> Iterator[tuple[Role, _Reader]]:
    for name, reader in content.readers.items():
        if reader.disabled:
            continue
        role = Role(
            name,
            writes=False,
            centers=frozenset(reader.centers) if reader.centers is not None else None,
            initials=reader.names == "initials",
            until=reader.until,
            exports=reader.exports,
            secret=bytes.fromhex(
                reader.pseudonyms
                or made_with(
                    *(one.get_secret_value() for one in (*reader.keys, reader.password) if one is not None)
                )
            ),
        )
        yield role, reader


def made_with(*secrets: str) -> str:
    """What a reader's pseudonyms are made with, in hexadecimal digits: by the keys, and the password."""
    return digest(secrets[0]).hex()


@cache
def _nobody() -> str:
    """Made when it is first needed: it takes as long as it should."""
    return _HASHER.hash("nobody's password")


def hashed(password: str) -> str:
    """What the file holds of a password."""
    return _HASHER.hash(password)


def digest(key: str) -> bytes:
    """Compared instead of the key, so that the time a comparison takes says nothing about it."""
    return hashlib.sha256(key.encode(errors="replace")).digest()
