"""The GTID set of a position, kept up transaction by transaction (private to mysql/, pure)."""

from __future__ import annotations

import re
from bisect import bisect_right
from uuid import UUID


class GtidSet:
    """Starts from the text that the server gave and grows by one GTID per transaction.

    MariaDB keeps the last number of each domain; MySQL keeps intervals for each uuid and tag (8.3).
    """

    def __init__(self, text: str) -> None:
        self._domains: dict[int, tuple[int, int]] = {}
        self._intervals: dict[tuple[str, str], list[list[int]]] = {}
        for part in filter(None, re.split(r"[,\s]+", text)):
            if ":" not in part:
                domain, server, number = part.split("-")
                self._domains[int(domain)] = (int(server), int(number))
                continue
            uuid, *rest = part.lower().split(":")
            tag = ""
            for word in rest:
                if word[0].isdigit():
                    first, _, last = word.partition("-")
                    self._intervals.setdefault((uuid, tag), []).append([int(first), int(last or first)])
                else:
                    tag = word

    def add(self, source: int | bytes, middle: int | str, number: int) -> None:
        """One transaction: MariaDB's (domain, server_id, number), or MySQL's (uuid, tag, number)."""
        if isinstance(source, int):
            self._domains[source] = (int(middle), number)
            return
        intervals = self._intervals.setdefault((str(UUID(bytes=source)), str(middle)), [])
        if intervals and intervals[-1][1] + 1 == number:
            intervals[-1][1] = number
            return
        at = bisect_right(intervals, [number])
        if (at and intervals[at - 1][1] >= number) or (at < len(intervals) and intervals[at][0] == number):
            return
        intervals.insert(at, [number, number])
        if at + 1 < len(intervals) and intervals[at + 1][0] == number + 1:
            intervals[at][1] = intervals.pop(at + 1)[1]
        if at and intervals[at - 1][1] + 1 == number:
            intervals[at - 1][1] = intervals.pop(at)[1]

    def __str__(self) -> str:
        if self._domains:
            return ",".join(
                f"{domain}-{server}-{number}" for domain, (server, number) in sorted(self._domains.items())
            )
        texts: dict[str, str] = {}
        for (uuid, tag), intervals in sorted(self._intervals.items()):
            spans = ":".join(f"{a}-{b}" if a != b else f"{a}" for a, b in intervals)
            texts[uuid] = texts.get(uuid, uuid) + (f":{tag}" if tag else "") + f":{spans}"
        return ",".join(texts.values())
