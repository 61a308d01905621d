"""The unit for systemd, and what docs/region.md shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from central_index.keys import Keys

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


def test_the_keys_of_the_document_are_good(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs/region.md").read_text(), re.DOTALL)
    path = tmp_path / "keys.json"
    path.write_text(shown)
    keys = Keys(path)
    assert keys.centers() == ["000", "111"]
    assert json.loads(shown)["readers"].keys() == {"radiology", "research", "hospital 111"}


@pytest.mark.parametrize("name", ["README.md", "README.es.md"])
def test_the_keys_of_the_readme_are_good(tmp_path: Path, name: str) -> None:
    (shown,) = re.findall(r"^echo '(.*)' > keys\.json$", (ROOT / name).read_text(), re.MULTILINE)
    path = tmp_path / "keys.json"
    path.write_text(shown)
    assert Keys(path).centers() == ["000"]
