"""How other commands ask a running `run` to do something, and learn how far that is: small files in the state directory.

``NAME.request.json`` is the request: while it is there, `run` works on it; who takes it away, cancels. `run` answers in
``NAME.progress.json``, which nobody else writes, and takes the request away when it is done. Such a file may have been
written by hand or by another version: what isn't a request is refused in a sentence, put aside as ``NAME.request.refused``,
and `run` goes on.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from datetime import date, datetime
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cdc_indexer.model.errors import StorageError
from cdc_indexer.state.lock import own_as_directory

__all__ = [
    "PROGRESS",
    "REQUEST",
    "Inbox",
    "InitialRequest",
    "PauseRequest",
    "ReconcileRequest",
    "Refused",
    "Request",
    "ResendRequest",
    "RetryRequest",
    "ask",
    "read",
    "remove",
    "write",
]

REQUEST = "initial.request.json"
PROGRESS = "initial.progress.json"

_MAX_BYTES = 4_000_000


class Refused(Exception):
    """A file that should be a request isn't one; the message is a sentence for the administrator."""


class Request(BaseModel):
    """What a request holds; ``id`` is in the answers to it. Extra keys, wrong types and impossible values are refused."""

    # Built when there is a request: a start seldom has one.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    name: ClassVar[str]
    id: str = Field(min_length=1, max_length=100)

    @classmethod
    def file(cls) -> str:
        """The name of the file."""
        return f"{cls.name}.request.json"

    @classmethod
    def answer_file(cls) -> str:
        """The name of the file in which `run` answers."""
        return f"{cls.name}.progress.json"


class _Chosen(Request):
    """Studies by the day of their study_datetime, both days included."""

    since: date | None = None
    until: date | None = None


class InitialRequest(_Chosen):
    """`initial`: ``rate`` is in studies a second."""

    name = "initial"
    study_iuids: tuple[str, ...] = ()
    rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    restart: bool = False
    already_sent: bool = False
    same_index: bool = False


class ReconcileRequest(_Chosen):
    """`reconcile`."""

    name = "reconcile"
    report_only: bool = False
    accept: bool = False


class ResendRequest(_Chosen):
    """`resend`."""

    name = "resend"
    study_iuids: tuple[str, ...] = ()
    patient_ids: tuple[str, ...] = ()


class PauseRequest(Request):
    """`pause`: in force while the file is there, and no longer than ``until``; times have their zone. ``by``: who asked."""

    name = "pause"
    since: datetime | None = None
    by: str = Field(default="somebody", min_length=1, max_length=100)
    until: datetime | None = None


class RetryRequest(Request):
    """`parked retry`: the entries' numbers; None: all."""

    name = "retry"
    entries: tuple[int, ...] | None = None


_R = TypeVar("_R", bound=Request)


class Inbox:
    """The requests in ``state_dir``, as `run` sees them."""

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir
        #: What can't be put aside either (a directory that nobody may write): said once.
        self._known: set[tuple[str, int, int]] = set()

    def read(self, kind: type[_R]) -> _R | None:
        """The request of this kind, None without one. Refused once for each file that isn't one; it is put aside."""
        path = self._directory / kind.file()
        try:
            return _parse(kind, _content(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            why = error.strerror or str(error) if isinstance(error, OSError) else _why(error)
        self._refuse(path, why)
        return None

    def _refuse(self, path: Path, why: str) -> None:
        try:
            status = path.lstat()
            key = (path.name, status.st_ino, status.st_mtime_ns)
            if key in self._known:
                return
            self._known.add(key)
            aside = path.with_suffix(".refused")
            path.rename(aside)
            where = f"it is put aside as {aside.name}"
        except FileNotFoundError:
            return  # taken back meanwhile
        except OSError as error:
            where = f"it can't be put aside ({error.strerror}): remove it"
        raise Refused(f"{path} isn't a request that this version knows ({why}); {where}.")


def _content(path: Path) -> bytes:
    # Whatever lies there: not through a link, and not waiting for whoever writes into a pipe.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no ordinary file")
        if status.st_size > _MAX_BYTES:
            raise ValueError("it is too large")
        return os.read(descriptor, _MAX_BYTES)
    finally:
        os.close(descriptor)


def _parse(kind: type[_R], content: bytes) -> _R:
    # pydantic reads JSON itself: a date or a list is then what JSON has for it, and nothing else is.
    return kind.model_validate_json(content)


def _why(error: ValueError) -> str:
    """The first thing that is wrong; never the value, which may name a patient."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    what = str(first["msg"]).partition(":")[0]
    return f"{place}: {what}" if place else what


def ask(state_dir: Path, request: Request) -> None:
    """Leaves the request for `run`; raises StorageError."""
    write(state_dir, request.file(), request.model_dump(mode="json"))


def write(state_dir: Path, name: str, content: Mapping[str, Any]) -> None:
    """Replaces a file, a request or an answer; raises StorageError."""
    path = state_dir / name
    temporary = path.with_suffix(".new")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(temporary, flags, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            own_as_directory(descriptor, state_dir)
            json.dump(content, file)
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"{path} can't be written ({error.strerror}).") from None


def read(state_dir: Path, name: str) -> dict[str, Any] | None:
    """One of the files, as it is; None when it isn't there or isn't whole."""
    try:
        content = json.loads(_content(state_dir / name))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def remove(state_dir: Path, name: str) -> None:
    """Takes one of the files away, if it is there."""
    with suppress(OSError):
        (state_dir / name).unlink()
