"""An archive that lives: stores, grows, corrects, moves, merges, rejects and deletes at random, and knows what it holds.

What it should hold is kept beside the database, in Python, so that a mistake in the view shows as well.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.indexer import CENTER
from tests.pacs import Pacs, new_uid
from tests.pacs5 import Pacs5

_FAMILIES = ("PEÑA", "NÚÑEZ", "SOTO", "O'HIGGINS", "MÜLLER", "BRÛLÉ")
_GIVEN = ("JOSÉ", "MARÍA", "ANA LUISA", "ZOË")
_DESCRIPTIONS = ("TÓRAX", "ABDOMEN Y PELVIS", 'RX "MANO"', "EX\\TREMIDAD", "CRÁNEO")
_MODALITIES = ("CT", "MR", "SR", "PT", "DX")


@dataclass
class _Patient:
    pk: int
    id: str | None
    name: str | None
    issuer: str | None


@dataclass
class _Series:
    pk: int
    modality: str
    images: int = 1
    rejected: int = 0


@dataclass
class _Study:
    pk: int
    iuid: str
    patient: _Patient
    moment: str | None
    description: str
    accession_no: str
    series: list[_Series] = field(default_factory=list)
    #: What a 2.x archive has written into the study's row: series, images, modality.
    counted: tuple[int, int, str] = (0, 0, "")


class Simulator:
    """One archive; the same seed does the same to it. ``step`` does one thing, in the transactions of the archive."""

    def __init__(self, pacs: Pacs, seed: int) -> None:
        self._pacs = pacs
        self._dice = random.Random(seed)
        self._studies: dict[str, _Study] = {}
        self._patients: list[_Patient] = []
        self._gone: list[str] = []
        self._numbers = iter(range(1, 1_000_000))

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        """One random event in the hospital."""
        events: list[tuple[int, Callable[[], None]]] = [
            (6, self._store),
            (8, self._grow),
            (2, self._rename),
            (2, self._change_id),
            (2, self._edit),
            (2, self._move),
            (1, self._merge),
            (2, self._delete),
            (1, self._store_again),
        ]
        if isinstance(self._pacs, Pacs5):
            events += [(2, self._reject), (1, self._revoke)]
        (event,) = self._dice.choices([event for _, event in events], [weight for weight, _ in events])
        if not self._studies:
            event = self._store
        event()

    def documents(self) -> dict[str, dict[str, Any]]:
        """What a central index should hold, by study_iuid, with the two extra fields."""
        return {iuid: self._document(study) for iuid, study in self._studies.items()}

    def _document(self, study: _Study) -> dict[str, Any]:
        series, images, modality = self._counts(study)
        return {
            "patient_pk": study.patient.pk,
            "patient_id": study.patient.id,
            "patient_name": study.patient.name,
            "study_pk": study.pk,
            "study_iuid": study.iuid,
            "study_datetime": study.moment,
            "study_description": study.description,
            "study_modality": modality,
            "study_series": series,
            "study_instances": images,
            "center": CENTER,
            "accession": study.accession_no,
            "issuer": study.patient.issuer,
        }

    def _counts(self, study: _Study) -> tuple[int, int, str | None]:
        if not isinstance(self._pacs, Pacs5):
            return study.counted
        shown = [one for one in study.series if one.rejected < one.images]
        modalities = sorted({one.modality for one in shown})
        return len(shown), sum(one.images - one.rejected for one in shown), "\\".join(modalities) or None

    # --- what happens ------------------------------------------------------------------------------------

    def _any_study(self) -> _Study:
        return self._dice.choice(list(self._studies.values()))

    def _new_name(self) -> str:
        return f"{self._dice.choice(_FAMILIES)}^{self._dice.choice(_GIVEN)}{next(self._numbers)}"

    def _new_id(self) -> str:
        return f"{next(self._numbers)}-{self._dice.choice('0123456789K')}"

    def _any_patient(self, *, new: float) -> _Patient:
        if self._patients and self._dice.random() > new:
            return self._dice.choice(self._patients)
        patient = _Patient(0, self._new_id(), self._new_name(), self._dice.choice((None, "HOSPITAL ÑUÑOA")))
        patient.pk = self._pacs.add_patient(patient.id, patient.name, patient.issuer)
        self._patients.append(patient)
        return patient

    def _store(self, iuid: str | None = None) -> None:
        iuid = iuid or new_uid()
        moment = f"2024-{self._dice.randint(1, 12):02}-{self._dice.randint(1, 28):02} 07:08:{len(self._studies) % 60:02}"
        study = _Study(
            0,
            iuid,
            self._any_patient(new=0.4),
            self._dice.choice((moment, None)),
            self._dice.choice(_DESCRIPTIONS),
            f"ACC{next(self._numbers)}",
        )
        study.pk = self._pacs.store_study(
            iuid,
            patient_pk=study.patient.pk,
            study_datetime=study.moment,
            description=study.description,
            accession_no=study.accession_no,
        )
        ((first_series,),) = self._pacs.execute("SELECT pk FROM series WHERE study_fk = %s", (study.pk,))
        study.series.append(_Series(first_series, "CT"))
        self._studies[iuid] = study

    def _grow(self) -> None:
        study = self._any_study()
        for _ in range(self._dice.randint(1, 4)):
            series = self._dice.choice([*study.series, None])
            if series is None or series.rejected:
                modality = self._dice.choice(_MODALITIES)
                pk = self._pacs.store_image(study.pk, modality=modality)
                study.series.append(_Series(pk, modality))
            else:
                modality = series.modality
                self._pacs.store_image(study.pk, series.pk, modality)
                series.images += 1
            study.counted = (len(study.series), sum(one.images for one in study.series), modality)

    def _rename(self) -> None:
        patient = self._dice.choice(self._patients)
        patient.name = self._new_name()
        self._pacs.rename_patient(patient.pk, patient.name)

    def _change_id(self) -> None:
        patient = self._dice.choice(self._patients)
        patient.id, patient.issuer = self._new_id(), self._dice.choice((None, "OTRO", "ÑUÑOA"))
        self._pacs.change_patient_id(patient.pk, patient.id, patient.issuer)

    def _edit(self) -> None:
        study = self._any_study()
        study.description = f"{self._dice.choice(_DESCRIPTIONS)} {next(self._numbers)}"
        study.moment = self._dice.choice(("2019-12-31 23:59:59", None, study.moment))
        self._pacs.edit_study(study.pk, description=study.description, study_datetime=study.moment)

    def _move(self) -> None:
        study = self._any_study()
        study.patient = self._any_patient(new=0.1)
        self._pacs.move_study(study.pk, study.patient.pk)

    def _merge(self) -> None:
        wrong, right = self._dice.choice(self._patients), self._dice.choice(self._patients)
        if wrong is right:
            return
        with self._pacs.transaction():
            for study in self._studies.values():
                if study.patient is wrong:
                    self._pacs.move_study(study.pk, right.pk)
                    study.patient = right
            self._pacs.execute("UPDATE patient SET merge_fk = %s WHERE pk = %s", (right.pk, wrong.pk))
        self._patients.remove(wrong)

    def _delete(self) -> None:
        study = self._any_study()
        self._pacs.delete_study(study.pk)
        del self._studies[study.iuid]
        self._gone.append(study.iuid)

    def _store_again(self) -> None:
        if self._gone:
            self._store(self._gone.pop(self._dice.randrange(len(self._gone))))

    def _reject(self) -> None:
        assert isinstance(self._pacs, Pacs5)
        study = self._any_study()
        images = self._pacs.images(study.pk)
        if images:
            some = self._dice.sample(images, self._dice.randint(1, len(images)))
            self._pacs.reject(study.pk, some)
            self._count_rejected(study, [image[0] for image in some], 1)

    def _revoke(self) -> None:
        assert isinstance(self._pacs, Pacs5)
        study = self._any_study()
        images = self._pacs.images(study.pk, rejected=True)
        if images:
            some = self._dice.sample(images, self._dice.randint(1, len(images)))
            self._pacs.revoke(study.pk, some)
            self._count_rejected(study, [image[0] for image in some], -1)

    def _count_rejected(self, study: _Study, series_pks: list[int], by: int) -> None:
        for series in study.series:
            series.rejected += by * series_pks.count(series.pk)
