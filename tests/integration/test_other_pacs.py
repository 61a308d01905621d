"""docs/other-pacs.md: its commands and its SQL, taken out of the page and run; then the service on that archive."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.indexer import CENTER, Indexer, wait_until
from tests.invariant import assert_index_equals_pacs
from tests.pacs import Pacs
from tests.receiver import Receiver
from tests.servers import Server
from tests.sql_archive import REMOVE, VIEW_COLUMNS

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs/other-pacs.md").read_text()


def files() -> dict[str, str]:
    """The page's SQL by the name that stands above each block."""
    return dict(re.findall(r"^(\w+\.sql)\n```sql\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture
def pacs(server: Server, tmp_path: Path, database: str) -> Iterator[Pacs]:
    """The archive of the page, with the indexer as the page installs it."""
    for name, text in files().items():
        (tmp_path / name).write_text(text)
    (tmp_path / "extras").symlink_to(ROOT / "extras")
    (commands,) = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    *making, running = commands.strip().splitlines()
    assert running == "mysql pacsdb < install.sql"
    subprocess.run(["bash", "-euc", "\n".join(making)], cwd=tmp_path, check=True)
    server.run_script(files()["archive.sql"], database)
    for _ in range(2):  # it can be run again
        server.run_script((tmp_path / "install.sql").read_text(), database)
    archive = Pacs(server, database)
    archive.grant()
    yield archive
    archive.close()


def test_the_example_of_the_page(pacs: Pacs, server: Server, receiver: Receiver, tmp_path: Path) -> None:
    def equal() -> bool:
        try:
            assert_index_equals_pacs(receiver.accepted(), pacs, CENTER)
        except AssertionError:
            return False
        return set(receiver.holds()) == {row[0] for row in pacs.execute("SELECT uid FROM exam")}

    def exam(uid: str, person: int, **columns: object) -> int:
        return pacs._insert("exam", uid=uid, person_no=person, **columns)

    assert list(files()) == ["archive.sql", "view.sql", "triggers.sql"]
    assert [row[0] for row in pacs.execute("SHOW COLUMNS FROM indexer_study")] == list(VIEW_COLUMNS)
    one = pacs._insert("person", rut="26267267-K", surname="PEÑA", forename="JOSÉ")
    other = pacs._insert("person", rut=None, surname="NÚÑEZ", forename="MARÍA")
    first = exam("1.1", one, day="2024-05-06", hour="07:08:09", title="TÓRAX", order_no="A1")
    for kind, stack in (("CT", 1), ("CT", 1), ("SR", 2)):
        pacs._insert("picture", exam_no=first, stack=stack, kind=kind)
    exam("1.2", other)

    indexer = Indexer(
        tmp_path / "indexer",
        pacs,
        receiver.url,
        delivery={"settle_seconds": 0.3, "deletes": "delete"},
    )
    assert indexer.run("initial").returncode == 0, indexer.log
    assert equal()
    assert receiver.holds()["1.1"] == {
        "patient_pk": one,
        "patient_id": "26267267-K",
        "patient_name": "PEÑA^JOSÉ",
        "study_pk": first,
        "study_iuid": "1.1",
        "study_datetime": "2024-05-06 07:08:09",
        "study_description": "TÓRAX",
        "study_modality": "CT\\SR",
        "study_series": 2,
        "study_instances": 3,
        "center": CENTER,
    }
    with indexer.running():
        wait_until(lambda: indexer.caught_up, what="caught up")
        new = exam("1.3", one, day="2024-05-07")
        for _ in range(5):
            pacs._insert("picture", exam_no=new, stack=1, kind="MR")
        pacs.execute("UPDATE picture SET withdrawn = TRUE WHERE exam_no = %s LIMIT 1", (first,))
        pacs.execute("UPDATE person SET surname = 'SOTO' WHERE person_no = %s", (one,))
        wait_until(equal, what="equal")
        pacs.execute("UPDATE exam SET title = 'CRÁNEO', person_no = %s WHERE uid = '1.1'", (other,))
        pacs.execute("DELETE FROM exam WHERE uid = '1.2'")
        wait_until(equal, what="equal again")
    assert receiver.holds()["1.3"]["patient_name"] == "SOTO^JOSÉ"
    assert receiver.holds()["1.1"]["study_instances"] == 2

    # To undo it: the triggers, then the script.
    for trigger in re.findall(r"^DROP TRIGGER .*;$", files()["triggers.sql"], re.MULTILINE):
        pacs.execute(trigger)
    server.run_script(REMOVE, pacs.name)
    assert {row[0] for row in pacs.execute("SHOW TABLES")} == {"person", "exam", "picture"}
    assert not pacs.execute("SHOW TRIGGERS")


@pytest.mark.one_server
def test_the_view_of_the_page_is_merged(pacs: Pacs) -> None:
    person = pacs._insert("person", surname="A", forename="B")
    for number in range(200):
        pacs._insert("exam", uid=f"1.{number}", person_no=person)
    pacs.execute("ANALYZE TABLE exam, person, picture")
    plan = pacs.execute("EXPLAIN FORMAT=TRADITIONAL SELECT * FROM indexer_study WHERE study_pk = 7")
    assert "DERIVED" not in str(plan)
