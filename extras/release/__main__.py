"""Makes a release of what is committed: `make release VERSION=1.2.0`.

The version stands in one place, cdc_indexer/__init__.py. This writes it there and as the heading of the newest section of
CHANGELOG.md, commits both, and tags the commit. Nothing is pushed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
#: The newest section, as it stands while it grows: "## Unreleased", or "## 1.2.0 (unreleased)" where the number is known.
_UNRELEASED = re.compile(r"\A(# Changelog\n\n)## [^\n]*unreleased[^\n]*\n", re.IGNORECASE)


class Refused(Exception):
    """Why there is no release, and what to do."""


def release(root: Path, version: str, today: date) -> None:
    """Raises Refused, and then nothing has changed."""
    if not _VERSION.fullmatch(version):
        raise Refused(f"{version or 'no version'}: say which as VERSION=1.2.0.")
    if _git(root, "status", "--porcelain"):
        raise Refused("Something isn't committed: commit it, or put it away.")
    tags = [tag[1:] for tag in _git(root, "tag", "--list", "v*").split()]
    if newer := [tag for tag in tags if _VERSION.fullmatch(tag) and _number(tag) >= _number(version)]:
        raise Refused(f"{max(newer, key=_number)} is released already: choose a higher version.")
    changelog = root / "CHANGELOG.md"
    text = changelog.read_text(encoding="utf-8")
    if not _UNRELEASED.match(text) or not re.search(r"^- ", text.split("\n## ")[1], re.MULTILINE):
        raise Refused(
            'CHANGELOG.md has nothing new: its first section must be "## Unreleased", with an entry a change.'
        )
    init = root / "cdc_indexer/__init__.py"
    source = init.read_text(encoding="utf-8")
    written, count = re.subn(
        r'^__version__ = ".*"$', f'__version__ = "{version}"', source, flags=re.MULTILINE
    )
    if count != 1:
        raise Refused(f"{init} has no line with __version__.")
    changelog.write_text(
        _UNRELEASED.sub(rf"\g<1>## {version} ({today.isoformat()})\n", text), encoding="utf-8"
    )
    init.write_text(written, encoding="utf-8")
    _git(root, "commit", "--quiet", "--all", "--message", f"Release {version}")
    _git(root, "tag", "--annotate", f"v{version}", "--message", f"cdc_indexer {version}")


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _git(root: Path, *arguments: str) -> str:
    answer = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise Refused(f"git {arguments[0]}: {answer.stderr.strip()}")
    return answer.stdout


if __name__ == "__main__":
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        release(ROOT, wanted, date.today())
    except Refused as error:
        sys.exit(f"make release: {error}")
    print(
        f"{wanted} is committed and tagged. Then: git push --follow-tags, make dist, and make deb on each release of Debian."
    )
