"""Studies that nobody recorded just now: `initial`, sweep, `resend`, parked studies, changed patients (passive).

All of them go behind what is live.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from cdc_indexer.flow.backfill import Backfill
from cdc_indexer.flow.case import Case, Hints, Insist
from cdc_indexer.flow.looks import Looks
from cdc_indexer.flow.parts import Parts
from cdc_indexer.flow.patients import PatientPage
from cdc_indexer.flow.readings import Reading, Values
from cdc_indexer.model.ledger import Entry
from cdc_indexer.model.moment import Now
from cdc_indexer.model.study import names, study_document, study_key

__all__ = ["Backfills"]

#: A page that can't be read, or doesn't show its rows yet, is read again after this.
_AGAIN_SECONDS = 0.05


class Backfills:
    """See the module."""

    def __init__(self, parts: Parts, looks: Looks) -> None:
        self._parts = parts
        self._looks = looks

    def room(self) -> bool:
        """Whether more may be brought; else the caller waits until something ended."""
        return not (self._parts.cases.full or self._parts.order.full(behind=True))

    # --- hints -------------------------------------------------------------------------------------------

    def hint(
        self,
        study_iuid: str,
        study_pk: int,
        now: Now,
        *,
        backfill: Backfill | None = None,
        gone: bool = False,
        insist: Insist = Insist.NO,
        seed: str = "",
    ) -> None:
        """This study is to be looked at: it is read from the view in its turn, and compared with the ledger.

        ``gone``: the archive was seen not to hold it. ``insist``, ``seed``: see Hints.
        """
        tickets = (backfill.begin(study_pk),) if backfill is not None else ()
        hints = Hints(tickets=tickets, gone=gone, insist=insist, seed=seed, look=True)
        # A row of it may be on its way, by which it would be known again: a moment.
        self._hint(study_iuid, study_pk, hints, now, soon=False)

    def _hint(self, study_iuid: str, study_pk: int, hints: Hints, now: Now, *, soon: bool = True) -> Case:
        case = self._looks.case_of(study_key(study_iuid, study_pk), study_pk, study_iuid)
        self._parts.cases.hint(case, hints, now, soon=soon)
        return case

    # --- pages -------------------------------------------------------------------------------------------

    def offer(
        self,
        backfill: Backfill,
        studies: Iterable[Values],
        rows: Mapping[int, Sequence[tuple[int, datetime]]],
        version: int,
        epoch: int,
        now: Now,
        *,
        insist: Insist = Insist.NO,
    ) -> Reading | None:
        """A page of a backfill, read after ``version`` was drawn, with the outbox rows that the same snapshot held.

        Gives the lease of its studies, to be ended by ``Looks.end`` with what the ledger says of them; None when the page
        has to be read again. A study that is under way is only hinted at, and read again in its turn.
        """
        parts = self._parts
        if epoch != parts.epoch:
            return None
        values: dict[int, Values] = {}
        reading = Reading(version, epoch, parts.results.ledger_epoch, values)
        for study in studies:
            uid, study_pk = names(study)
            if not backfill.wants(study_pk):
                continue
            # What `until` has passed is settled, though its ids are forgotten.
            until = parts.progress.until
            claimed = [
                row for row in rows.get(study_pk, ()) if row[1] > until and parts.progress.claim(row[0])
            ]
            hints = Hints(rows=claimed, tickets=(backfill.begin(study_pk),), insist=insist, seed=backfill.run)
            key = study_key(uid, study_pk)
            # What was decided since the page was read knows better.
            free = parts.cases.get(key) is None and not parts.results.put_since(key, version)
            # With `send: stable` what waits is read in its turn: whether it is quiet, the table has to say.
            if not free or (parts.policy.stable and claimed):
                self._hint(uid, study_pk, hints, now)
                continue
            case = self._looks.case_of(key, study_pk, uid)
            parts.cases.take(case, reading, hints, now)
            values[study_pk] = study
            reading.add(case, hints)
        return reading

    def adopt(
        self, study: Values, rows: Iterable[tuple[int, datetime]], version: int, backfill: Backfill
    ) -> bool:
        """The index has this study from somebody else: the ledger says so from now on, and nothing is sent.

        False when something of the study is under way, or a row of it waits to be sent (`initial --already-sent`).
        """
        parts = self._parts
        uid, study_pk = names(study)
        key = study_key(uid, study_pk)
        progress = parts.progress
        waits = any(at > progress.until and not progress.is_settled(row_id) for row_id, at in rows)
        backfill.passed(study_pk)
        if waits or parts.cases.get(key) is not None or parts.results.put_since(key, version):
            backfill.skipped += 1
            return False
        document = study_document(study, parts.policy.center, parts.policy.fields)
        series, instances = study.get("study_series"), study.get("study_instances")
        parts.results.put(
            key,
            Entry(
                key,
                study_pk,
                version,
                document.digest,
                series=series if isinstance(series, int) else None,
                instances=instances if isinstance(instances, int) else None,
            ),
        )
        backfill.sent += 1
        return True

    def correct(self, key: str, study_pk: int, digest: bytes | None, entry: Entry | None) -> bool:
        """The index was seen to hold that of a study, None: nothing. ``entry`` is what the ledger says.

        False, and nothing is done, while something of the study is under way.
        """
        parts = self._parts
        if parts.cases.get(key) is not None or parts.results.entry(key) is not None:
            return False
        before = entry or Entry(key, study_pk)
        parts.results.put(
            key, before._replace(study_pk=study_pk, digest=digest, deleted=False, rejected=None)
        )
        return True

    def begin_ledger(self, now: Now) -> None:
        """`initial --restart`: nothing that the index was told before counts any more."""
        cases = self._parts.cases
        self._parts.results.begin_ledger(now.clock)
        for case in list(cases):
            if case.entry is not None and case.entry.unverified:
                # The view may not show it before the backfill has passed its place.
                cases.hint(case, Hints(look=True), now)
            case.entry, case.known = None, True

    # --- changed patients --------------------------------------------------------------------------------

    def begin_page(self, now: Now) -> PatientPage | None:
        """The page of a changed patient's studies to be read next; None when none is, or there is no room."""
        parts = self._parts
        if not parts.patients.waits(now.seconds) or not self.room():
            return None
        return parts.patients.take_page(parts.epoch)

    def give_back_page(self, page: PatientPage, now: Now) -> None:
        """It couldn't be read, or its rows aren't visible yet. Does nothing once it has ended."""
        self._parts.patients.give_back(page, now.seconds + _AGAIN_SECONDS)

    def end_page(
        self, page: PatientPage, studies: Sequence[Values], now: Now, *, limit: int, epoch: int
    ) -> None:
        """These are its studies, by study_pk; fewer than ``limit``: they are the last."""
        parts = self._parts
        if epoch != parts.epoch or page.epoch != parts.epoch:
            self.give_back_page(page, now)
            return
        found = [names(study) for study in studies]
        last_pk = found[-1][1] if len(found) >= limit else None
        done = parts.patients.page_read(page, [study_key(uid, pk) for uid, pk in found], last_pk)
        for uid, study_pk in found:
            self._hint(uid, study_pk, Hints(changes=tuple(page.changes)), now)
        parts.settlement.end_changes(done)
