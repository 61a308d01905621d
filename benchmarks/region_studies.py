"""Studies of a region, spread as in life: a few names are many people's, and the newest days are the fullest."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from central_index.digests import FIELDS, study_digest
from central_index.postgres_rows import moved_rows

CENTERS = [f"{number:03}" for number in range(300)]
_DAYS = 3_650
_LAST = datetime(2026, 11, 27)
_MODALITIES = (
    ("CR", 34), ("CT\\SR", 20), ("CT", 9), ("US", 14), ("MR", 9), ("MG", 5), ("DX", 4), ("PT\\CT", 2), ("XA", 2),
    ("OT", 1),
)  # fmt: skip
_SYLLABLES = (
    "ro",
    "ma",
    "ri",
    "lo",
    "pe",
    "na",
    "so",
    "to",
    "gu",
    "ver",
    "cas",
    "ti",
    "lla",
    "men",
    "dez",
    "ra",
    "bel",
    "sa",
)


def _names(number: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < number:
        found["".join(rng.choices(_SYLLABLES, k=rng.randint(2, 4))).upper()] = None
    return list(found)


FAMILY_NAMES = ["GONZÁLEZ", "MUÑOZ", "ROJAS", "DÍAZ", "PÉREZ", "SOTO", *_names(20_000, 1)]
#: A tenth of all people is called MARIA.
GIVEN_NAMES = ["MARÍA", "JOSÉ", "JUAN", "ANA", "LUIS", *_names(3_000, 2)]


def _zipf(names: list[str]) -> list[float]:
    return list(itertools.accumulate(1 / rank for rank in range(1, len(names) + 1)))


_FAMILY, _GIVEN = _zipf(FAMILY_NAMES), _zipf(GIVEN_NAMES)
_KINDS = list(itertools.accumulate(weight for _, weight in _MODALITIES))
_CENTER_WEIGHTS = list(itertools.accumulate(1 / (5 + rank) for rank in range(len(CENTERS))))


def studies(first: int, number: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Documents; ``first`` is the first study_pk."""
    rng = random.Random(seed + first)
    for pk in range(first, first + number):
        patient = rng.randrange(max(1, pk // 2) + 1)
        person = random.Random(patient)
        name = "^".join(
            (
                " ".join(person.choices(FAMILY_NAMES, cum_weights=_FAMILY, k=2)),
                " ".join(person.choices(GIVEN_NAMES, cum_weights=_GIVEN, k=2)),
            )
        )
        # Archives grow: half of all is of the last third of the time.
        moment = _LAST - timedelta(days=_DAYS * rng.random() ** 1.7, seconds=rng.randrange(36_000))
        ((modality, _),) = rng.choices(_MODALITIES, cum_weights=_KINDS)
        yield {
            "patient_pk": patient,
            "patient_id": f"{patient + 1_000_000}-{patient % 10}",
            "patient_name": name,
            "study_pk": pk,
            "study_iuid": f"1.2.840.113619.2.{rng.randrange(10**12)}.{pk}",
            "study_datetime": f"{moment:%Y-%m-%d %H:%M:%S}",
            "study_description": f"{modality} {person.choice(('THORAX', 'ABDOMEN', 'SKULL', 'KNEE', 'SPINE'))}",
            "study_modality": modality,
            "study_series": rng.randrange(1, 12),
            "study_instances": rng.randrange(1, 900),
            "center": rng.choices(CENTERS, cum_weights=_CENTER_WEIGHTS)[0],
        }


def as_moved(some: Iterable[dict[str, Any]], at: float, versions_above: int = 0) -> list[str]:
    """The parameters of MOVE for these documents, received at that moment; the version of each follows its study_pk."""
    return moved_rows(
        [
            [
                *(one[field] for field in FIELDS), "{}", at, versions_above + one["study_pk"], None,
                study_digest(one), False, at, 1,
            ]
            for one in some
        ]
    )  # fmt: skip
