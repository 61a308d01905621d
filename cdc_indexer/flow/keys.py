"""The Idempotency-Keys: what is sent once more carries the key that it had, whatever was restarted in between (pure)."""

from __future__ import annotations

from hashlib import sha1
from uuid import UUID

#: Namespace of the Idempotency-Keys; changing it would make every repeated POST look new.
_NAMESPACE = UUID("5d0c3f5e-9d5b-5f0e-8f0c-2f6a3e7c1b54")
#: RFC 9562: the two high bits of the 17th digit are 10.
_VARIANT = {digit: f"{int(digit, 16) & 3 | 8:x}" for digit in "0123456789abcdef"}


def idempotency_key(center: str, seed: object, read: bytes | None = None) -> str:
    """The same for the same center, outbox row and document, whatever restarts or fails over.

    ``read`` is the document: after a kill the view may hold a newer one, and an index that drops a key it knows would
    never get it.
    """
    name = f"{center}:{seed}".encode()
    content = name if read is None else b"%b:%b" % (name, read)
    # uuid.uuid5 in a seventh of its time.
    digest = sha1(_NAMESPACE.bytes + content, usedforsecurity=False).hexdigest()
    variant = _VARIANT[digest[16]]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"
