"""debian/changelog from CHANGELOG.md, whose first section is the version that is built.

python3 debian/make_changelog.py VERSION
"""

import email.utils
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_MAINTAINER = re.compile(r"^Maintainer: (.*)$", re.MULTILINE)


def main() -> None:
    """Prints it. The builder may put a name of his own on it, by DEBFULLNAME and DEBEMAIL."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    section = re.split(r"^## .*$", text, flags=re.MULTILINE)[1]
    entries = re.findall(r"^- (.*(?:\n  .*)*)", section, re.MULTILINE)
    found = _MAINTAINER.search((ROOT / "debian/control").read_text(encoding="utf-8"))
    maintainer = found[1] if found else ""
    if "DEBEMAIL" in os.environ:
        maintainer = f"{os.environ.get('DEBFULLNAME') or os.environ['DEBEMAIL']} <{os.environ['DEBEMAIL']}>"
    print(f"cdc-indexer ({sys.argv[1]}) unstable; urgency=medium\n")
    for entry in entries:
        words = " ".join(entry.replace("`", "").split())
        print(
            textwrap.fill(words, 78, initial_indent="  * ", subsequent_indent="    ", break_long_words=False)
        )
    print(f"\n -- {maintainer}  {email.utils.formatdate(_moment())}")


def _moment() -> float:
    """Of the last change, so that the same sources give the same packages."""
    if "SOURCE_DATE_EPOCH" in os.environ:
        return float(os.environ["SOURCE_DATE_EPOCH"])
    if shutil.which("git"):
        git = subprocess.run(
            ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False
        )
        if git.returncode == 0:
            return float(git.stdout)
    return (ROOT / "CHANGELOG.md").stat().st_mtime


if __name__ == "__main__":
    main()
