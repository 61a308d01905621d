"""The numbers for Prometheus: by its conventions, right, and at little cost for a study."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cdc_indexer.flow.case import Case, Hints
from cdc_indexer.flow.observer import Source
from cdc_indexer.flow.order import Delivery
from cdc_indexer.flow.verdict import Gate
from cdc_indexer.model.ledger import Entry
from cdc_indexer.model.outcome import Kind, Outcome, Refusal
from cdc_indexer.monitor.causes import Cause
from cdc_indexer.monitor.report import PASS_COUNTS
from cdc_indexer.monitor.watch import Watch
from tests.monitor.conftest import Site, make_settings, sample

ROOT = Path(__file__).resolve().parent.parent.parent
DASHBOARD = json.loads((ROOT / "extras/grafana-dashboard.json").read_text())
ALERTS = (ROOT / "extras/prometheus-alerts.yml").read_text()

PASSED = {
    "at": "2026-11-28T00:50:00Z",
    "compared": 1000,
    "equal": 996,
    "missing": 3,
    "stale": 1,
    "extra": 2,
    "kept": 4,
    "healed": 6,
    "held": "",
    "index": True,
    "seconds": 52.4,
}

ACCEPTED = Outcome(Kind.ACCEPTED, 201)

Numbers = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def delivery(*ages: float, first: bool = True, behind: bool = False) -> Delivery:
    """Of rows that were recorded so many seconds ago."""
    now = datetime.now(timezone.utc).replace(tzinfo=None)
    rows = tuple((number, now - timedelta(seconds=age)) for number, age in enumerate(ages))
    return Delivery(
        case=Case("1.2.3", 7, "1.2.3"),
        hints=Hints(rows=rows),
        idempotency_key="k",
        body=b"{}",
        version=1,
        entry=Entry("1.2.3", 7, 1),
        before=None,
        digest=b"",
        first_version=first,
        behind=behind,
    )


def numbers(text: str) -> Numbers:
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def scrape(watch: Watch) -> Numbers:
    return numbers(watch.expose("")[0].decode())


def value(found: Numbers, name: str, **labels: str) -> float:
    return found[f"cdc_indexer_{name}", tuple(sorted(labels.items()))]


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    one = Watch()
    one.started(make_settings(tmp_path, monitor={"listen": None}))
    return one


def test_what_prometheus_gets_from_the_page(site: Site) -> None:
    site.watch.sampled(sample())
    answer = site.get("/metrics", Accept="text/plain; version=0.0.4")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    ours = [name for name in families if not name.startswith("process_")]
    assert len(ours) > 20
    assert {"process_cpu_seconds", "process_resident_memory_bytes"} <= families.keys()
    for name in ours:
        assert re.fullmatch(r"cdc_indexer_[a-z_]+", name), name
        assert families[name].documentation.endswith("."), name
    openmetrics = site.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert openmetrics.headers["Content-Type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")


def test_outcomes_are_counted(watch: Watch) -> None:
    watch.answered([ACCEPTED, Outcome(Kind.REJECTED, 422)], 0.02)
    watch.answered([Outcome(Kind.RETRY_INDEX)], 10.0)
    watch.answered([Outcome(Kind.HELD, 401)], 0.01)
    watch.delivered(delivery(0.02), ACCEPTED)
    watch.delivered(delivery(0.02), Outcome(Kind.ALREADY_THERE, 409))
    watch.parked(delivery(), Outcome(Kind.REJECTED, 422, reason="rejected"))
    found = scrape(watch)
    for outcome in ("accepted", "already_there", "parked"):
        assert value(found, "studies_total", outcome=outcome) == 1
    for outcome in ("accepted", "rejected", "index_away", "held"):
        assert value(found, "attempts_total", outcome=outcome) == 1
    assert value(found, "request_duration_seconds_count") == 3
    assert value(found, "request_duration_seconds_bucket", le="0.025") == 2
    report = watch.report()
    assert (report.delivered, report.retried) == (2, 2)
    assert time.time() - value(found, "last_delivery_timestamp_seconds") < 10


def test_the_delay_is_that_of_rows_by_the_databases_clock(watch: Watch) -> None:
    watch.delivered(delivery(0.02), ACCEPTED)
    watch.delivered(delivery(3.0, 40.0, first=False), ACCEPTED)
    watch.delivered(delivery(1000.0, behind=True), ACCEPTED)  # an `initial`
    found = scrape(watch)
    assert value(found, "delay_seconds_count", version="first") == 1
    assert value(found, "delay_seconds_bucket", version="first", le="0.25") == 1
    assert value(found, "delay_seconds_count", version="later") == 2
    assert value(found, "delay_seconds_bucket", version="later", le="5.0") == 1
    assert 43 < value(found, "delay_seconds_sum", version="later") < 45
    # The database's clock is an hour behind: a row recorded just now seems to be an hour old.
    watch.sampled(sample(clock_difference_seconds=-3600.0))
    watch.delivered(delivery(3600.0), ACCEPTED)
    watch.delivered(delivery(0.0), ACCEPTED)  # whatever it is, no delay is negative
    found = scrape(watch)
    assert value(found, "delay_seconds_bucket", version="first", le="0.25") == 3
    assert value(found, "database_clock_difference_seconds") == -3600


def test_states_are_zero_or_one_without_free_text(watch: Watch) -> None:
    watch.source(Source.UP, "")
    watch.sampled(
        sample(parked=4, lag_seconds=12.5, lag_bytes=99, queued=3, waiting=2, checkpoint_at=time.time() - 5)
    )
    watch.gate(Gate.HELD, "It redirects to https://elsewhere.example/", Refusal.REDIRECT)
    found = scrape(watch)
    assert value(found, "held", reason="redirect") == 1
    assert value(found, "held", reason="key_refused") == 0
    assert value(found, "problem", cause="redirect") == 1
    assert value(found, "problem", cause="parked") == 1
    assert value(found, "healthy") == 0
    assert value(found, "alive") == value(found, "database_up") == 1
    assert (value(found, "lag_seconds"), value(found, "lag_bytes"), value(found, "parked_studies")) == (
        12.5,
        99,
        4,
    )
    assert (value(found, "queued_studies"), value(found, "waiting_studies")) == (3, 2)
    assert 5 <= value(found, "checkpoint_age_seconds") < 15
    labels = {label for _, pairs in found for label in dict(pairs).values()}
    assert not any("elsewhere" in label or " " in label for label in labels)
    watch.gate(Gate.OPEN, "")
    assert value(scrape(watch), "healthy") == 1


def test_what_the_last_comparison_came_to(watch: Watch) -> None:
    found = scrape(watch)
    assert value(found, "reconcile_every_hours") == 24
    # Without one there is nothing to be late for.
    assert not [name for name, _ in found if name.startswith("cdc_indexer_last_pass")]
    watch.compared(PASSED)
    found = scrape(watch)
    assert value(found, "last_pass_timestamp_seconds") == 1_795_827_000
    assert value(found, "last_pass_duration_seconds") == 52.4
    assert value(found, "last_pass_of_index") == 1
    counts = [value(found, "last_pass_studies", what=what) for what in PASS_COUNTS]
    assert counts == [1000, 996, 3, 1, 2, 4, 6]
    assert watch.report().last_pass == PASSED


def test_the_build_is_told(watch: Watch) -> None:
    names = [dict(pairs) for name, pairs in scrape(watch) if name == "cdc_indexer_build_info"]
    assert names[0].keys() == {"version", "python"}


def test_a_study_costs_little(watch: Watch) -> None:
    """Of the 500 microseconds that a study may cost in all, a few."""
    count = 5_000
    deliveries = [delivery(0.01) for _ in range(count)]
    outcomes = [ACCEPTED]
    began = time.thread_time()
    for one in deliveries:
        watch.answered(outcomes, 0.003)
        watch.delivered(one, ACCEPTED)
    microseconds = (time.thread_time() - began) / count * 1e6
    assert microseconds < 50, f"{microseconds:.1f} us"


# --- what is made of them --------------------------------------------------------------------------------


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:cdc_indexer|process)_[a-z_]+", expression))


def expressions(node: Any) -> list[str]:
    """Everything in a dashboard that is asked of Prometheus."""
    found = []
    if isinstance(node, Mapping):
        found += [node[name] for name in ("expr", "query", "definition") if isinstance(node.get(name), str)]
        for inner in node.values():
            found += expressions(inner)
    elif isinstance(node, list):
        for inner in node:
            found += expressions(inner)
    return found


@pytest.fixture
def existing(watch: Watch) -> set[str]:
    watch.sampled(sample(checkpoint_at=1.0))
    watch.compared(PASSED)
    return {name for name, _ in scrape(watch)}


def test_the_dashboard_asks_only_for_what_there_is(existing: set[str]) -> None:
    asked = {name for expression in expressions(DASHBOARD) for name in names_in(expression)}
    assert len(asked) > 10
    assert asked - existing == set()
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in DASHBOARD["panels"]:
        assert panel["title"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


def test_the_alerts_ask_only_for_what_there_is(existing: set[str]) -> None:
    rules = "\n".join(line for line in ALERTS.splitlines() if not line.strip().startswith("#"))
    asked = {name for name in names_in(rules) if name != "cdc_indexer"}
    assert len(asked) > 5
    assert asked - existing == set()


def test_every_alert_and_every_cause_is_explained() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    alerts = re.findall(r"- alert: (\w+)", ALERTS)
    assert len(alerts) >= 8
    assert [name for name in alerts if f"### {name}\n" not in text] == []
    assert [cause.value for cause in Cause if f"| `{cause.value}` |" not in text] == []
    assert set(re.findall(r"^### (CdcIndexer\w+)$", text, re.MULTILINE)) == set(alerts)
    # What a rule links to is there.
    for anchor in re.findall(r"docs/operations\.md#(\w+)", ALERTS):
        assert anchor in {name.lower() for name in alerts}
