"""The key of the record of who was shown what: it seals, and hides what is personal."""

from __future__ import annotations

import base64
import hmac
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet

from central_index.words import id_key


class UnusableAuditKey(Exception):
    """The key can't be used; the text is one sentence."""


class AuditKey:
    """Seals, hides what is personal, and finds a patient without opening every record."""

    def __init__(self, path: Path) -> None:
        """Where the file isn't there, `Audit.open` sees to it. Raises UnusableAuditKey."""
        self.path = path.absolute()
        self.check: str | None = None
        try:
            if path.exists():
                self._read()
        except OSError as error:
            raise UnusableAuditKey(f"{path} can't be used: {error.strerror}.") from None

    def make(self) -> bool:
        """False if another process was sooner. Raises UnusableAuditKey."""
        try:
            made = _make(self.path)
            self._read()
            return made
        except OSError as error:
            raise UnusableAuditKey(f"{self.path} can't be made: {error.strerror}.") from None

    def _read(self) -> None:
        text = self.path.read_text().strip()
        if len(text) < 32:
            raise UnusableAuditKey(f"{self.path} must hold a random key of at least 32 characters.")
        self._key = text.encode()
        self._of_patients = self._derived("patient")
        self._of_seals = self._derived("seal")
        self._of_marks = self._derived("mark")
        self._cipher = Fernet(base64.urlsafe_b64encode(self._derived("content")))
        self.check = self._derived("check").hex()

    def _derived(self, purpose: str) -> bytes:
        return hmac.digest(self._key, purpose.encode(), "sha256")

    def hide(self, content: dict[str, Any]) -> str:
        return self._cipher.encrypt(json.dumps(content).encode()).decode()

    def open(self, content: str) -> dict[str, Any]:
        """Raises InvalidToken."""
        found: dict[str, Any] = json.loads(self._cipher.decrypt(content.encode()))
        return found

    def patient(self, patient_id: str) -> str:
        """What stands for a patient, however the id is written."""
        return hmac.digest(self._of_patients, id_key(patient_id).encode(), "sha256").hex()

    def seal(self, previous: str, place: int, row: Sequence[Any]) -> str:
        text = json.dumps([previous, place, *row])
        return hmac.digest(self._of_seals, text.encode(), "sha256").hex()

    def mark(self, place: int, seal: str) -> str:
        """What says that all to this place was forgotten by who has the key."""
        proof = hmac.digest(self._of_marks, f"{place} {seal}".encode(), "sha256").hex()
        return f"{place} {seal} {proof}"


def _make(path: Path) -> bool:
    """Complete or not at all; where another process makes it at the same time, the first one counts."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        os.link(new, path)
        return True
    except FileExistsError:
        return False
    finally:
        new.unlink(missing_ok=True)


def missing(path: Path) -> UnusableAuditKey:
    return UnusableAuditKey(
        f"This database's record was begun with a key that isn't at {path}: copy the file from where the first process "
        "has it, or name it with --audit-key."
    )
