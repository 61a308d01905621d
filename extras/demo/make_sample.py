"""Makes studies.csv.gz and ATTRIBUTION.md from the index of the NCI Imaging Data Commons; only needed to make them anew.

    pip install idc-index-data pandas pyarrow
    python extras/demo/make_sample.py

The same version of idc-index-data gives the same files, byte for byte. The persons are invented here.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import html
import io
import random
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import idc_index_data  # type: ignore[import-not-found,import-untyped,unused-ignore]
import pandas as pd  # type: ignore[import-not-found,import-untyped,unused-ignore]

_HERE = Path(__file__).parent
_PATIENTS_PER_COLLECTION = 24
_STUDIES_PER_PATIENT = 4
#: Slides under a microscope are a third of the index, and rare in a hospital's PACS.
_SLIDES_PER_COLLECTION = 4
#: De-identified dates before this one are placeholders.
_FIRST_DATE = "1985-01-01"
_COLUMNS = (
    "patient_id",
    "patient_name",
    "study_iuid",
    "study_datetime",
    "study_description",
    "study_modality",
    "study_series",
    "study_instances",
)

# fmt: off
_FAMILIES = (
    "PEÑA", "NÚÑEZ", "MUÑOZ", "GONZÁLEZ", "RODRÍGUEZ", "PÉREZ", "SÁNCHEZ", "MARTÍNEZ", "LÓPEZ", "GÓMEZ", "HERNÁNDEZ",
    "ÁLVAREZ", "JIMÉNEZ", "IBÁÑEZ", "YÁÑEZ", "ORDÓÑEZ", "ZÚÑIGA", "SEPÚLVEDA", "CÁRDENAS", "VÁSQUEZ", "FERNÁNDEZ",
    "GUTIÉRREZ", "RAMÍREZ", "CÁCERES", "BRICEÑO", "CARREÑO", "ACUÑA", "OCAÑA", "ROJAS", "DÍAZ", "SOTO", "SILVA", "CONTRERAS",
    "TORRES", "FLORES", "ESPINOZA", "FUENTES", "VALENZUELA", "ARAYA", "REYES", "TAPIA", "CASTILLO", "VERGARA", "BRAVO",
    "FIGUEROA", "LAGOS", "MARÍN",
)
_GIVEN = (
    "JOSÉ", "MARÍA", "JUAN", "ANDRÉS", "SOFÍA", "LUCÍA", "MARTÍN", "TOMÁS", "MATÍAS", "BENJAMÍN", "SEBASTIÁN", "NICOLÁS",
    "JOAQUÍN", "AGUSTÍN", "RAÚL", "ÁNGELA", "VERÓNICA", "MÓNICA", "INÉS", "BELÉN", "ROCÍO", "CONCEPCIÓN", "ÓSCAR", "HÉCTOR",
    "VÍCTOR", "IGNACIO", "CAMILA", "VALENTINA", "CATALINA", "FRANCISCA", "DIEGO", "ANA MARÍA", "JOSÉ LUIS", "MARÍA JOSÉ",
    "JUAN PABLO", "MARÍA ELENA", "JOSÉ MIGUEL", "BEGOÑA", "ÍÑIGO", "MILAGROS", "PATRICIA", "GABRIEL",
)
# fmt: on


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _check_digit(number: int) -> str:
    """Of a RUT: the digits from the right times 2, 3, 4, 5, 6, 7, 2, ..., modulo 11."""
    total = sum(int(digit) * (2 + place % 6) for place, digit in enumerate(reversed(str(number))))
    return "0123456789K0"[11 - total % 11]


def _person(rng: random.Random, taken: set[int]) -> tuple[str, str]:
    """An id and a name. The numbers are higher than those of people living today."""
    while (number := rng.randrange(33_000_000, 44_000_000)) in taken:
        pass
    taken.add(number)
    families = " ".join(rng.sample(_FAMILIES, rng.choice((1, 1, 2))))
    return f"{number}-{_check_digit(number)}", f"{families}^{rng.choice(_GIVEN)}"


def _index(name: str) -> Any:
    return pd.read_parquet(idc_index_data.INDEX_METADATA[name]["parquet_filepath"])


def _studies() -> Any:
    """One row for each study that may be passed on: every series of it under CC BY."""
    series = pd.read_parquet(
        idc_index_data.IDC_INDEX_PARQUET_FILEPATH,
        columns=[
            "collection_id",
            "PatientID",
            "StudyInstanceUID",
            "StudyDate",
            "StudyDescription",
            "Modality",
            "instanceCount",
            "license_short_name",
            "source_DOI",
            "SeriesInstanceUID",
        ],
    )
    free = series.license_short_name.isin(["CC BY 3.0", "CC BY 4.0"])
    series = series[~series.StudyInstanceUID.isin(series.StudyInstanceUID[~free])]
    series = series.sort_values("SeriesInstanceUID")
    series["source"] = list(zip(series.source_DOI, series.license_short_name, strict=True))
    studies = series.groupby("StudyInstanceUID", as_index=False).agg(
        collection=("collection_id", "first"),
        patient=("PatientID", "first"),
        date=("StudyDate", "first"),
        description=("StudyDescription", "first"),
        modalities=("Modality", lambda names: "\\".join(sorted(set(names)))),
        series=("SeriesInstanceUID", "size"),
        instances=("instanceCount", "sum"),
        sources=("source", lambda sources: sorted(set(sources))),
    )
    species = _index("collections_index").set_index("collection_id").species
    human = studies.collection.map(species) == "Human"
    dated = studies.date.isna() | (studies.date >= _FIRST_DATE)
    return studies[human & dated]


def _chosen(studies: Any) -> list[Any]:
    """Some patients of each collection, some studies of each patient; by hash, so that it is the same each time."""
    groups: dict[str, dict[str, list[Any]]] = {}
    for study in studies.itertuples():
        groups.setdefault(study.collection, {}).setdefault(study.patient, []).append(study)
    chosen = []
    for patients in groups.values():
        slides = 0
        for patient in sorted(patients, key=_hash)[:_PATIENTS_PER_COLLECTION]:
            for study in patients[patient][:_STUDIES_PER_PATIENT]:
                slide = "SM" in study.modalities.split("\\")
                slides += slide
                if not slide or slides <= _SLIDES_PER_COLLECTION:
                    chosen.append(study)
    return sorted(chosen, key=lambda study: _hash(study.StudyInstanceUID))


def _text(value: Any) -> str:
    """A database that is latin1 must be able to hold it."""
    text = " ".join(str(value).split()) if isinstance(value, str) else ""
    return text.encode("latin-1", "replace").decode("latin-1")[:64]


def _moment(study: Any) -> str:
    """The index has dates only: the time of day is invented, and every tenth study has none."""
    if not isinstance(study.date, str):
        return ""
    number = int(_hash(study.StudyInstanceUID)[:8], 16)
    if number % 10 == 0:
        return f"{study.date} 00:00:00"
    return f"{study.date} {7 + number % 13:02}:{number // 13 % 60:02}:{number // 780 % 60:02}"


def _write_csv(chosen: list[Any]) -> None:
    rng = random.Random(2026)
    taken: set[int] = set()
    persons: dict[tuple[str, str], tuple[str, str]] = {}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for study in chosen:
        key = (study.collection, study.patient)
        if key not in persons:
            persons[key] = _person(rng, taken)
        writer.writerow(
            (
                *persons[key],
                study.StudyInstanceUID,
                _moment(study),
                _text(study.description),
                study.modalities,
                study.series,
                study.instances,
            )
        )
    (_HERE / "studies.csv.gz").write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))
    print(f"{len(chosen)} studies of {len(persons)} patients")


def _write_attribution(chosen: list[Any]) -> None:
    studies: Counter[str] = Counter()
    licences: dict[str, set[str]] = {}
    for study in chosen:
        for doi, licence in study.sources:
            studies[doi] += 1
            licences.setdefault(doi, set()).add(licence)
    titles = {
        source["source_doi"].lower(): source["source_title"]
        for sources in _index("collections_index").sources
        for source in sources
    }
    results = _index("analysis_results_index")
    titles |= dict(zip(results.source_DOI.str.lower(), results.analysis_result_title, strict=True))
    lines = [_HEAD.format(version=version("idc-index-data"), studies=len(chosen))]
    for doi in sorted(studies, key=str.lower):
        title = " ".join(html.unescape(titles[doi.lower()]).replace("|", "/").split())
        licence = " and ".join(sorted(licences[doi]))
        lines.append(f"| [{doi}](https://doi.org/{doi}) | {title} | {licence} | {studies[doi]} |")
    (_HERE / "ATTRIBUTION.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


_HEAD = """\
# studies.csv.gz: where it comes from

{studies:,} real studies from the index of the [NCI Imaging Data Commons](https://imaging.datacommons.cancer.gov) (IDC), as
the PyPI package `idc-index-data` {version} holds it (Copyright 2024 Andrey
Fedorov, MIT licence). make_sample.py makes both files anew.

**From IDC**: study_iuid, the date of study_datetime, study_description, study_modality (the modalities of the series,
joined by a backslash), study_series and study_instances (series and instances of the study, counted). The dates were
changed by those who published the studies. Characters that latin1 doesn't have became "?", and descriptions end after 64
characters.

**Invented**: patient_id and patient_name. No such persons exist; the ids look like Chilean RUTs and carry a right check
digit, but their numbers are higher than those of people living today. All studies of one real patient have the same
invented one. The time of day is invented, too: IDC's index has dates only.

Only studies whose series are all under [CC BY 4.0](https://creativecommons.org/licenses/by/4.0/) or
[CC BY 3.0](https://creativecommons.org/licenses/by/3.0/) were taken. Their sources:

| source | title | licence | studies |
| --- | --- | --- | --- |"""


if __name__ == "__main__":
    everything = _chosen(_studies())
    _write_csv(everything)
    _write_attribution(everything)
