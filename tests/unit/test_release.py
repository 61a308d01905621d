"""`make release`, and that versions, changelog and tags belong together."""

from __future__ import annotations

import re
import subprocess
from datetime import date
from pathlib import Path

import pytest

from cdc_indexer import __version__
from extras.release.__main__ import Refused, release

ROOT = Path(__file__).resolve().parent.parent.parent
TODAY = date(2026, 12, 1)
CHANGELOG = "# Changelog\n\n## Unreleased\n\n- something\n\n## 0.1.0 (2026-11-28)\n\n- the first\n"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "cdc_indexer").mkdir()
    (tmp_path / "cdc_indexer/__init__.py").write_text('"""x"""\n\n__version__ = "0.1.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    _git(tmp_path, "init", "--quiet")
    _git(tmp_path, "config", "user.name", "somebody")
    _git(tmp_path, "config", "user.email", "somebody@example.org")
    _git(tmp_path, "add", "--all")
    _git(tmp_path, "commit", "--quiet", "--message", "x")
    _git(tmp_path, "tag", "v0.1.0")
    return tmp_path


def _git(directory: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(directory), *arguments], capture_output=True, text=True, check=True
    ).stdout


def test_a_release_is_a_heading_a_version_and_a_tag(repository: Path) -> None:
    release(repository, "0.2.0", TODAY)
    assert (repository / "CHANGELOG.md").read_text().splitlines()[2] == "## 0.2.0 (2026-12-01)"
    assert "## 0.1.0 (2026-11-28)" in (repository / "CHANGELOG.md").read_text()
    assert '__version__ = "0.2.0"' in (repository / "cdc_indexer/__init__.py").read_text()
    assert _git(repository, "describe").strip() == "v0.2.0"
    assert _git(repository, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("version", "why"),
    [("0.1.0", "released already"), ("0.0.9", "released already"), ("", "VERSION="), ("1", "VERSION=")],
)
def test_a_version_that_is_no_new_one_is_refused(repository: Path, version: str, why: str) -> None:
    with pytest.raises(Refused, match=why):
        release(repository, version, TODAY)
    assert _git(repository, "status", "--porcelain") == ""


def test_what_is_not_committed_is_in_no_release(repository: Path) -> None:
    (repository / "new").touch()
    with pytest.raises(Refused, match="isn't committed"):
        release(repository, "0.2.0", TODAY)


@pytest.mark.parametrize(
    "text", ["# Changelog\n\n## Unreleased\n\n## 0.1.0\n\n- x\n", "# Changelog\n\n## 0.1.0\n\n- x\n"]
)
def test_a_release_without_an_entry_is_refused(repository: Path, text: str) -> None:
    (repository / "CHANGELOG.md").write_text(text)
    _git(repository, "commit", "--quiet", "--all", "--message", "y")
    with pytest.raises(Refused, match="nothing new"):
        release(repository, "0.2.0", TODAY)


def test_the_version_stands_in_one_place_and_is_the_newest_of_the_changelog() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [heading for heading in headings if not heading.lower().startswith("unreleased")]
    assert released[0].split()[0] == __version__
    for name in ("pyproject.toml", "Makefile", "debian/control", "debian/rules"):
        assert f'"{__version__}"' not in (ROOT / name).read_text(), name
