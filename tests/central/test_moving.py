"""``central-index move``: from a SQLite file into PostgreSQL."""

from __future__ import annotations

import subprocess
import sys

from tests.central.conftest import KEYS, READER, WRITER, Index, MakeIndex, study
from tests.central.postgres import Cluster


def move(source: str, target: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "central_index", "--database", target, "move", source],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def compared(index: Index) -> list[dict[str, object]]:
    answer = index.ask(
        "POST", "/api/v1/register/digests", WRITER, json={"ranges": [[None, None]], "list": True}
    )
    found: list[dict[str, object]] = answer.json()["ranges"]
    return found


def put(index: Index, version: int, **values: object) -> int:
    headers = {"Study-Version": str(version)}
    return index.ask(
        "POST", "/api/v1/register", WRITER, json={**study(), **values}, headers=headers
    ).status_code


def test_all_that_the_file_knows_is_moved(make_index: MakeIndex, cluster: Cluster) -> None:
    old, new = make_index(), make_index(cluster)
    old.start()
    old.post([study(number) for number in range(1, 6)])
    old.post(study(6, study_datetime=None, note="ñ 😀", dose=1e21))
    old.post(study(2, study_instances=1), "key-1")
    old.post(study(2, study_instances=2), "key-2")
    put(old, 2**60, study_iuid="9", study_pk=9)
    old.ask("DELETE", "/api/v1/register/1.2.840.1", WRITER, headers={"Study-Version": str(2**60)})
    old.ask("POST", "/api/v1/register/report", WRITER, json={"at": 77, "center": "000", "state": "ok"})
    old.post(study(center="111"), key=KEYS["centers"]["111"])
    old.execute("UPDATE studies SET patient_name = 'BY^HAND' WHERE study_pk = 3")
    held, digests = old.studies(), compared(old)
    old.stop()

    for records in (1, 0):
        done = move(old.database, new.database)
        assert (done.returncode, done.stdout) == (
            0,
            "Moved 8 studies, deleted ones included.\n"
            f"Moved {records} records of who was shown what. From now on: --audit-key the file that the index on"
            f" {old.database} had\nCompared by their digests: the same on both sides.\n",
        ), done.stderr
    new.start()
    assert [{**one, "id": 0} for one in new.studies()] == [{**one, "id": 0} for one in held]
    assert compared(new) == digests
    assert [one["study_pk"] for one in new.studies(patient="hand")] == [3]
    # Versions, tombstones, keys and reports.
    assert put(new, 2**60 - 1, study_iuid="9") == 409
    assert put(new, 2**60 - 1) == 409
    assert new.post(study(2, study_instances=1), "key-1").status_code == 201
    assert [one["study_instances"] for one in new.studies(study_iuid="1.2.840.2")] == [2]
    answer = new.ask(
        "POST", "/api/v1/register/report", WRITER, json={"at": 78, "center": "000", "state": "ok"}
    )
    assert answer.json() == {"status": "Ok", "previous": 77, "highest": 2**60}


def test_what_is_newer_there_stays(make_index: MakeIndex, cluster: Cluster) -> None:
    old, new = make_index(), make_index(cluster)
    old.start()
    put(old, 5, study_instances=5)
    put(old, 5, study_instances=5, study_iuid="2")
    old.stop()
    new.start()
    put(new, 6, study_instances=6)
    done = move(old.database, new.database)
    assert "Not the same on both sides (newer there, perhaps): 000." in done.stdout
    assert {one["study_iuid"]: one["study_instances"] for one in new.studies()} == {"1.2.840.1": 6, "2": 5}
    assert new.ask("GET", "/api/v1/studies", READER).json()["total"] == 2


def test_what_postgresql_cant_keep_is_named(make_index: MakeIndex, cluster: Cluster) -> None:
    old, new = make_index(), make_index(cluster)
    old.start()
    old.post([study(1), study(2)])
    old.execute("UPDATE studies SET patient_name = 'XQZ' || char(0) WHERE study_pk = 2")
    old.stop()
    done = move(old.database, new.database)
    assert "can't keep U+0000: study_pk 2." in done.stdout
    assert "XQZ" not in done.stdout + done.stderr


def test_a_mistake_is_one_sentence(make_index: MakeIndex, cluster: Cluster) -> None:
    index = make_index()
    done = move(str(index.directory / "nothing.sqlite"), cluster.url("postgres"))
    assert (done.returncode, done.stderr) == (1, f"Error: {index.directory}/nothing.sqlite isn't there.\n")
    assert not (index.directory / "nothing.sqlite").exists()
    done = move(index.database, "other.sqlite")
    assert done.returncode == 2
    index.start()
    index.stop()
    done = move(index.database, cluster.url("absent"))
    assert done.returncode == 1
    assert 'database "absent" does not exist' in done.stderr
    assert "Traceback" not in done.stderr
