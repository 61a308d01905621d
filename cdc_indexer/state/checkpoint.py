"""The checkpoint file: position and settled set on disk, one generation back kept, many results in one write.

Nothing here decides what is settled (progress.py does); this module makes it durable and says when it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

from cdc_indexer.model import failpoints
from cdc_indexer.model.errors import CheckpointError, Stopped, StorageError
from cdc_indexer.model.position import Identity, Position
from cdc_indexer.model.settled import IntervalSet, Settled

FORMAT = 2
#: In the first one `settled`, `unverified` and `sent_pks` were lists of pairs.
_READABLE_FORMATS = (1, FORMAT)
FILE_NAME = "checkpoint.json"
PREVIOUS_FILE_NAME = "checkpoint.previous.json"

_SEAL = ',\n  "checksum": "sha256:'


@lru_cache(maxsize=1)
def _source_text(identity: Identity | None) -> str:
    if identity is None:
        return "null"
    return json.dumps({"server": identity.server, "database": identity.database, "table": identity.table})


@lru_cache(maxsize=1)
def _position_text(position: Position | None) -> str:
    if position is None:
        return "null"
    return json.dumps(
        {
            "file": position.file,
            "offset": position.offset,
            "file_created": position.file_created,
            "gtid_set": position.gtid_set,
        }
    )


@lru_cache(maxsize=1)
def _columns_text(columns: tuple[tuple[str, str, bool], ...] | None) -> str:
    return json.dumps(columns)


@dataclass(slots=True)
class Checkpoint:
    """What the file holds.

    ``columns`` are those of the outbox at ``position``: (name, data type, unsigned), in order; the binlog doesn't
    name them. ``unverified`` are settled ids of first versions whose row in the view hasn't been read since.
    ``sent_pks`` are the study_pks sent so far, kept where the central index can't take a second version.
    ``patients`` are changed patients, by outbox row, of whose studies some are sent: up to a study_pk, and later ones.
    ``initial`` is how far an interrupted ``initial`` came.
    """

    identity: Identity | None
    center: str
    position: Position | None = None
    columns: tuple[tuple[str, str, bool], ...] | None = None
    settled: Settled = field(default_factory=Settled)
    unverified: IntervalSet = field(default_factory=IntervalSet)
    sent_pks: IntervalSet = field(default_factory=IntervalSet)
    patients: dict[int, tuple[int, IntervalSet]] = field(default_factory=dict)
    initial: dict[str, Any] | None = None
    time: datetime | None = None

    def render(self) -> str:
        """The file's text, sealed with its checksum."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")[:-6]
        body = (
            f'{{\n  "format": {FORMAT},\n'
            f'  "time": "{now}Z",\n'
            f'  "source": {_source_text(self.identity)},\n'
            f'  "center": {json.dumps(self.center)},\n'
            f'  "position": {_position_text(self.position)},\n'
            f'  "columns": {_columns_text(self.columns)},\n'
            f'  "settled": {self.settled.render()},\n'
            f'  "unverified": {self.unverified.render()},\n'
            f'  "sent_pks": {self.sent_pks.render()},\n'
            f'  "patients": {self._patients_text()},\n'
            f'  "initial": {"null" if self.initial is None else json.dumps(self.initial)}'
        )
        return f'{body}{_SEAL}{hashlib.sha256(body.encode()).hexdigest()}"\n}}\n'

    def _patients_text(self) -> str:
        if not self.patients:
            return "{}"
        return json.dumps(
            {
                row_id: {"up_to": up_to, "ahead": list(ahead)}
                for row_id, (up_to, ahead) in self.patients.items()
            }
        )

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """The checkpoint that ``render`` wrote; ValueError with the reason when it isn't one, whole and ours."""
        body, seal, rest = text.rpartition(_SEAL)
        if not seal:
            raise ValueError("it isn't a checkpoint of cdc_indexer, or its end is missing")
        if rest.partition('"')[0] != hashlib.sha256(body.encode()).hexdigest():
            raise ValueError("its checksum doesn't match its content")
        try:
            document = json.loads(text)
            if document["format"] not in _READABLE_FORMATS:
                raise ValueError(f"its format is {document['format']}, this version knows {FORMAT}")
            position = document["position"]
            columns = document["columns"]
            return cls(
                identity=Identity(**document["source"]) if document["source"] else None,
                center=document["center"],
                position=Position(**position) if position else None,
                columns=tuple((str(n), str(t), bool(u)) for n, t, u in columns) if columns else None,
                settled=Settled.parse(document["settled"]),
                unverified=IntervalSet.parse(document["unverified"]),
                sent_pks=IntervalSet.parse(document["sent_pks"]),
                patients={
                    int(row_id): (int(done["up_to"]), IntervalSet(done["ahead"]))
                    for row_id, done in document.get("patients", {}).items()
                },
                initial=document["initial"],
                time=datetime.fromisoformat(document["time"].replace("Z", "+00:00")),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"its content isn't as expected ({type(error).__name__}: {error})") from None


class CheckpointFile:
    """``checkpoint.json`` in the state directory, and the generation before it."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / FILE_NAME
        self.previous_path = state_dir / PREVIOUS_FILE_NAME
        # As text: what is done for each few results shouldn't put paths together.
        self._directory = str(state_dir)
        self._path, self._previous = str(self.path), str(self.previous_path)
        self._new = str(self.path.with_suffix(".new"))
        self._link = str(self.previous_path.with_suffix(".new"))
        self._newest_is_good = True

    def load(self) -> tuple[Checkpoint | None, str | None]:
        """The newest generation that can be trusted, and a sentence to log when that isn't the newest.

        (None, None) when there is none yet. Raises CheckpointError when there are files and none can be trusted:
        starting from nothing would send everything again.
        """
        reasons = []
        for path in (self.path, self.previous_path):
            try:
                checkpoint = Checkpoint.parse(path.read_text(encoding="utf-8"))
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) else str(error)
                reasons.append(f"{path.name} can't be used: {why}")
            else:
                self._newest_is_good = not reasons
                return checkpoint, "; ".join([*reasons, f"{path.name} is used instead"]) if reasons else None
        if not reasons:
            return None, None
        raise CheckpointError(
            f"{'; '.join(reasons)}. Put a good copy of it into {self._directory}, or move the file away to begin anew "
            f"(every study in study_service is then sent again)."
        )

    def save(self, text: str) -> None:
        """Replaces the file by ``text`` so that after a crash at any instant a whole generation is there.

        Raises StorageError when the directory can't be written.
        """
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._new, flags, 0o600)
            try:
                data = memoryview(text.encode())
                while data:
                    data = data[os.write(descriptor, data) :]
                failpoints.hit("before_fsync")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            failpoints.hit("before_rename")
            # A torn one mustn't take the place of the good one that it was replaced by.
            if self._newest_is_good:
                self._keep_previous()
            os.rename(self._new, self._path)  # noqa: PTH104 - Path costs more, and this is done for each few results
            self._newest_is_good = True
            failpoints.hit("after_rename")
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StorageError(
                f"the checkpoint {self.path} can't be written ({error.strerror}): nothing more is sent until it can; "
                f"free some space or mend the directory's rights."
            ) from None

    def _keep_previous(self) -> None:
        """Makes the newest generation the previous one; a link, so that there always is a newest one."""
        try:
            os.link(self._path, self._link)
        except FileNotFoundError:
            return  # the first one
        except FileExistsError:  # left by one that was killed
            os.unlink(self._link)  # noqa: PTH108
            os.link(self._path, self._link)
        os.rename(self._link, self._previous)  # noqa: PTH104


class CheckpointWriter:
    """Makes results durable: one thread, and one write for all results that came while the last one was written.

    ``render`` gives (generation, text) of the moment. ``on_trouble`` is called with the error when a write fails,
    and with None once one succeeds again.
    """

    RETRY_SECONDS = 5.0

    def __init__(
        self,
        file: CheckpointFile,
        render: Callable[[], tuple[int, str]],
        on_trouble: Callable[[StorageError | None], None] = lambda error: None,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._file = file
        self._render = render
        self._on_trouble = on_trouble
        self._retry_seconds = retry_seconds
        #: When the file was last written, in seconds since 1970; None: not by this process.
        self.written_at: float | None = None
        #: How long the last write took.
        self.write_seconds = 0.0
        self._written: Callable[[int], None] = lambda generation: None
        self._wanted = 0
        self._durable = 0
        self._failing = False
        self._giving_up = False
        self._closing = False
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="checkpoint", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def listen(self, written: Callable[[int], None]) -> None:
        """``written`` is called, in the writer's thread, with each generation that is on the disk."""
        self._written = written

    def request(self, generation: int) -> None:
        """Asks for ``generation`` to be written, without waiting."""
        with self._changed:
            if generation > self._wanted:
                self._wanted = generation
                self._changed.notify_all()

    def wait(self, generation: int) -> None:
        """Waits until ``generation`` is on the disk; Stopped when the program ends before it can be."""
        with self._changed:
            if generation > self._wanted:
                self._wanted = generation
                self._changed.notify_all()
            while self._durable < generation:
                if self._giving_up and self._failing:
                    raise Stopped("the checkpoint can't be written")
                if self._closed:
                    raise Stopped("the checkpoint is written no more")
                self._changed.wait()

    def give_up(self) -> None:
        """The program is ending: nobody waits any longer for a disk that can't be written."""
        with self._changed:
            self._giving_up = True
            self._changed.notify_all()

    def close(self) -> bool:
        """Writes what is left and ends the thread; False when that couldn't be written."""
        with self._changed:
            self._giving_up = self._closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        return self._durable >= self._wanted

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._durable >= self._wanted and not self._closing:
                    self._changed.wait()
                if self._durable >= self._wanted:
                    return
            began = time.monotonic()
            generation, text = self._render()
            try:
                self._file.save(text)
            except StorageError as error:
                if not self._failed(error):
                    return
                continue
            self.written_at = time.time()
            self.write_seconds = time.monotonic() - began
            self._written(generation)
            with self._changed:
                self._durable = generation
                recovered, self._failing = self._failing, False
                self._changed.notify_all()
            if recovered:
                self._on_trouble(None)

    def _failed(self, error: StorageError) -> bool:
        """Waits before the next try; False when the program is ending."""
        first = not self._failing
        if first:
            self._on_trouble(error)
        with self._changed:
            self._failing = True
            self._changed.notify_all()
            if self._closing:
                return False
            self._changed.wait_for(lambda: self._closing, self._retry_seconds)
            return True
