"""What is asked of the central index beside sending studies: digests, and where our reports go (CONVERGENCE 5 and 6)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import requests

from cdc_indexer import __version__
from cdc_indexer.model.errors import IndexerError

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings

__all__ = ["MAX_LISTED", "MAX_RANGES", "IndexClient", "IndexUnavailable", "Listed", "Range", "TooMany"]

#: The index takes at most so many ranges in a request, and lists at most so many studies.
MAX_RANGES = 1000
MAX_LISTED = 10_000

#: An answer that lists 10,000 studies is about a megabyte.
_MAX_BYTES = 8_000_000

#: (after_pk, until_pk): after < study_pk <= until; None: without end.
Range = tuple[int | None, int | None]


class IndexUnavailable(IndexerError):
    """The central index can't be asked just now, or doesn't answer as it should; waiting can heal it."""


class TooMany(IndexerError):
    """The index doesn't list so many studies at once: ask for half of them."""


class Listed(NamedTuple):
    """A study as the index has it."""

    study_pk: int
    study_iuid: str
    digest: bytes


class IndexClient:
    """One session; any thread, one at a time. Raises IndexUnavailable."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.webservice_url.rstrip("/")
        self._timeout_seconds = settings.delivery.timeout_seconds
        self._session = requests.Session()
        self._session.headers.update(
            {
                "User-Agent": f"cdc-indexer/{__version__}",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "X-Api-Key": settings.key.get_secret_value(),
            }
        )
        if settings.delivery.ca is not None:
            self._session.verify = str(settings.delivery.ca)
        if settings.delivery.client_cert is not None:
            self._session.cert = str(settings.delivery.client_cert)

    def close(self) -> None:
        """Closes its connection."""
        self._session.close()

    def digests(self, ranges: Sequence[Range]) -> list[tuple[int, int]]:
        """(count, sum of the digests modulo 2^128) for each range; at most MAX_RANGES."""
        said = self._ask("digests", {"ranges": [list(one) for one in ranges]})
        try:
            found = [(int(one["count"]), int(one["digest"], 16)) for one in said["ranges"]]
        except (KeyError, TypeError, ValueError):
            raise _strange() from None
        if len(found) != len(ranges):
            raise _strange()
        return found

    def listed(self, one: Range) -> list[Listed]:
        """The studies in a range; raises TooMany when the index won't list them all."""
        said = self._ask("digests", {"ranges": [list(one)], "list": True})
        try:
            return [
                Listed(int(study_pk), str(study_iuid), bytes.fromhex(digest))
                for study_pk, study_iuid, digest in said["ranges"][0]["studies"]
            ]
        except (KeyError, IndexError, TypeError, ValueError):
            raise _strange() from None

    def report(self, content: Mapping[str, Any]) -> tuple[int | None, int | None]:
        """Sends a report; ``previous`` and ``highest`` of the answer."""
        said = self._ask("report", content)
        previous, highest = said.get("previous"), said.get("highest")
        return (
            previous if isinstance(previous, int) else None,
            highest if isinstance(highest, int) else None,
        )

    def _ask(self, path: str, content: Mapping[str, Any]) -> dict[str, Any]:
        try:
            # Redirects would carry the key to another host.
            with self._session.post(
                f"{self._url}/{path}",
                json=content,
                timeout=self._timeout_seconds,
                allow_redirects=False,
                stream=True,
            ) as answer:
                if answer.status_code == 413:
                    raise TooMany("the central index doesn't list so many studies at once")
                if answer.status_code != 200:
                    raise IndexUnavailable(
                        f"The central index answers {answer.status_code} to /{path}: ask whoever runs it."
                    )
                text = answer.raw.read(_MAX_BYTES + 1, decode_content=True)
        except (requests.RequestException, OSError) as error:
            raise IndexUnavailable(
                f"The central index can't be asked ({type(error).__name__}): it is tried again."
            ) from None
        if len(text) > _MAX_BYTES:
            raise _strange()
        try:
            said = json.loads(text)
        except ValueError:
            raise _strange() from None
        if not isinstance(said, dict) or str(said.get("status", "")).lower() == "error":
            raise _strange()
        return said


def _strange() -> IndexUnavailable:
    return IndexUnavailable(
        "The central index doesn't answer as docs/index-api.md says: ask whoever runs it which version it is."
    )
