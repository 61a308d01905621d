"""The unit for systemd, and what docs/region.md shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from central_index.keys import Keys
from central_index.metrics import Metrics
from central_index.model import CenterReport
from central_index.overview import overview
from tests.central.test_reports import report
from tests.servers import cache_directory

ROOT = Path(__file__).resolve().parent.parent.parent
UNIT = ROOT / "extras/central/central-index.service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd isn't installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    # What it runs is somewhere else here.
    unit.write_text(UNIT.read_text().replace("/opt/central-index/bin/python", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("verb", "path"),
    [("check", "extras/central/prometheus-alerts.yml"), ("test", "tests/central/alerts_test.yml")],
)
def test_prometheus_understands_the_alerts(verb: str, path: str) -> None:
    tool = shutil.which("promtool") or str(cache_directory() / "promtool/promtool")
    if not Path(tool).exists():
        pytest.skip("no promtool here: tests/setup_servers.sh promtool")
    done = subprocess.run(
        [tool, verb, "rules", str(ROOT / path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["prometheus-alerts.yml", "grafana-dashboard.json"])
def test_every_metric_of_alerts_and_board_is_one(name: str) -> None:
    """Whatever the centres' state is."""
    text = (ROOT / "extras/central" / name).read_text()
    named = set(re.findall(r"central_index_\w+", text))
    last_pass = {"at": "2026-11-28T01:00:00Z", "compared": 1, "missing": 0, "stale": 0, "extra": 0, "kept": 0}
    reported = report(state="failed", last_pass=last_pass)
    center = overview([], [CenterReport("0", 0.0, reported)], {}, {}, {}, 1.0)
    metrics = Metrics()
    metrics.answered("GET", "/", 200, 0.1)
    said = metrics.text(center, keys_usable=True).decode()
    assert len(named) > 3
    assert [name for name in sorted(named) if not re.search(rf"^{name}[ {{]", said, re.MULTILINE)] == []


def test_prometheus_understands_what_the_board_asks(tmp_path: Path) -> None:
    tool = shutil.which("promtool") or str(cache_directory() / "promtool/promtool")
    if not Path(tool).exists():
        pytest.skip("no promtool here: tests/setup_servers.sh promtool")
    board = json.loads((ROOT / "extras/central/grafana-dashboard.json").read_text())
    asked = [
        target["expr"].replace("$center", ".*") for panel in board["panels"] for target in panel["targets"]
    ]
    rules = {"groups": [{"name": "board", "rules": [{"record": "x:y", "expr": one, "labels": {"n": str(place)}}
             for place, one in enumerate(asked)]}]}  # fmt: skip
    path = tmp_path / "rules.yml"
    # YAML holds JSON.
    path.write_text(json.dumps(rules))
    done = subprocess.run([tool, "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # Places on the board are each one panel's.
    taken = [
        (x, y)
        for panel in board["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken))


def test_the_board_names_every_column_of_its_table() -> None:
    """As the page "Centres" has them; the places are those of the queries."""
    board = json.loads((ROOT / "extras/central/grafana-dashboard.json").read_text())
    (table,) = [panel for panel in board["panels"] if panel["type"] == "table"]
    (organized,) = [one["options"] for one in table["transformations"] if one["id"] == "organize"]
    columns = {"center", "version", *(f"Value #{target['refId']}" for target in table["targets"])}
    shown = columns - organized["excludeByName"].keys()
    assert len(columns) == len(table["targets"]) + 2
    assert organized["renameByName"].keys() == shown == organized["indexByName"].keys()
    assert sorted(organized["indexByName"].values()) == list(range(len(shown)))
    named = {rule["matcher"]["options"] for rule in table["fieldConfig"]["overrides"]}
    assert named <= set(organized["renameByName"].values())


def test_every_metric_of_a_centre_is_on_the_board() -> None:
    center = overview(["000"], [CenterReport("000", 0.0, report())], {"000": 1}, {}, {}, 1.0)
    said = Metrics().text(center, keys_usable=True).decode()
    board = (ROOT / "extras/central/grafana-dashboard.json").read_text()
    names = set(re.findall(r"^(central_index_center_\w+)", said, re.MULTILINE))
    assert len(names) == 13
    assert [name for name in sorted(names) if name not in board] == []


def test_the_keys_of_the_document_are_good(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs/region.md").read_text(), re.DOTALL)
    path = tmp_path / "keys.json"
    path.write_text(shown)
    keys = Keys(path)
    assert keys.centers() == ["000", "111"]
    assert json.loads(shown)["readers"].keys() == {"radiology", "research", "hospital 111"}


@pytest.mark.parametrize("name", ["README.md", "README.es.md"])
def test_the_readme_makes_a_file_of_keys_that_is_good(tmp_path: Path, name: str) -> None:
    lines = re.findall(r"^central-index (--keys keys\.json .*)$", (ROOT / name).read_text(), re.MULTILINE)
    assert len(lines) == 2
    password = "correct horse battery"
    for line in lines:
        done = subprocess.run(
            [sys.executable, "-m", "central_index", *line.split()],
            input=f"{password}\n{password}\n", cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    keys = Keys(tmp_path / "keys.json")
    assert keys.centers() == ["000"]
    assert keys.digest_of_password("radiology", password) is not None
