"""No secret and no patient in anything that the program writes for people: every log, page and metric of the test run.

Each Indexer and each fetched page is noted here, and what came since the last test is searched after every test
(tests/conftest.py), so that the test that made the program say a name is the one that fails.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

#: Values that the tests give to the archive and the program everywhere; a test's own are added as they come.
_EVERYWHERE = ("PEÑA^JOSÉ", "PEÑA", "NÚÑEZ", "26267267-K")

#: Shorter ones stand in other words.
_SHORTEST = 6

#: What one test can add; a leak shows with the first of a thousand names.
_ADDED_LIMIT = 50


class Privacy:
    """What has to be searched, and for what."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._added: set[str] = set()
        self._files: dict[Path, int] = {}
        self._texts: list[tuple[str, bytes]] = []
        self.searched_bytes = 0
        self.searched_texts = 0

    def add_secret(self, value: str) -> None:
        """A key or a password: searched for until the end."""
        if len(value) >= _SHORTEST:
            self._secrets.add(value)

    def add_patient(self, value: str | None) -> None:
        """A name or an id that this test gives to the archive."""
        if value and len(value) >= _SHORTEST and len(self._added) < _ADDED_LIMIT:
            self._added.add(value)

    def add_file(self, path: Path) -> None:
        """A file that the program writes; it may grow, and be there later only."""
        self._files.setdefault(path, 0)

    def add_text(self, where: str, text: bytes) -> None:
        """A page, an answer, what a command printed."""
        self._texts.append((where, text))

    def found(self) -> list[str]:
        """Where a value stands in what came since the last time; the values themselves aren't repeated."""
        texts, self._texts = self._texts, []
        for path, start in self._files.items():
            size = path.stat().st_size if path.exists() else 0
            if size != start:
                # A file that was replaced begins anew; one that grew, a little before what it had.
                with path.open("rb") as file:
                    file.seek(max(0, start - 200) if size > start and path.suffix == ".txt" else 0)
                    texts.append((str(path), file.read()))
                self._files[path] = size
        values = [*_EVERYWHERE, *self._secrets, *self._added]
        self._added.clear()
        forms = {form: value for value in values for form in _forms(value)}
        found = []
        for where, text in texts:
            self.searched_bytes += len(text)
            self.searched_texts += 1
            for form, value in forms.items():
                place = text.find(form)
                if place >= 0:
                    line = text.count(b"\n", 0, place) + 1
                    found.append(f"{where}:{line} holds {value[:2]}... ({len(value)} characters)")
        return found


def _forms(value: str) -> set[bytes]:
    """A value as it may be written: as it is, in JSON, in a Python literal, in latin1."""
    forms = {value.encode(), json.dumps(value)[1:-1].encode(), ascii(value)[1:-1].encode()}
    with contextlib.suppress(UnicodeEncodeError):
        forms.add(value.encode("latin1"))
    return forms


#: Of the whole test run.
privacy = Privacy()
