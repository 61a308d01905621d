"""extras/prometheus-alerts.yml, judged by Prometheus's own tool, where it is (tests/setup_servers.sh promtool)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cdc_indexer_servers"

PROMTOOL = shutil.which("promtool") or shutil.which("promtool", path=str(CACHE / "promtool"))

pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="no promtool here: tests/setup_servers.sh promtool")


@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", "extras/prometheus-alerts.yml"), ("test", "rules", "tests/monitor/alerts_test.yml")],
    ids=["rules", "tests"],
)
def test_promtool(arguments: tuple[str, ...]) -> None:
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout
