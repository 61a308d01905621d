"""What Prometheus is told: requests of this process, and each centre as it stands. Never anything of a patient."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from central_index.overview import SILENT_SECONDS, Center

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_STATES = ("ok", "warning", "failed", "silent", "differing", "unknown")


class Metrics:
    """Of one process. The centres are asked for when somebody scrapes."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "central_index_requests",
            "Requests answered.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "central_index_request_seconds", "From a request's head to its answer's.", ["method", "route"],
            registry=self._registry,
        )  # fmt: skip
        # To find them takes longer than to count.
        self._labelled = lru_cache(maxsize=1_000)(self._label)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        requests, seconds_of = self._labelled(method, route, status)
        requests.inc()
        seconds_of.observe(seconds)

    def _label(self, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
        return self._requests.labels(method, route, status), self._seconds.labels(method, route)

    def text(self, centers: Iterable[Center], keys_usable: bool) -> bytes:
        registry = CollectorRegistry()
        registry.register(_Centers(list(centers), keys_usable))
        return generate_latest(self._registry) + generate_latest(registry)


class _Centers:
    def __init__(self, centers: list[Center], keys_usable: bool) -> None:
        self._centers = centers
        self._keys_usable = keys_usable

    def collect(self) -> Iterator[Metric]:
        usable = GaugeMetricFamily(
            "central_index_keys_usable", "1: the file of keys could be read when it last changed."
        )
        usable.add_metric([], float(self._keys_usable))
        yield usable
        state = GaugeMetricFamily(
            "central_index_center_state",
            f"1 for the state that the centre is in; silent: no report for {SILENT_SECONDS:g} s.",
            labels=["center", "state"],
        )
        for one in self._centers:
            for name in _STATES:
                state.add_metric([one.center, name], float(one.state == name))
        yield state
        gauges: list[tuple[str, str, Callable[[Center], float | None]]] = [
            ("studies", "Studies of this centre in the index.", lambda one: one.studies),
            ("studies_today", "Studies that came first today.", lambda one: one.today),
            (
                "studies_week_before",
                "Studies that came first by the same time of the same weekday before.",
                lambda one: one.week_before,
            ),
            (
                "last_report_timestamp_seconds",
                "When it was last heard, by the index's clock.",
                lambda one: _unix(one.reported_at),
            ),
            (
                "last_pass_timestamp_seconds",
                "When its last comparison was, by its own clock.",
                lambda one: _unix((one.last_pass or {}).get("at")),
            ),
            (
                "behind_seconds",
                "How far its newest report says that it is behind.",
                lambda one: one.behind_seconds,
            ),
            ("waiting", "Studies that wait at the centre.", lambda one: one.waiting),
            ("parked", "Studies that are parked at the centre.", lambda one: one.parked),
        ]
        for name, text, value in gauges:
            yield self._family(name, text, {one.center: value(one) for one in self._centers})
        for kind in ("missing", "stale", "extra"):
            yield self._family(
                f"pass_{kind}",
                f"Studies found {kind} by its last comparison.",
                {one.center: (one.last_pass or {}).get(kind) for one in self._centers},
            )
        info = InfoMetricFamily(
            "central_index_center",
            "The version of its program, as its newest report says.",
            labels=["center"],
        )
        for one in self._centers:
            if one.program is not None:
                info.add_metric([one.center], {"version": one.program})
        yield info

    @staticmethod
    def _family(name: str, text: str, values: dict[str, float | None]) -> Metric:
        family = GaugeMetricFamily(f"central_index_center_{name}", text, labels=["center"])
        for center, value in values.items():
            if value is not None:
                family.add_metric([center], float(value))
        return family


def _unix(moment: str | None) -> float | None:
    """None, too, where a centre wrote something else."""
    try:
        # Python 3.10 doesn't know the Z.
        read = datetime.fromisoformat(moment.replace("Z", "+00:00")) if moment is not None else None
        return read.timestamp() if read is not None and read.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


class Measured:
    """Counts each request by its route, never by its address: that may hold a UID."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def send_and_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", None) or _mount(scope)
                self._metrics.answered(scope["method"], route, message["status"], time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, send_and_count)


def _mount(scope: Scope) -> str:
    return "/static" if scope["path"].startswith("/static/") else "other"
