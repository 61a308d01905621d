"""That the benchmarks still run; what they measure is nobody's assertion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import requests

from benchmarks import state
from benchmarks.__main__ import Bench, Sizes, main
from benchmarks.measurements import AnyReceiver
from benchmarks.receiver import Fallback, NginxMissing, Receiver
from benchmarks.report import Report
from benchmarks.subjects import Ours, PlainScript
from tests.servers import Server

TINY = Sizes(1, 5, 30, 30, 10, 30, 5, 0.1, 100, 5, 30, (), (20,))


def some_receiver(directory: Path) -> AnyReceiver:
    try:
        return Receiver(directory / "nginx")
    except NginxMissing:
        return Fallback()


def test_only_studies_are_counted() -> None:
    receiver = Fallback()
    try:
        requests.get(receiver.url, timeout=10)
        assert receiver.count() == 0
        requests.post(receiver.url, json=[{"study_iuid": "1.2.3"}, {"study_iuid": "1.2.4"}], timeout=10)
        assert receiver.count() == 2
    finally:
        receiver.close()


@pytest.mark.one_server
def test_a_small_benchmark_runs(server: Server, tmp_path: Path) -> None:
    report = Report("a machine", tmp_path / "results")
    receiver = some_receiver(tmp_path)
    try:
        bench = Bench(server, receiver, tmp_path, report, TINY)
        bench.run("one-row")
        bench.run("reading")
    finally:
        receiver.close()
    (case, by_subject), *_ = report.runs.items()
    assert "one-row" in case
    assert set(by_subject) == {Ours.name, PlainScript.name}
    for runs in by_subject.values():
        assert all(figures["studies/s"] > 0 for figures in runs)
    report.plot()
    assert "one-row" in (tmp_path / "results/table.md").read_text()
    assert json.loads((tmp_path / "results/figures.json").read_text())["runs"] == report.runs


@pytest.mark.one_server
def test_an_index_with_features_is_measured_beside_one_without(server: Server, tmp_path: Path) -> None:
    report = Report("a machine", tmp_path / "results")
    receiver = some_receiver(tmp_path)
    try:
        Bench(server, receiver, tmp_path, report, TINY).run("features")
    finally:
        receiver.close()
    for by_subject in report.runs.values():
        assert set(by_subject) == {Ours.name, "without features"}
    logs = [path.read_text() for path in tmp_path.glob("*/ours*/log.txt")]
    assert len(logs) == 4
    for said in logs:
        assert "lost something" not in said
        assert "another process" not in said


def test_what_the_state_costs_is_measured(tmp_path: Path) -> None:
    """A hundredth of the ledger that `make bench CASES=state` fills; the size grows with it, and nothing else does."""
    figures = state.measure(tmp_path / "state", 10_000)
    assert 0 < figures["MB"] < 1.2
    assert figures["log, MB"] < 16
    assert all(value > 0 for value in figures.values())


def test_a_case_that_does_not_exist_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["faster"]) == 2
    assert "no case faster" in capsys.readouterr().out
