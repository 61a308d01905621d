"""What the triggers cost dcm4chee-arc 5's own update scripts, which rewrite every patient's rows: with and without them."""

from __future__ import annotations

import time
from pathlib import Path

from tests.pacs import Pacs
from tests.pacs5 import ADD_INDEXER, Pacs5, Pacs5Before531
from tests.servers import Server

_REMOVE = Path(__file__).resolve().parent.parent / "extras/remove_indexer.sql"

_NAME = (
    "SELECT n.alphabetic_name FROM person_name n JOIN patient p ON n.pk = p.pat_name_fk"
    " WHERE p.pk = patient_id.patient_fk"
)

#: The shape of what these versions' update scripts do to each patient's id: what comes before the clock runs, and what is
#: measured. 5.31 gives each id its patient (its first part, while the archive runs). 5.34 (its second part, while it is
#: stopped) writes each id's row three times: a name, and an asterisk where there is no issuer, no value for the view.
_SHAPES: dict[str, tuple[type[Pacs5], tuple[str, ...], tuple[str, ...]]] = {
    "5.31": (
        Pacs5Before531,
        (
            "ALTER TABLE patient_id ADD patient_fk BIGINT, ADD FOREIGN KEY (patient_fk) REFERENCES patient (pk)",
        ),
        (
            "UPDATE patient_id SET patient_fk = (SELECT p.pk FROM patient p WHERE p.patient_id_fk = patient_id.pk)",
        ),
    ),
    "5.34": (
        Pacs5,
        ("ALTER TABLE patient_id ADD pat_name VARCHAR(255)",),
        (
            f"UPDATE patient_id SET pat_name = ({_NAME}) WHERE pat_name IS NULL",
            "UPDATE patient_id SET entity_id = '*' WHERE entity_id IS NULL",
            "UPDATE patient_id SET entity_uid = '*', entity_uid_type = '*' WHERE entity_uid IS NULL",
        ),
    ),
}


def cost(server: Server, patients: int, *, with_first: bool = False) -> dict[str, float]:
    """The seconds of each shape, the ratios with / without, and how many rows were recorded (none: nothing changed).

    ``with_first``: which of the two is measured first, for the second finds the server as the first has left it.
    """
    figures: dict[str, float] = {}
    for name, (version, before, update) in _SHAPES.items():
        seconds = {}
        for with_triggers in (with_first, not with_first):
            pacs = version.create_bare(server)
            try:
                _fill(pacs, patients, version is Pacs5)
                server.run_script((ADD_INDEXER if with_triggers else _REMOVE).read_text(), pacs.name)
                for statement in before:
                    pacs.execute(statement)
                began = time.perf_counter()
                for statement in update:
                    pacs.execute(statement)
                seconds[with_triggers] = time.perf_counter() - began
                if with_triggers:
                    ((rows,),) = pacs.execute("SELECT COUNT(*) FROM study_service")
                    figures[f"{name} rows recorded"] = rows
            finally:
                pacs.destroy()
        figures[f"{name} without, s"] = seconds[False]
        figures[f"{name} with, s"] = seconds[True]
        figures[f"{name} ratio"] = seconds[True] / seconds[False]
        figures[f"{name} us more a row written"] = (
            (seconds[True] - seconds[False]) * 1e6 / patients / len(update)
        )
    return figures


def _fill(pacs: Pacs, patients: int, newer: bool) -> None:
    """Patients with a name, an id and a study each, by the thousand."""
    now = "2026-01-01"
    pks = range(1, patients + 1)
    with pacs.transaction(), pacs._cursor() as cursor:
        cursor.executemany(
            "INSERT INTO person_name (pk, alphabetic_name, ideographic_name, phonetic_name) VALUES (%s, %s, %s, %s)",
            [(pk, f"N{pk}", "*", "*") for pk in pks],
        )
        ids = ("pk, pat_id, entity_id", "%s, %s, %s")
        if not newer:
            cursor.executemany(
                f"INSERT INTO patient_id ({ids[0]}) VALUES ({ids[1]})", [(pk, f"{pk}-K", None) for pk in pks]
            )
        link = ("", "") if newer else (", patient_id_fk", ", %s")
        cursor.executemany(
            "INSERT INTO patient (pk, created_time, updated_time, failed_verifications, verification_status, num_studies,"
            f" pat_birthdate, pat_sex, pat_name_fk{link[0]}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s{link[1]})",
            [(pk, now, now, 0, 0, 0, "*", "*", pk, *([] if newer else [pk])) for pk in pks],
        )
        if newer:
            cursor.executemany(
                f"INSERT INTO patient_id ({ids[0]}, patient_fk) VALUES ({ids[1]}, %s)",
                [(pk, f"{pk}-K", None, pk) for pk in pks],
            )
        columns = (
            "pk, patient_fk, study_iuid, access_time, created_time, modified_time, updated_time, accession_no, completeness,"
            " expiration_state, ext_retrieve_aet, failed_retrieves, rejection_state, study_size, study_date, study_time,"
            " study_desc, study_id"
        )
        cursor.executemany(
            f"INSERT INTO study ({columns}) VALUES ({', '.join(['%s'] * 18)})",
            [
                (pk, pk, f"1.2.{pk}", now, now, now, now, "*", 0, 0, "*", 0, 0, -1, "*", "*", "*", "*")
                for pk in pks
            ],
        )
