"""What the service's queries read of large tables: pages, never the whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import pytest

from cdc_indexer.source.outbox import Outbox
from cdc_indexer.source.source import Source
from tests import following
from tests.pacs import Pacs
from tests.pacs5 import Pacs5
from tests.servers import Server

PAGE = 200


@pytest.fixture
def outbox(pacs: Pacs) -> Iterator[Outbox]:
    with closing(Source(following.settings(pacs.server, pacs.name))) as source:
        yield Outbox(source)


def reads(outbox: Outbox, call: Any) -> tuple[int, Any]:
    """How many rows and index entries the server has read for a call."""
    outbox.now()  # connected
    # The session that was given back is the one that is lent next.
    before = _handler_reads(outbox)
    found = call()
    return _handler_reads(outbox) - before, found


def _handler_reads(outbox: Outbox) -> int:
    with outbox._session() as session:
        return sum(int(row[1]) for row in session.rows("SHOW SESSION STATUS LIKE 'Handler_read%'"))


def numbers(count: int) -> str:
    digits = "(SELECT 0 n UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5"
    digits += " UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)"
    tables = ", ".join(f"{digits} d{number}" for number in range(6))
    value = " + ".join(f"d{number}.n * {10**number}" for number in range(6))
    return f"(SELECT 1 + {value} AS n FROM {tables} HAVING n <= {count} ORDER BY n) numbers"


def test_a_page_of_a_patient_with_many_studies(pacs: Pacs, outbox: Outbox) -> None:
    """A tenth of the archive is one patient's, and stored last: by the primary key nine tenths would be read first."""
    pacs.execute("DROP TRIGGER indexer_study_insert")
    pacs.execute("SET SESSION foreign_key_checks = 0")
    # MySQL takes the primary key only where the table is large.
    count, others = (40_000, 36_000) if pacs.server.is_mariadb else (150_000, 135_000)
    pacs.execute(f"INSERT INTO patient (pk, pat_id) SELECT n, n FROM {numbers(500)}")
    pacs.execute(
        "INSERT INTO study (pk, patient_fk, study_iuid, num_series, num_instances, availability, study_status)"
        f" SELECT n, IF(n <= {others}, 2 + n MOD 499, 1), CONCAT('1.2.', n), 1, 1, 0, 0 FROM {numbers(count)}"
    )
    pacs.execute("ANALYZE TABLE study")
    for after in (0, others + 2000):
        read, page = reads(outbox, lambda after=after: outbox.studies_of_patient(1, after, PAGE))
        assert [row["study_pk"] for row in page] == list(
            range(max(after, others) + 1, max(after, others) + 1 + PAGE)
        )
        assert read <= 4 * PAGE


def test_many_rows_of_one_moment_are_read_once(pacs: Pacs, outbox: Outbox) -> None:
    moment, count = datetime(2026, 3, 1, 12, 0, 0, 1), 20_000
    for base, when, rows in (
        (1_000_000, moment, count),
        (1, moment - timedelta(seconds=1), 500),
        (2_000_000, moment + timedelta(seconds=1), 500),
    ):
        pacs.execute(
            f"INSERT INTO study_service (id, operation, study_pk, recorded_at) SELECT {base} + n, 'changed', n, %s"
            f" FROM {numbers(rows)}",
            (when,),
        )
    pacs.execute("ANALYZE TABLE study_service")

    def ids() -> list[int]:
        mark, found = (datetime(2026, 3, 1), 0), []
        while page := outbox.ids_after(mark, 1000):
            found += [row_id for _, row_id in page]
            mark = page[-1]
        return found

    def whole() -> list[int]:
        mark, found = (datetime(2026, 3, 1), 0), []
        while page := outbox.rows_after(mark, 1000):
            found += [row.id for row in page]
            mark = (page[-1].recorded_at, page[-1].id)
        return found

    expected = [
        base + n
        for base, many in ((1, 500), (1_000_000, count), (2_000_000, 500))
        for n in range(1, many + 1)
    ]
    for call in (ids, whole):
        read, found = reads(outbox, call)
        assert found == expected
        assert read <= 2 * len(expected)


@pytest.mark.parametrize("not_after", [None, datetime(2026, 3, 1, 0, 0, 2)])
def test_a_page_may_end_within_a_moment(pacs: Pacs, outbox: Outbox, not_after: datetime | None) -> None:
    for row_id, second in ((5, 1), (9, 1), (2, 2), (3, 2), (7, 3)):
        pacs.execute(
            "INSERT INTO study_service (id, operation, study_pk, recorded_at) VALUES (%s, 'x', 1, %s)",
            (row_id, datetime(2026, 3, 1, 0, 0, second)),
        )
    mark, found = (datetime(2026, 3, 1, 0, 0, 1), 5), []
    while page := outbox.ids_after(mark, 2, [(3, 3)], not_after):
        found += [row_id for _, row_id in page]
        mark = page[-1]
    assert found == ([9, 2, 7] if not_after is None else [9, 2])


def test_what_is_asked_by_key_reads_no_more(pacs: Pacs, outbox: Outbox) -> None:
    """Of 20,000 studies with two rows each, in an outbox of 40,000."""
    count, wanted = 20_000, [17, 5_000, 19_999, 20_001]
    for trigger in ("indexer_study_insert", "indexer_study_update"):
        pacs.execute(f"DROP TRIGGER {trigger}")
    pacs.execute("SET SESSION foreign_key_checks = 0")
    pacs.execute(f"INSERT INTO patient (pk, pat_id) SELECT n, n FROM {numbers(500)}")
    pacs.execute(
        "INSERT INTO study (pk, patient_fk, study_iuid, num_series, num_instances, availability, study_status)"
        f" SELECT n, 1 + n MOD 500, CONCAT('1.2.', n), 1, 1, 0, 0 FROM {numbers(count)}"
    )
    for base, operation in ((0, "stored"), (count, "deleted")):
        pacs.execute(
            "INSERT INTO study_service (id, operation, study_pk, study_iuid, recorded_at)"
            f" SELECT {base} + n, '{operation}', n, CONCAT('1.2.', n), '2026-03-01' + INTERVAL n SECOND"
            f" FROM {numbers(count)}"
        )
    pacs.execute("ANALYZE TABLE study_service, study, patient")
    since = datetime(2026, 3, 1)
    for call, expected in (
        (lambda: outbox.deleted(wanted), {f"1.2.{pk}" for pk in wanted[:3]}),
        (lambda: outbox.recorded(wanted), set(wanted[:3])),
        (lambda: set(outbox.newest_of(wanted)), set(wanted[:3])),
        (lambda: set(outbox.newest_rows(wanted, since)), set(wanted[:3])),
        (lambda: outbox.unseen(wanted), set()),
        (lambda: {row["study_pk"] for row in outbox.view_of(["1.2.17", "1.2.20001"])}, {17}),
        (lambda: {row["study_pk"] for row in outbox.view_after(19_990, 3)}, {19_991, 19_992, 19_993}),
        (lambda: len(outbox.page_of_pks(wanted).studies), 3),
        (lambda: len(outbox.rows_between(10, 20, 5)), 5),
        (outbox.last_study_pk, count),
        (lambda: len(outbox.newest_studies(3)), 3),
        (lambda: outbox.newest(datetime(2026, 4, 1)), since + timedelta(seconds=count)),
    ):
        read, found = reads(outbox, call)
        assert found == expected
        assert read <= 250, expected


def test_a_page_of_arc5(server: Server) -> None:
    pacs = Pacs5.create(server)
    try:
        with closing(Source(following.settings(server, pacs.name))) as source:
            outbox = Outbox(source)
            pks = [pacs.store_study(patient_id="1-9") for _ in range(5)]
            ((patient_pk,),) = pacs.execute("SELECT DISTINCT patient_fk FROM study")
            page = outbox.studies_of_patient(patient_pk, pks[1], 2)
            assert [row["study_pk"] for row in page] == pks[2:4]
    finally:
        pacs.destroy()
