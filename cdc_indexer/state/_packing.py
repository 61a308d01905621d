"""An entry of the ledger as few bytes, and back (pure).

A million studies lie in it: a UID, half as long as its text, and the digest are nearly all of what an entry takes.
"""

from __future__ import annotations

import re
import struct
from hashlib import blake2b
from zlib import crc32

from cdc_indexer.model.ledger import Entry

__all__ = ["FLAGS_AT", "Unreadable", "pack", "short_hash", "unpack"]

_HEAD = struct.Struct(">HBQ")
_DIGEST_BYTES = 16

#: Where the flags stand; the lowest bit of theirs says whether there is a digest.
FLAGS_AT = 2

_HAS_DIGEST, _DELETED, _HAS_REJECTED, _UNVERIFIED, _HAS_SERIES, _HAS_INSTANCES, _AS_TEXT = (
    1 << bit for bit in range(7)
)

#: What a UID may hold: two of them go into a byte. What isn't one is kept as it is.
_is_uid = re.compile(r"[0-9.]+").fullmatch


class Unreadable(Exception):
    """These bytes aren't an entry."""


def short_hash(study_iuid: str) -> int:
    """32 bits by which an entry is found; others may have the same."""
    digest = blake2b(study_iuid.encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return int.from_bytes(digest, "big", signed=True)


def pack(entry: Entry) -> bytes:
    """All of ``entry`` but its study_pk."""
    uid, _, version, digest, deleted, rejected, unverified, series, instances = entry
    flags = _DELETED * deleted | _UNVERIFIED * unverified
    middle = b""
    if digest is not None:
        flags |= _HAS_DIGEST
        middle = _digest(digest)
    if rejected is not None:
        flags |= _HAS_REJECTED
        middle += _digest(rejected)
    if series is not None and series >= 0:
        flags |= _HAS_SERIES
        middle += _number(series)
    if instances is not None and instances >= 0:
        flags |= _HAS_INSTANCES
        middle += _number(instances)
    if _is_uid(uid):
        digits = uid.replace(".", "a")
        middle += bytes.fromhex(digits if len(digits) % 2 == 0 else digits + "f")
    else:
        flags |= _AS_TEXT
        middle += uid.encode("utf-8", "surrogatepass")
    head = _HEAD.pack(0, flags, version)
    # Two bytes that tell a flipped bit: the UID is known by its hash, a version that grew would never be passed again.
    return (crc32(middle, crc32(head)) & 0xFFFF).to_bytes(2, "big") + head[2:] + middle


def unpack(study_pk: int, data: bytes) -> Entry:
    """The entry that ``pack`` wrote; Unreadable when these bytes aren't one."""
    try:
        check, flags, version = _HEAD.unpack_from(data)
        if crc32(data[2:], crc32(b"\0\0")) & 0xFFFF != check:
            raise Unreadable
        at = _HEAD.size
        digest = rejected = series = instances = None
        if flags & _HAS_DIGEST:
            digest = data[at : at + _DIGEST_BYTES]
            at += _DIGEST_BYTES
        if flags & _HAS_REJECTED:
            rejected = data[at : at + _DIGEST_BYTES]
            at += _DIGEST_BYTES
        if flags & _HAS_SERIES:
            series, at = _read_number(data, at)
        if flags & _HAS_INSTANCES:
            instances, at = _read_number(data, at)
        return Entry(
            _uid(data[at:], flags),
            study_pk,
            version,
            digest,
            bool(flags & _DELETED),
            rejected,
            bool(flags & _UNVERIFIED),
            series,
            instances,
        )
    except (struct.error, IndexError, UnicodeDecodeError):
        raise Unreadable from None


def _uid(packed: bytes, flags: int) -> str:
    if flags & _AS_TEXT:
        return packed.decode("utf-8", "surrogatepass")
    return packed.hex().rstrip("f").replace("a", ".")


def _digest(digest: bytes) -> bytes:
    if len(digest) != _DIGEST_BYTES:
        raise ValueError(f"a digest has {_DIGEST_BYTES} bytes, not {len(digest)}")
    return digest


def _number(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the highest bit says that more follow."""
    if number < 0x80:
        return bytes((number,))
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _read_number(data: bytes, at: int) -> tuple[int, int]:
    """The number, and where it ends."""
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
