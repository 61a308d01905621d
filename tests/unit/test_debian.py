"""What the Debian packages are made of, as far as that is seen without building them (tests/install/test_deb.py does)."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cdc_indexer import __version__
from tests.unit.test_readme import README

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_files_in_etc_are_the_examples_of_the_readme() -> None:
    config, server, *_ = re.findall(r"^```json\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert (ROOT / "debian/config.json").read_text() == config
    assert (ROOT / "debian/server.json").read_text() == server


@pytest.mark.parametrize(
    ("package", "unit"),
    [("cdc-indexer", "cdc-indexer.service"), ("central-index", "central/central-index.service")],
)
def test_the_units_differ_from_those_by_hand_in_where_the_program_is(
    tmp_path: Path, package: str, unit: str
) -> None:
    (tmp_path / "debian").mkdir()
    shutil.copy(ROOT / "extras" / unit, tmp_path / "unit")
    subprocess.run([ROOT / "debian/unit", package, "unit"], cwd=tmp_path, check=True)

    def told(path: Path) -> set[str]:
        lines = path.read_text().splitlines()
        return {line for line in lines if line and not line.startswith(("#", "Documentation="))}

    by_hand, packaged = told(tmp_path / "unit"), told(tmp_path / f"debian/{package}.service")
    assert {line.replace("/usr/lib/", "/opt/") for line in packaged} == by_hand
    assert f"/usr/lib/{package}/bin/python -m" in next(
        line for line in packaged if line.startswith("ExecStart=")
    )


@pytest.mark.parametrize("unit", ["cdc-indexer.service", "central/central-index.service"])
def test_what_a_unit_names_as_its_documentation_is_there(unit: str) -> None:
    found = re.search(
        r"^Documentation=file:///opt/[a-z-]+/(share/doc/[a-z-]+)/(\S+)$",
        (ROOT / "extras" / unit).read_text(),
        re.M,
    )
    assert found is not None
    installed = re.search(rf'^"{found[1]}" = \[(.*)\]$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert installed is not None
    assert found[2] in [Path(name).name for name in re.findall(r'"([^"]+)"', installed[1])]


@pytest.mark.skipif(shutil.which("dpkg-parsechangelog") is None, reason="no dpkg-dev here")
def test_the_changelog_is_the_newest_section_of_ours(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "debian/make_changelog.py", f"{__version__}+deb12"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (tmp_path / "changelog").write_text(made)
    parsed = subprocess.run(
        ["dpkg-parsechangelog", "-l", str(tmp_path / "changelog")], capture_output=True, text=True, check=True
    )
    assert parsed.stderr == ""
    assert f"Version: {__version__}+deb12\n" in parsed.stdout
    section = (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1]
    assert made.count("\n  * ") == len(re.findall(r"^- ", section, re.MULTILINE)) > 0
