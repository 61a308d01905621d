"""What the index accepted and hasn't been seen to hold since: by it an index that went back by seconds is noticed (passive).

A report's answer shows only whether an index knows the last report and the highest version: one that lost what came between
two reports, and then gets a live study, looks as it should.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["MANY", "Accepted", "Unproven", "shows_loss"]

#: So many studies are looked at together; when they are there, it is time to look.
MANY = 1000

#: Beyond this every other one is left out: what is lost is a span of time, so that a part of it tells.
_MOST = 2 * MANY


@dataclass(slots=True)
class Accepted:
    """A study: its primary key, what the index held of it before (digests, None: nothing), and what it holds now."""

    study_pk: int
    before: tuple[bytes | None, ...]
    now: bytes | None


class Unproven:
    """Told of each acceptance; whoever asks the index takes them away, and gives them back if there was no answer.

    ``changed``: since it was last cleared.
    """

    def __init__(self) -> None:
        self._studies: dict[str, Accepted] = {}
        #: Of so many that come one is taken.
        self._one_of = 1
        self._left_out = 0
        self.changed = False

    def accepted(self, key: str, study_pk: int, before: bytes | None, now: bytes | None) -> None:
        """The index has accepted this of a study, a document or None: a deletion."""
        known = self._studies.pop(key, None)
        if known is None and self._left_out + 1 < self._one_of:
            self._left_out += 1
            return
        self._left_out = 0
        held = (before,) if known is None else (*known.before[-3:], known.now)
        self._studies[key] = Accepted(study_pk, held, now)
        self.changed = True
        if len(self._studies) > _MOST:
            self._studies = dict(list(self._studies.items())[::2])
            self._one_of *= 2

    @property
    def many(self) -> bool:
        """Whether it is time to look, however short ago the last look was."""
        return len(self._studies) >= MANY

    def __contains__(self, key: str) -> bool:
        return key in self._studies

    @property
    def study_pks(self) -> list[int]:
        """Of all of them: by these they are found in the ledger after a restart."""
        return [one.study_pk for one in self._studies.values()]

    def take(self) -> dict[str, Accepted]:
        """Gives them away."""
        taken, self._studies = self._studies, {}
        self._one_of, self._left_out = 1, 0
        self.changed = self.changed or bool(taken)
        return taken

    def give_back(self, taken: Iterable[tuple[str, Accepted]]) -> None:
        """The index wasn't seen to hold them."""
        for key, one in taken:
            newer = self._studies.get(key)
            if newer is None:
                self._studies[key] = one
            else:
                newer.before = (*one.before, *newer.before)[-4:]
        self.changed = True


def shows_loss(one: Accepted, held: bytes | None) -> bool:
    """Whether what the index holds says that it lost what it had accepted.

    Something else altogether doesn't: an index may keep a study otherwise than it was sent.
    """
    return held != one.now and (held is None or held in one.before)
