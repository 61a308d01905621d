"""``python -m extras.demo`` as a user starts it: it ends by itself, it sees a difference, it leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


class Demo:
    """The demo as a process, with a directory of its own for all that it makes."""

    def __init__(self, directory: Path, seconds: str | None) -> None:
        self.directory = directory
        self._output = directory.parent / "output"
        environment = {name: value for name, value in os.environ.items() if name != "DEMO_SECONDS"}
        if seconds is not None:
            environment["DEMO_SECONDS"] = seconds
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "extras.demo"],
                cwd=ROOT,
                env={**environment, "TMPDIR": str(directory)},
                stdout=output,
                stderr=output,
            )

    @property
    def said(self) -> str:
        return self._output.read_text()

    def wait_until_said(self, pattern: str) -> None:
        deadline = time.monotonic() + 90
        while not re.search(pattern, self.said):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)

    def leftovers(self) -> list[str]:
        """Files, and the command lines of processes, that belong to this demo."""
        found = [str(path) for path in self.directory.iterdir()]
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if str(self.directory) in command:
                    found.append(command)
        return found


@pytest.fixture
def directory() -> Iterator[Path]:
    # Not pytest's own: the path of a socket may be 107 characters long.
    with tempfile.TemporaryDirectory(prefix="demo-test-") as root:
        own = Path(root, "own")
        own.mkdir()
        yield own


def test_it_ends_by_itself_and_finds_the_index_equal_to_the_archive(directory: Path) -> None:
    demo = Demo(directory, "4")
    assert demo.process.wait(120) == 0, demo.said
    assert re.search(r" 4 s   stored +\d+   indexed +\d+   median delay \d+\.\d ms\n", demo.said)
    assert re.search(
        r"The index holds what the archive holds: 2,5\d\d studies, compared field by field\.", demo.said
    )
    assert "Traceback" not in demo.said
    assert demo.leftovers() == []


def test_one_wrong_field_of_one_study_is_seen(directory: Path) -> None:
    demo = Demo(directory, "4")
    demo.wait_until_said(r"\n +1 s ")
    (database,) = directory.glob("*/index.sqlite")
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        # Of those that `initial` sent: nothing sends it again.
        connection.execute("UPDATE studies SET study_instances = study_instances + 1 WHERE id = 7")
    assert demo.process.wait(180) == 1, demo.said
    assert re.search(r"The index DIFFERS from the archive \(2,5\d\d studies\) in 1:\n", demo.said)
    assert demo.said.rstrip().endswith(": study_instances differs")
    assert demo.leftovers() == []


@pytest.mark.parametrize("moment", ["A private database", r"python -m cdc_indexer run", r"\n +1 s "])
def test_ctrl_c_ends_it_at_any_moment_and_leaves_nothing_behind(directory: Path, moment: str) -> None:
    demo = Demo(directory, None)
    demo.wait_until_said(moment)
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(60) == 0, demo.said
    assert "Stopped; nothing is left behind." in demo.said
    assert "Traceback" not in demo.said
    assert demo.leftovers() == []


def test_a_wrong_number_of_seconds_is_one_sentence(directory: Path) -> None:
    demo = Demo(directory, "soon")
    assert demo.process.wait(60) == 1
    assert demo.said == "demo: DEMO_SECONDS must be a number of seconds, from 1 on.\n"
