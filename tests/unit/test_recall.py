"""Whether the state is of this centre, this index and these documents, and what is said when it isn't."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from cdc_indexer.jobs.recall import Recalled, recall
from cdc_indexer.model.changes import Changes
from cdc_indexer.model.errors import FatalError
from cdc_indexer.model.ledger import Entry
from cdc_indexer.model.settings import DatabaseSettings, DeliverySettings, Settings
from cdc_indexer.state.store import Store


def some_settings(path: Path, **values: Any) -> Settings:
    fixed: dict[str, Any] = {
        "database": DatabaseSettings(host="h", port=1, user="u", password=SecretStr("p"), name="n"),
        "key": SecretStr("k"),
        "webservice_url": "https://one/api",
        "center": "000",
        "state_dir": path,
        "config_path": path,
    }
    return Settings.model_construct(**{**fixed, **values})


class Kept:
    """A state with three studies in its ledger."""

    def __init__(self, store: Store, path: Path) -> None:
        self.store = store
        self.path = path
        store.apply(Changes(ledger={f"1.{n}": Entry(f"1.{n}", n, 1, bytes(16)) for n in range(3)}))

    def recall(
        self, *, anew: bool = False, same_index: bool = False, **values: Any
    ) -> tuple[Recalled, list[str]]:
        """As the next start would; and what it says."""
        with capture_logs() as logs:
            recalled = recall(
                self.store, some_settings(self.path, **values), anew=anew, same_index=same_index
            )
        self.store.apply(Changes(meta=dict(recalled.news)))
        return recalled, [str(line["event"]) for line in logs]


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    store = Store(tmp_path)
    one = Kept(store, tmp_path)
    assert one.recall()[1] == []
    yield one
    store.close()


def test_another_address_is_said_with_the_choice(kept: Kept) -> None:
    for _ in range(2):
        with pytest.raises(FatalError) as said:
            kept.recall(webservice_url="https://two/api")
        assert "run --same-index" in str(said.value)
        assert "initial --restart" in str(said.value)
    kept.recall()
    # It has moved: said once, and known from then on.
    kept.recall(webservice_url="https://two/api", same_index=True)
    kept.recall(webservice_url="https://two/api")
    with pytest.raises(FatalError):
        kept.recall()
    kept.recall(anew=True)
    kept.recall()


def test_another_centre_is_said_with_the_choice(kept: Kept) -> None:
    for same_index in (False, True):
        with pytest.raises(FatalError) as said:
            kept.recall(center="001", same_index=same_index)
        assert "put '000' back" in str(said.value)
        assert "initial --restart" in str(said.value)
    kept.recall(center="001", anew=True)
    kept.recall(center="001")


def test_other_fields_are_said_with_the_count_before_anything_is_sent(kept: Kept) -> None:
    more = {"accession": "accession_no"}
    _, said = kept.recall(fields=more)
    assert len(said) == 1
    assert "all 3 studies" in said[0]
    assert kept.recall(fields=more)[1] == [], "once"
    assert len(kept.recall()[1]) == 1, "to take them away again is a change, too"
    # Nothing goes out for it: everything does anyway, or one version is all that goes.
    assert kept.recall(fields=more, anew=True)[1] == []
    once = DeliverySettings(updates=False)
    assert kept.recall(delivery=once)[1] == []


def test_another_form_of_the_document_is_said_too(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdc_indexer.jobs.recall.DOCUMENT_FORMAT", 2)
    assert len(kept.recall()[1]) == 1
    assert kept.recall()[1] == []
