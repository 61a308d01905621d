"""The key of the record: made once, by the process that begins the record, and never beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.central import conftest
from tests.central.conftest import ROOT, Index, MakeIndex
from tests.central.postgres import Cluster
from tests.ports import free_port


@pytest.fixture
def made(engine: str, make_index: MakeIndex, request: pytest.FixtureRequest) -> Index:
    """Not started yet."""
    cluster: Cluster | None = request.getfixturevalue("cluster") if engine == "postgresql" else None
    return make_index(cluster)


def serve(index: Index, directory: Path, **options: str) -> subprocess.CompletedProcess[str]:
    """One that is expected to end by itself, with ``directory`` as its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CENTRAL_")}
    return subprocess.run(
        [sys.executable, "-m", "central_index"],
        cwd=directory,
        env={
            **environment,
            "PYTHONPATH": f"{ROOT}/extras/central",
            "CENTRAL_LISTEN": f"127.0.0.1:{free_port()}",
            "CENTRAL_DATABASE": index.database,
            "CENTRAL_KEYS": str(index.directory / "keys.json"),
            **options,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_a_process_elsewhere_says_which_key_it_needs_and_makes_none(made: Index, tmp_path: Path) -> None:
    made.audit_key.unlink()
    made.start()
    made.stop()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = serve(made, elsewhere, CENTRAL_AUDIT_KEY="audit.key")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"Error: This database's record was begun with a key that isn't at {elsewhere}/audit.key: copy the file from "
        "where the first process has it, or name it with --audit-key."
    )
    assert list(elsewhere.iterdir()) == []
    # So do the commands.
    for arguments in (
        ("audit", "check"), ("audit", "--patient", "1"), ("audit", "forget", "--before", "2020-01"),
        ("erase", "--patient", "1", "--yes"),
    ):  # fmt: skip
        told = conftest.command(
            elsewhere, "--database", made.database, "--audit-key", "audit.key", *arguments
        )
        assert (told.returncode, list(elsewhere.iterdir())) == (1, [])
        assert f"a key that isn't at {elsewhere}/audit.key: copy" in told.stderr


def test_a_command_makes_no_key_before_the_record_begins(made: Index) -> None:
    made.audit_key.unlink()
    before = set(made.directory.iterdir())
    done = conftest.command(
        made.directory, "--database", made.database, "--audit-key", "audit.key", "audit", "check"
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: {made.audit_key} isn't there, and nothing is recorded yet: the index makes it when it starts.\n"
    )
    assert {path.name for path in set(made.directory.iterdir()) - before} <= {
        f"central.sqlite{end}" for end in ("", "-wal", "-shm")
    }
    made.start()
    assert made.audit_key.exists()


def test_of_two_that_begin_at_once_one_goes_on_and_the_other_leaves_no_key(
    cluster: Cluster, make_index: MakeIndex, tmp_path: Path
) -> None:
    """Each in a directory of its own."""
    index = make_index(cluster)
    script = (
        "import asyncio, sys; from pathlib import Path;"
        "from central_index.audit import Audit, AuditKey, UnusableAuditKey;"
        "from central_index.store import make_store\n"
        "async def main():\n"
        "    store = make_store(sys.argv[1], None, lambda: None)\n"
        "    await store.open()\n"
        "    audit = Audit(store, AuditKey(Path('audit.key')))\n"
        "    kept = audit._kept\n"
        "    async def slow():\n"
        "        found = await kept()\n"
        "        await asyncio.sleep(1.5)\n"
        "        return found\n"
        "    audit._kept = slow\n"
        "    try: await audit.open(make=True)\n"
        "    finally: await store.close()\n"
        "asyncio.run(main())\n"
    )
    index.start()
    index.stop()
    index.execute("DELETE FROM audit_marks")

    def begin(number: int) -> tuple[int, bool]:
        directory = tmp_path / f"process{number}"
        directory.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", script, index.database],
            cwd=directory, env={**os.environ, "PYTHONPATH": f"{ROOT}/extras/central"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, (directory / "audit.key").exists()

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(begin, range(2))) == [(0, True), (1, False)]
