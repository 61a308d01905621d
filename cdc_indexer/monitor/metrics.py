"""Numbers for Prometheus: counted by plain integers as things happen, made into its format when they are asked for.

Told by the rest and never asked; nothing else imports this. A study costs a few microseconds here: prometheus_client's own
objects would cost ten times that, and importing it 12 MB, so it is imported at the first scrape.
"""

from __future__ import annotations

import platform
import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cdc_indexer import __version__
from cdc_indexer.model.outcome import Kind, Outcome
from cdc_indexer.monitor.causes import Cause
from cdc_indexer.monitor.health import Health
from cdc_indexer.monitor.report import PASS_COUNTS, moment

if TYPE_CHECKING:
    from cdc_indexer.flow.observer import Sample
    from cdc_indexer.flow.order import Delivery

__all__ = ["Metrics"]

PREFIX = "cdc_indexer_"

#: Seconds from commit to acceptance: milliseconds are the promise, hours an index that was away.
DELAY_BUCKETS = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    300,
    1800,
    3600,
    21600,
    86400,
)
REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

_EPOCH = datetime(1970, 1, 1)

#: What became of a request, by the name that the metric gives it.
_OUTCOMES = {
    Kind.ACCEPTED: "accepted",
    Kind.ALREADY_THERE: "already_there",
    Kind.ABSENT: "absent",
    Kind.STALE: "stale",
    Kind.REJECTED: "rejected",
    Kind.HELD: "held",
    Kind.RETRY_INDEX: "index_away",
    Kind.RETRY_STUDY: "study_failed",
}


class _Histogram:
    """Counts by bucket; the caller holds the lock."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulated(self) -> list[tuple[str, float]]:
        """As Prometheus wants them: (bound, how many are at or below it)."""
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else repr(float(bound)), total))
        return buckets


class Metrics:
    """What was counted since the start. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._delays = {True: _Histogram(DELAY_BUCKETS), False: _Histogram(DELAY_BUCKETS)}
        self._requests = _Histogram(REQUEST_BUCKETS)
        self._outcomes = dict.fromkeys(_OUTCOMES, 0)
        self._clock_difference_seconds = 0.0
        self.accepted = 0
        self.already_there = 0
        self.parked = 0
        self.last_delivery_at: float | None = None
        self._audits = 0
        self._audit_rows = 0
        self._connections = 0
        #: What the last comparison of archive and index came to, and how often there is one (0: only when asked).
        self._last_pass: Mapping[str, Any] | None = None
        self.every_hours = 0.0
        self._registry: Any = None

    # --- counting ----------------------------------------------------------------------------------------

    def delivered(self, delivery: Delivery, outcome: Outcome) -> None:
        """A delivery was accepted. Its delay counts unless `initial` or `parked retry` sent it."""
        now = time.time()
        ours = now + self._clock_difference_seconds
        with self._lock:
            if outcome.kind is Kind.ALREADY_THERE:
                self.already_there += 1
            else:
                self.accepted += 1
            self.last_delivery_at = now
            if not delivery.behind:
                add = self._delays[delivery.first_version].add
                for _, recorded_at in delivery.rows:
                    add(max(0.0, ours - (recorded_at - _EPOCH).total_seconds()))

    def count_parked(self) -> None:
        """A delivery was parked."""
        with self._lock:
            self.parked += 1

    def answered(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        """One request, and what came of it for each study."""
        with self._lock:
            self._requests.add(seconds)
            for outcome in outcomes:
                self._outcomes[outcome.kind] += 1

    @property
    def retried(self) -> int:
        """How often a study was sent and neither accepted nor rejected."""
        return sum(self._outcomes[kind] for kind in (Kind.HELD, Kind.RETRY_INDEX, Kind.RETRY_STUDY))

    def audited(self, found: int) -> None:
        """An audit, and the rows that it found."""
        with self._lock:
            self._audits += 1
            self._audit_rows += found

    def compared(self, last_pass: Mapping[str, Any]) -> None:
        """A comparison of archive and index has ended."""
        self._last_pass = last_pass

    def connected(self) -> None:
        """A connection to the binary log began."""
        self._connections += 1

    def clock(self, difference_seconds: float) -> None:
        """The database's clock minus ours: delays are measured by the former."""
        self._clock_difference_seconds = difference_seconds

    # --- telling -----------------------------------------------------------------------------------------

    def expose(self, sample: Sample | None, health: Health, accept: str) -> tuple[bytes, str]:
        """What Prometheus scrapes, and its content type."""
        from prometheus_client.core import CollectorRegistry  # noqa: PLC0415
        from prometheus_client.exposition import choose_encoder  # noqa: PLC0415
        from prometheus_client.process_collector import ProcessCollector  # noqa: PLC0415

        if self._registry is None:
            self._registry = CollectorRegistry()
            ProcessCollector(registry=self._registry)
        encoder, content_type = choose_encoder(accept)
        return encoder(_Both(self._registry, self._families(sample, health))), content_type

    def _families(self, sample: Sample | None, health: Health) -> Iterator[Any]:
        from prometheus_client.core import (  # noqa: PLC0415
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        def counter(name: str, text: str, value: float) -> Any:
            return CounterMetricFamily(PREFIX + name, text, value=value)

        def gauge(name: str, text: str, value: float) -> Any:
            return GaugeMetricFamily(PREFIX + name, text, value=value)

        build = GaugeMetricFamily(
            PREFIX + "build_info", "Always 1; which version runs.", labels=["version", "python"]
        )
        build.add_metric([__version__, platform.python_version()], 1)
        yield build

        with self._lock:
            studies = (
                ("accepted", self.accepted),
                ("already_there", self.already_there),
                ("parked", self.parked),
            )
            outcomes = [(name, self._outcomes[kind]) for kind, name in _OUTCOMES.items()]
            delays = [
                ("first" if first else "later", delay.cumulated(), delay.sum)
                for first, delay in self._delays.items()
            ]
            requests = (self._requests.cumulated(), self._requests.sum)

        for metric, description, counts in (
            ("studies", "Versions of studies that are done with, by what became of them.", studies),
            ("attempts", "Times that a study was sent, by the answer of the central index.", outcomes),
        ):
            family = CounterMetricFamily(PREFIX + metric, description, labels=["outcome"])
            for name, count in counts:
                family.add_metric([name], count)
            yield family
        histogram = HistogramMetricFamily(
            PREFIX + "delay_seconds",
            "From the commit of a row to its acceptance by the central index; later versions wait until the study is quiet.",
            labels=["version"],
        )
        for name, buckets, total in delays:
            histogram.add_metric([name], buckets, total)
        yield histogram
        yield HistogramMetricFamily(
            PREFIX + "request_duration_seconds",
            "One request to the central index.",
            buckets=requests[0],
            sum_value=requests[1],
        )
        yield counter("audits", "Times that the table was compared with what was sent.", self._audits)
        yield counter("audit_rows", "Rows that the binary log had not brought.", self._audit_rows)
        yield counter("connections", "Connections to the binary log.", self._connections)
        yield gauge(
            "last_delivery_timestamp_seconds",
            "When the central index last accepted a study; 0: not since the start.",
            self.last_delivery_at or 0,
        )
        yield gauge(
            "reconcile_every_hours",
            "How often archive and index are to be compared; 0: only when asked.",
            self.every_hours,
        )
        if self._last_pass is not None:
            yield from _compared(self._last_pass, gauge)
        yield from self._states(health)
        if sample is not None:
            yield from _sampled(sample, counter, gauge)

    def _states(self, health: Health) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415

        yield GaugeMetricFamily(PREFIX + "healthy", "1 unless `status` says otherwise.", value=health.healthy)
        yield GaugeMetricFamily(PREFIX + "alive", "1 while the loop moves.", value=health.alive)
        yield GaugeMetricFamily(
            PREFIX + "database_up",
            "1 while the binary log or, without one, the table is read.",
            value=health.connected,
        )
        yield GaugeMetricFamily(
            PREFIX + "caught_up", "1 once the end of the binary log was reached.", value=health.caught_up
        )
        problems = {problem.cause for problem in health.problems()}
        family = GaugeMetricFamily(
            PREFIX + "problem",
            "1 for each thing that is wrong now; docs/operations.md explains them.",
            labels=["cause"],
        )
        for cause in Cause:
            if not cause.is_offline:
                family.add_metric([cause.value], cause in problems)
        yield family
        family = GaugeMetricFamily(
            PREFIX + "held", "1 while the central index refuses everything, by why.", labels=["reason"]
        )
        for cause in Cause:
            if cause.is_held:
                family.add_metric([cause.value], cause in problems)
        yield family


def _compared(last: Mapping[str, Any], gauge: Any) -> Iterator[Any]:
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415

    at = moment(last.get("at"))
    yield gauge(
        "last_pass_timestamp_seconds",
        "When the last comparison of archive and index ended.",
        at.timestamp() if at is not None else 0,
    )
    yield gauge("last_pass_duration_seconds", "How long it took.", last.get("seconds") or 0)
    yield gauge(
        "last_pass_of_index",
        "1 if the index itself was compared; 0: only what it was told, since it answers no digests.",
        bool(last.get("index")),
    )
    family = GaugeMetricFamily(
        PREFIX + "last_pass_studies", "What the last comparison came to.", labels=["what"]
    )
    for what in PASS_COUNTS:
        family.add_metric([what], last.get(what) or 0)
    yield family


def _sampled(sample: Sample, counter: Any, gauge: Any) -> Iterator[Any]:
    yield counter("rows_read", "Rows of the outbox that the binary log brought.", sample.rows_read)
    yield counter("binlog_read_bytes", "Binary log read, of all tables.", sample.bytes_read)
    yield gauge("lag_seconds", "Since when the oldest row waits that is not settled.", sample.lag_seconds)
    if sample.lag_bytes is not None:
        yield gauge("lag_bytes", "Binary log after the position of the checkpoint.", sample.lag_bytes)
    yield gauge("queued_studies", "Studies that are queued or in flight.", sample.queued)
    yield gauge(
        "waiting_studies", "Studies that wait until they are quiet, or are being sent.", sample.waiting
    )
    yield gauge("parked_studies", "Studies that were rejected and wait for somebody.", sample.parked)
    if sample.checkpoint_at is not None:
        yield gauge(
            "checkpoint_age_seconds",
            "Since the checkpoint was last written; it is when something has changed.",
            max(0.0, time.time() - sample.checkpoint_at),
        )
    yield gauge("loop_idle_seconds", "Since when the loop has not moved.", sample.idle_seconds)
    yield gauge(
        "database_clock_difference_seconds",
        "The database's clock minus this machine's.",
        sample.clock_difference_seconds,
    )


class _Both:
    """What the encoder of prometheus_client takes for a registry: ours, then those of the process."""

    def __init__(self, process: Any, families: Iterable[Any]) -> None:
        self._process = process
        self._families = families

    def collect(self) -> Iterator[Any]:
        yield from self._families
        yield from self._process.collect()
