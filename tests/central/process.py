"""What the kernel says of an index's process."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

#: A state in /proc/net/tcp.
_LISTENS = "0A"


class Memory:
    """How much more of it the process needed at one time than when this was made."""

    def __init__(self, pid: int) -> None:
        self._process = Path(f"/proc/{pid}")
        # The peak begins anew.
        (self._process / "clear_refs").write_text("5")
        self._before = self._read("VmRSS")

    def grown_mb(self) -> float:
        return self._read("VmHWM") - self._before

    def _read(self, name: str) -> float:
        found = re.search(rf"^{name}:\s+(\d+) kB", (self._process / "status").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1]) / 1024


def connections(pid: int, port: int) -> int:
    """How many to its ``port`` it holds open; those that the other side has left, too."""
    held = set()
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            held.add(str(one.readlink()))
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(
        f"socket:[{row[9]}]" in held and int(row[1].partition(":")[2], 16) == port and row[3] != _LISTENS
        for row in rows
    )
