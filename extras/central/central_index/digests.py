"""What a study and a range of studies come to, so that archive and index can compare without sending them.

Nothing of ours is imported: the sender may hold an equal copy, and tests/digest_vectors.json judges both. docs/index-api.md
says it for other languages. A digest guards against accidents, not against forgers.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import to_json

FIELDS = (
    "patient_pk",
    "patient_id",
    "patient_name",
    "study_pk",
    "study_iuid",
    "study_datetime",
    "study_description",
    "study_modality",
    "study_series",
    "study_instances",
    "center",
)
SIZE_BYTES = 16
_MODULUS = 1 << (8 * SIZE_BYTES)
_KNOWN = frozenset(FIELDS)


def canonical(study: Mapping[str, Any]) -> bytes:
    """What is hashed: a JSON array of the eleven values and, if there are any, an object of the others by name.

    Raises KeyError without one of the eleven, ValueError for NaN, infinity and half a character.
    """
    values = [study[field] for field in FIELDS]
    if len(study) > len(FIELDS):
        # RFC 8785 sorts by UTF-16 units; names are ASCII, where no order differs.
        values.append({name: study[name] for name in sorted(study.keys() - _KNOWN, key=_utf_16)})
    return _json(values)


def study_digest(study: Mapping[str, Any]) -> bytes:
    """16 bytes; raises as `canonical`."""
    return hashlib.blake2b(canonical(study), digest_size=SIZE_BYTES).digest()


def further(more: str) -> dict[str, Any]:
    """A study's other fields, from what is stored; none where that was made unusable by hand, so that it differs."""
    try:
        found = json.loads(more)
        if found:
            # What can't be hashed can't be shown either.
            _json([found])
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def range_digest(digests: Iterable[bytes]) -> str:
    """The sum of the studies' digests as unsigned numbers, highest byte first, modulo 2^128: 32 hex digits."""
    return as_hex(sum(int.from_bytes(digest, "big") for digest in digests))


def as_hex(total: int) -> str:
    """A sum as a range's digest."""
    return f"{total % _MODULUS:032x}"


def _utf_16(name: str) -> bytes:
    return name.encode("utf-16-be")


#: What isn't written as RFC 8785 writes it, or may hold such a value; of the rest pydantic escapes just what it escapes.
_LAID_OUT = frozenset({float, dict})


def _json(value: Any) -> bytes:
    if isinstance(value, float):
        return _number(value).encode()
    if isinstance(value, dict) and float in map(type, value.values()):
        return b"{" + b",".join(to_json(name) + b":" + _json(one) for name, one in value.items()) + b"}"
    if isinstance(value, list) and not _LAID_OUT.isdisjoint(map(type, value)):
        return b"[" + b",".join(map(_json, value)) + b"]"
    return to_json(value)


def _number(value: float) -> str:
    """As ECMAScript and RFC 8785 write it; an int stays exact, beyond 2^53 too, since a pk has 64 bits."""
    if not math.isfinite(value):
        raise ValueError("JSON has no such number")
    if value == 0:
        return "0"
    # repr gives the fewest digits that mean this number, as ECMAScript does; only the layout differs.
    mantissa, _, exponent_text = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent_text or 0)
    if whole == "0":
        point -= len(fraction) - len(fraction.lstrip("0")) + 1
    digits = digits.rstrip("0")
    sign = "-" if value < 0 else ""
    return sign + _laid_out(digits, point)


def _laid_out(digits: str, point: int) -> str:
    """``digits`` with the decimal point after the first ``point`` of them."""
    if len(digits) <= point <= 21:
        return digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"0.{'0' * -point}{digits}"
    power = point - 1
    first, rest = digits[0], digits[1:]
    return f"{first}{'.' if rest else ''}{rest}e{'+' if power > 0 else '-'}{abs(power)}"
