"""What the triggers cost dcm4chee-arc 5's own update scripts, which rewrite every patient's rows: with and without them."""

from __future__ import annotations

import time
from pathlib import Path

from tests.pacs import Pacs
from tests.pacs5 import ADD_INDEXER, Pacs5, Pacs5Before531
from tests.servers import Server

_REMOVE = Path(__file__).resolve().parent.parent / "extras/remove_indexer.sql"

#: The shape of what 5.31 does (each id is given its patient) and of 5.34's second script (each id and patient is rewritten).
_SHAPES: dict[str, tuple[type[Pacs5], tuple[str, ...], tuple[str, ...]]] = {
    "5.31": (
        Pacs5Before531,
        ("ALTER TABLE patient_id ADD COLUMN patient_fk BIGINT NULL",),
        ("UPDATE patient_id i JOIN patient p ON p.patient_id_fk = i.pk SET i.patient_fk = p.pk",),
    ),
    "5.34": (
        Pacs5,
        (),
        (
            "UPDATE patient_id SET pat_id_type_code = 'MR', entity_uid = '1.2', entity_uid_type = 'ISO'",
            "UPDATE patient SET pat_sex = 'O', num_studies = 1",
        ),
    ),
}


def cost(server: Server, patients: int) -> dict[str, float]:
    """The seconds of each shape, the ratios with / without, and how many rows were recorded (none: nothing changed)."""
    figures: dict[str, float] = {}
    for name, (version, before, update) in _SHAPES.items():
        seconds = {}
        for with_triggers in (False, True):
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
                    figures[f"{name} rows recorded"] = pacs.execute("SELECT COUNT(*) FROM study_service")[0][
                        0
                    ]
            finally:
                pacs.destroy()
        figures[f"{name} without, s"] = seconds[False]
        figures[f"{name} with, s"] = seconds[True]
        figures[f"{name} ratio"] = seconds[True] / seconds[False]
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
                f"INSERT INTO patient_id ({ids[0]}) VALUES ({ids[1]})", [(pk, f"{pk}-K", "A") for pk in pks]
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
                [(pk, f"{pk}-K", "A", pk) for pk in pks],
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
