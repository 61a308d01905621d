"""A dcm4chee-arc 5 archive as the database sees it: its tables, and its transactions in the archive's own order."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from tests.pacs import Pacs, new_uid

_ROOT = Path(__file__).resolve().parent.parent
SCHEMA = _ROOT / "tests/schemas/dcm4chee_arc5.sql"
BEFORE_531 = _ROOT / "tests/schemas/dcm4chee_arc5_before_5.31.sql"
ADD_INDEXER = _ROOT / "extras/add_indexer_arc5.sql"

#: Values of the archive's enumerations.
_NONE, _PARTIAL, _COMPLETE = 0, 1, 2
_KEPT, _PURGED = 0, 1
_KEY_OBJECT = "1.2.840.10008.5.1.4.1.1.88.59"
_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


class Pacs5(Pacs):
    """As Pacs, of 5.31 and later; what only this archive does comes after what every archive does."""

    schemas: tuple[Path, ...] = (SCHEMA,)
    script = ADD_INDEXER
    #: As the archive's manual asks for.
    charset = "utf8mb4"

    def _stored(self, table: str, **columns: Any) -> int:
        """Inserts a row with the times that every entity of the archive has, or some of them."""
        now = datetime.now().replace(microsecond=0)
        times = {
            "patient": ("created_time", "updated_time"),
            "study": ("created_time", "updated_time", "access_time", "modified_time"),
            "series": ("created_time", "updated_time", "modified_time"),
            "instance": ("created_time", "updated_time"),
            "rejected_instance": ("created_time",),
        }[table]
        return self._insert(table, **dict.fromkeys(times, now), **columns)

    # --- patients ----------------------------------------------------------------------------------------

    def add_patient(self, patient_id: str | None, name: str | None, issuer: str | None = None) -> int:
        name_pk = None if name is None else self._add_name(name)
        patient_pk = self._stored(
            "patient",
            failed_verifications=0,
            verification_status=0,
            num_studies=0,
            pat_birthdate="*",
            pat_sex="*",
            version=0,
            pat_name_fk=name_pk,
        )
        if patient_id is not None:
            self.add_patient_id(patient_pk, patient_id, issuer)
        return patient_pk

    def _add_name(self, name: str) -> int:
        return self._insert(
            "person_name", alphabetic_name=f"{name}^^", ideographic_name="*", phonetic_name="*"
        )

    def add_patient_id(self, patient_pk: int, patient_id: str, issuer: str | None = None) -> int:
        """One more id of a patient. Returns patient_id.pk."""
        return self._insert("patient_id", pat_id=patient_id, entity_id=issuer, patient_fk=patient_pk)

    def _ids_of(self, patient_pk: int) -> list[int]:
        rows = self.execute("SELECT pk FROM patient_id WHERE patient_fk = %s ORDER BY pk", (patient_pk,))
        return [row[0] for row in rows]

    def change_patient_id(self, patient_pk: int, patient_id: str, issuer: str | None = None) -> None:
        with self.transaction():
            ids = self._ids_of(patient_pk)
            if ids:
                self.execute(
                    "UPDATE patient_id SET pat_id = %s, entity_id = %s WHERE pk = %s",
                    (patient_id, issuer, ids[0]),
                )
            else:
                self.add_patient_id(patient_pk, patient_id, issuer)
            self.execute("UPDATE patient SET updated_time = NOW(6) WHERE pk = %s", (patient_pk,))

    def rename_patient(self, patient_pk: int, name: str | None) -> None:
        with self.transaction():
            ((name_pk,),) = self.execute("SELECT pat_name_fk FROM patient WHERE pk = %s", (patient_pk,))
            if name_pk is None:
                new_pk = None if name is None else self._add_name(name)
                self.execute(
                    "UPDATE patient SET pat_name_fk = %s, updated_time = NOW(6) WHERE pk = %s",
                    (new_pk, patient_pk),
                )
            elif name is None:
                self.execute("UPDATE patient SET pat_name_fk = NULL WHERE pk = %s", (patient_pk,))
                self.execute("DELETE FROM person_name WHERE pk = %s", (name_pk,))
            else:
                self.execute(
                    "UPDATE person_name SET alphabetic_name = %s WHERE pk = %s", (f"{name}^^", name_pk)
                )
                self.execute("UPDATE patient SET updated_time = NOW(6) WHERE pk = %s", (patient_pk,))

    def find_patient(self, patient_id: str | None) -> int | None:
        rows = self.execute(
            "SELECT MIN(patient_fk) FROM patient_id WHERE pat_id = %s AND patient_fk IS NOT NULL",
            (patient_id,),
        )
        return None if rows[0][0] is None else int(rows[0][0])

    # --- studies -----------------------------------------------------------------------------------------

    def store_study(
        self,
        study_iuid: str | None = None,
        *,
        patient_pk: int | None = None,
        patient_id: str | None = "26267267-K",
        patient_name: str | None = "PEÑA^JOSÉ",
        study_datetime: datetime | str | None = "2024-05-06 07:08:09",
        description: str | None = "TÓRAX",
        accession_no: str | None = None,
        commit: bool = True,
    ) -> int:
        """The first image of a study arrives, in one transaction: the patient if it is new, study, series, instance."""
        day, moment = _date_and_time(study_datetime)
        with self.transaction(commit):
            if patient_pk is None:
                patient_pk = self.find_patient(patient_id)
            if patient_pk is None:
                patient_pk = self.add_patient(patient_id, patient_name)
            study_pk = self._stored(
                "study",
                patient_fk=patient_pk,
                study_iuid=study_iuid or new_uid(),
                study_date=day,
                study_time=moment,
                study_desc=description or "*",
                accession_no=accession_no or "*",
                study_id="*",
                completeness=0,
                expiration_state=0,
                ext_retrieve_aet="*",
                failed_retrieves=0,
                rejection_state=_NONE,
                storage_ids="fs1",
                study_size=-1,
                version=0,
            )
            self.execute("UPDATE patient SET num_studies = num_studies + 1 WHERE pk = %s", (patient_pk,))
            self._store_instance(study_pk, self._add_series(study_pk))
        return study_pk

    def _add_series(self, study_pk: int, modality: str = "CT", rejection_state: int = _NONE) -> int:
        return self._stored(
            "series",
            study_fk=study_pk,
            series_iuid=new_uid(),
            modality=modality,
            series_desc="*",
            rejection_state=rejection_state,
            inst_purge_state=_KEPT,
            series_size=-1,
            version=0,
        )

    def _store_instance(self, study_pk: int, series_pk: int, sop_cuid: str = _CT_IMAGE) -> int:
        """One image; what the archive had cached of its study is thrown away."""
        pk = self._stored(
            "instance",
            series_fk=series_pk,
            sop_iuid=new_uid(),
            sop_cuid=sop_cuid,
            availability=0,
            content_date="*",
            ext_retrieve_aet="*",
            version=0,
        )
        self.execute("DELETE FROM series_query_attrs WHERE series_fk = %s", (series_pk,))
        self.execute("DELETE FROM study_query_attrs WHERE study_fk = %s", (study_pk,))
        return pk

    def store_image(self, study_pk: int, series_pk: int | None = None, modality: str = "CT") -> int:
        """One more image, in a transaction of its own, in a new series if none is named. Returns series.pk."""
        with self.transaction():
            if series_pk is None:
                series_pk = self._add_series(study_pk, modality)
            self._store_instance(study_pk, series_pk)
        return series_pk

    def update_counts(self, study_pk: int, series: int, instances: int, modality: str | None) -> None:
        """Stores and deletes until the study has so many series and images: this archive counts nothing itself."""
        with self.transaction():
            self._delete_images(study_pk)
            modalities = (modality or "*").split("\\")
            pks = [self._add_series(study_pk, modalities[min(n, len(modalities) - 1)]) for n in range(series)]
            for number in range(instances):
                self._store_instance(study_pk, pks[number % len(pks)])

    def edit_study(self, study_pk: int, *, description: str, study_datetime: str | None) -> None:
        day, moment = _date_and_time(study_datetime)
        self.execute(
            "UPDATE study SET study_desc = %s, study_date = %s, study_time = %s, modified_time = NOW(6),"
            " version = version + 1 WHERE pk = %s",
            (description, day, moment, study_pk),
        )

    def _delete_images(self, study_pk: int) -> None:
        self.execute("DELETE FROM study_query_attrs WHERE study_fk = %s", (study_pk,))
        self.execute(
            "DELETE a FROM series_query_attrs a JOIN series r ON r.pk = a.series_fk WHERE r.study_fk = %s",
            (study_pk,),
        )
        self.execute(
            "DELETE o FROM instance o JOIN series r ON o.series_fk = r.pk WHERE r.study_fk = %s", (study_pk,)
        )
        self.execute(
            "DELETE x FROM rejected_instance x JOIN study s ON s.study_iuid = x.study_iuid WHERE s.pk = %s",
            (study_pk,),
        )
        self.execute("DELETE FROM series WHERE study_fk = %s", (study_pk,))

    def delete_study(self, study_pk: int) -> None:
        with self.transaction():
            self._delete_images(study_pk)
            self.execute(
                "UPDATE patient p JOIN study s ON s.patient_fk = p.pk SET p.num_studies = p.num_studies - 1"
                " WHERE s.pk = %s",
                (study_pk,),
            )
            self.execute("DELETE FROM study WHERE pk = %s", (study_pk,))

    def store_studies(self, what: int | list[str]) -> list[str]:
        uids = [new_uid() for _ in range(what)] if isinstance(what, int) else what
        with self.transaction():
            for number, uid in enumerate(uids):
                self.store_study(uid, patient_id=f"{number}-K", patient_name=f"NÚÑEZ^MARÍA {number}")
        return uids

    # --- what only this archive does ---------------------------------------------------------------------

    def images(self, study_pk: int, *, rejected: bool = False) -> list[tuple[int, str, str, str]]:
        """(series.pk, study_iuid, series_iuid, sop_iuid) of the images that nobody rejected, or of the rejected ones."""
        return self.execute(
            "SELECT r.pk, s.study_iuid, r.series_iuid, o.sop_iuid FROM study s JOIN series r ON r.study_fk = s.pk"
            " JOIN instance o ON o.series_fk = r.pk LEFT JOIN rejected_instance x ON x.study_iuid = s.study_iuid"
            " AND x.series_iuid = r.series_iuid AND x.sop_iuid = o.sop_iuid"
            f" WHERE s.pk = %s AND o.sop_cuid <> %s AND x.pk IS {'NOT' if rejected else ''} NULL ORDER BY o.pk",
            (study_pk, _KEY_OBJECT),
        )

    def reject(self, study_pk: int, images: list[tuple[int, str, str, str]]) -> None:
        """Some images are rejected; the rejection note is stored as an instance in a series of its own."""
        with self.transaction():
            for _, study_iuid, series_iuid, sop_iuid in images:
                self._stored(
                    "rejected_instance",
                    study_iuid=study_iuid,
                    series_iuid=series_iuid,
                    sop_iuid=sop_iuid,
                    sop_cuid=_CT_IMAGE,
                )
            self._set_rejection_states(study_pk)
            note = self._add_series(study_pk, "KO", _COMPLETE)
            self._store_instance(study_pk, note, _KEY_OBJECT)

    def revoke(self, study_pk: int, images: list[tuple[int, str, str, str]]) -> None:
        """The rejection of some images is revoked; that note isn't kept."""
        with self.transaction():
            for _, study_iuid, series_iuid, sop_iuid in images:
                self.execute(
                    "DELETE FROM rejected_instance WHERE study_iuid = %s AND series_iuid = %s AND sop_iuid = %s",
                    (study_iuid, series_iuid, sop_iuid),
                )
            self._set_rejection_states(study_pk)

    def _set_rejection_states(self, study_pk: int) -> None:
        """As the archive does: an UPDATE only where the state is another one than before."""
        rows = self.execute(
            "SELECT r.pk, r.rejection_state, COUNT(*), COUNT(x.pk) FROM series r JOIN study s ON s.pk = r.study_fk"
            " JOIN instance o ON o.series_fk = r.pk LEFT JOIN rejected_instance x ON x.study_iuid = s.study_iuid"
            " AND x.series_iuid = r.series_iuid AND x.sop_iuid = o.sop_iuid WHERE s.pk = %s AND o.sop_cuid <> %s"
            " GROUP BY r.pk, r.rejection_state",
            (study_pk, _KEY_OBJECT),
        )
        states = []
        for series_pk, before, images, rejected in rows:
            state = _NONE if not rejected else _PARTIAL if rejected < images else _COMPLETE
            states.append(state)
            if state != before:
                self.execute("UPDATE series SET rejection_state = %s WHERE pk = %s", (state, series_pk))
        whole = states[0] if len(set(states)) == 1 else _PARTIAL
        self.execute(
            "UPDATE study SET rejection_state = %s WHERE pk = %s AND rejection_state <> %s",
            (whole, study_pk, whole),
        )

    def purge_instance_records(self, series_pk: int) -> None:
        """The archive moves a series' instance records into its metadata, and keeps their number in its cache."""
        with self.transaction():
            for view in ("regularUse", "hideRejected"):
                self.execute(
                    "INSERT INTO series_query_attrs (view_id, series_fk, num_instances)"
                    " SELECT %s, %s, COUNT(*) FROM instance WHERE series_fk = %s",
                    (view, series_pk, series_pk),
                )
            self.execute("UPDATE series SET inst_purge_state = %s WHERE pk = %s", (_PURGED, series_pk))
            self.execute("DELETE FROM instance WHERE series_fk = %s", (series_pk,))


class Pacs5Before531(Pacs5):
    """Before 5.31: a patient names its id, and has one at most."""

    schemas = (SCHEMA, BEFORE_531)

    def add_patient_id(self, patient_pk: int, patient_id: str, issuer: str | None = None) -> int:
        id_pk = self._insert("patient_id", pat_id=patient_id, entity_id=issuer)
        self.execute("UPDATE patient SET patient_id_fk = %s WHERE pk = %s", (id_pk, patient_pk))
        return id_pk

    def _ids_of(self, patient_pk: int) -> list[int]:
        rows = self.execute(
            "SELECT patient_id_fk FROM patient WHERE pk = %s AND patient_id_fk IS NOT NULL", (patient_pk,)
        )
        return [row[0] for row in rows]

    def find_patient(self, patient_id: str | None) -> int | None:
        rows = self.execute(
            "SELECT MIN(p.pk) FROM patient_id i JOIN patient p ON p.patient_id_fk = i.pk WHERE i.pat_id = %s",
            (patient_id,),
        )
        return None if rows[0][0] is None else int(rows[0][0])


def _date_and_time(moment: datetime | str | None) -> tuple[str, str]:
    """study_date and study_time; '*' where there is none."""
    if moment is None:
        return "*", "*"
    day, _, time = str(moment).partition(" ")
    return day.replace("-", ""), f"{time.replace(':', '')}.000" if time else "*"
