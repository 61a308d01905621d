"""What `reconcile` shows to a person at a terminal of 80 columns, and to a program."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.central.conftest import KEYS, Index, MakeIndex
from tests.central.conftest import make_index as make_index  # noqa: PLC0414 - a fixture
from tests.indexer import KEY, Indexer
from tests.integration.test_reconcile import CENTER
from tests.pacs import Pacs
from tests.receiver import Receiver

pytestmark = pytest.mark.one_server

COLUMNS = 80
#: A key of a terminal's own: colours, the cursor.
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
BAR = re.compile(r"[━╸╺ ]+ +(\d+) % ([\d,]+) compared [\d,]+/s(?: \d+:\d\d:\d\d left)?")
RESULT = ("compared", "equal", "missing", "stale", "extra", "kept", "healed", "seconds")


@pytest.fixture
def indexer(
    pacs: Pacs, make_index: MakeIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Indexer]:
    """Four studies, one of which the index has lost and one it has otherwise."""
    index: Index = make_index()
    index.start()
    for name, value in (("GONE_AFTER_SECONDS", "0.2"), ("SWEEP_PART", "2")):
        monkeypatch.setenv(f"CDC_INDEXER_TEST_{name}", value)
    one = Indexer(
        tmp_path / "indexer",
        pacs,
        f"{index.url}/api/v1/register",
        delivery={"settle_seconds": 0.2},
        # Slow enough for a bar.
        reconcile={"studies_per_second": 2.0},
    )
    one.center = CENTER
    one.settings["key"] = KEYS["centers"][CENTER]
    one.write_files()
    for number in range(4):
        pacs.store_study(f"1.{number}")
    assert one.run("initial").returncode == 0
    index.execute(
        "DELETE FROM studies WHERE study_iuid = '1.1';"
        "UPDATE studies SET patient_name = 'X' WHERE study_iuid = '1.2';"
    )
    yield one
    one.close()


def at_a_terminal(indexer: Indexer, *arguments: str) -> tuple[int, str]:
    """Exit status and everything that a command shows, standard output and error, on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "cdc_indexer", *arguments],
        cwd=indexer.directory,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environment, "TERM": "xterm-256color", "LANG": "C.UTF-8"},
    )
    os.close(theirs)
    shown = b""
    try:
        # The end of the other side is an error here.
        while True:
            try:
                some = os.read(ours, 65_536)
            except OSError:
                break
            if not some:
                break
            shown += some
        return process.wait(60), shown.decode()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(ours)


def lines(shown: str) -> list[str]:
    """As they stood on the screen, those too that were written over."""
    return [line.rstrip() for line in re.split(r"[\r\n]+", CONTROL.sub("", shown)) if line.strip()]


def test_a_bar_and_a_table_on_a_terminal_of_80_columns(indexer: Indexer) -> None:
    status, shown = at_a_terminal(indexer, "reconcile")
    assert status == 0, shown
    seen = lines(shown)
    assert max(map(len, seen)) <= COLUMNS
    bars = [found for line in seen if (found := BAR.fullmatch(line))]
    compared = [int(found[2]) for found in bars]
    assert compared == sorted(compared)
    assert len(set(compared)) > 1, shown  # it moved
    assert (bars[-1][1], compared[-1]) == ("100", 4)
    table = seen[seen.index("┌──────────┬─────┐") :]
    assert [line.split("│")[1].strip() for line in table[1:-1]] == list(RESULT)
    figures = [line.split("│")[2].strip() for line in table[1:-1]]
    # To the right, as numbers are.
    assert table[1] == "│ compared │   4 │"
    assert figures[:-1] == ["4", "2", "1", "1", "0", "0", "2"]
    assert re.fullmatch(r"\d\.\d", figures[-1])
    assert table[-1] == "└──────────┴─────┘"


def test_one_json_object_for_a_program(indexer: Indexer) -> None:
    done = indexer.run("reconcile", "--json", "--report-only")
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert list(result) == ["at", *RESULT[:-1], "held", "index", "seconds"]
    assert {name: result[name] for name in ("compared", "equal", "missing", "stale", "healed")} == {
        "compared": 4,
        "equal": 2,
        "missing": 1,
        "stale": 1,
        "healed": 0,
    }
    assert result["index"] is True
    # The log goes where it doesn't disturb, a line each; also at a terminal nothing else is on standard output.
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()][-1] == "reconcile done"
    status, shown = at_a_terminal(indexer, "reconcile", "--json")
    assert status == 0, shown
    assert json.loads(lines(shown)[-1])["healed"] == 2


def test_an_index_that_can_not_be_compared_is_said_in_one_sentence(
    indexer: Indexer, receiver: Receiver
) -> None:
    indexer.settings.update(webservice_url=receiver.url, key=KEY)
    indexer.write_files()
    done = indexer.run("initial", "--restart")
    assert done.returncode == 0, done.stderr
    status, shown = at_a_terminal(indexer, "reconcile")
    assert status == 1
    assert lines(shown)[-1] == (
        "This central index can't be compared (it answers no digests): what was compared is the archive and what the "
        "index was told."
    )
