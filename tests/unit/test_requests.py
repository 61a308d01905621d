"""Requests of other commands: what isn't one is refused in a sentence and put aside, and `run` goes on."""

from __future__ import annotations

import os
from datetime import date, datetime, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdc_indexer.model.errors import StorageError
from cdc_indexer.state import requests
from cdc_indexer.state.requests import (
    Inbox,
    InitialRequest,
    PauseRequest,
    ReconcileRequest,
    Refused,
    Request,
    ResendRequest,
    RetryRequest,
)

ASKED: tuple[Request, ...] = (
    InitialRequest(id="1"),
    InitialRequest(
        id="2",
        since=date(2020, 1, 1),
        until=date(2021, 2, 3),
        study_iuids=("1.2", "1.3"),
        rate=2.5,
        restart=True,
    ),
    ReconcileRequest(id="3", report_only=True),
    ResendRequest(id="4", patient_ids=("26267267-K",)),
    PauseRequest(id="5", until=datetime(2026, 11, 28, 3, 4, 5, tzinfo=timezone.utc)),
    PauseRequest(id="6"),
    RetryRequest(id="7", entries=(1, 5)),
    RetryRequest(id="8"),
)


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: f"{asked.name} {asked.id}")
def test_a_request_arrives_as_it_was_asked(tmp_path: Path, asked: Request) -> None:
    inbox = Inbox(tmp_path)
    assert inbox.read(type(asked)) is None
    requests.ask(tmp_path, asked)
    assert inbox.read(type(asked)) == asked
    assert inbox.read(type(asked)) == asked, "it stays until it is taken away"
    assert (tmp_path / asked.file()).stat().st_mode & 0o777 == 0o600
    requests.remove(tmp_path, asked.file())
    assert inbox.read(type(asked)) is None


GARBLED = [
    b"",
    b"{",
    b"{}",
    b"17",
    b"[]",
    b'"initial"',
    b"null",
    b"\xff\xfe",
    b"\0" * 100,
    b'{"id": 1}',
    b'{"id": ""}',
    b'{"id": "x", "since": "yesterday"}',
    b'{"id": "x", "since": "2026-02-30"}',
    b'{"id": "x", "since": 20260101}',
    b'{"id": "x", "rate": "fast"}',
    b'{"id": "x", "rate": -1}',
    b'{"id": "x", "rate": NaN}',
    b'{"id": "x", "rate": 1e999}',
    b'{"id": "x", "study_iuids": "1.2"}',
    b'{"id": "x", "study_iuids": [1, 2]}',
    b'{"id": "x", "restart": "yes"}',
    b'{"id": "x", "restart": 1}',
    b'{"id": "x", "of_a_newer_version": true}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("content", GARBLED, ids=lambda content: repr(content[:30]))
def test_what_is_no_request_is_refused_once_and_put_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "initial.request.json"
    path.write_bytes(content)
    inbox = Inbox(tmp_path)
    with pytest.raises(Refused, match=r"initial\.request\.json isn't a request .*put aside as") as caught:
        inbox.read(InitialRequest)
    assert "\n" not in str(caught.value)
    assert not path.exists()
    assert (tmp_path / "initial.request.refused").read_bytes() == content
    assert inbox.read(InitialRequest) is None
    asked = InitialRequest(id="good")
    requests.ask(tmp_path, asked)
    assert inbox.read(InitialRequest) == asked


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["id", "since", "until", "study_iuids", "rate", "x"]), inner, max_size=4
            )
        ),
        max_leaves=8,
    ).map(lambda value: __import__("json").dumps(value).encode())
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_nothing_that_can_lie_there_stops_run(tmp_path: Path, content: bytes) -> None:
    for kind in (InitialRequest, ReconcileRequest, ResendRequest, PauseRequest, RetryRequest):
        (tmp_path / kind.file()).write_bytes(content)
        try:
            assert Inbox(tmp_path).read(kind) is not None
        except Refused:
            assert not (tmp_path / kind.file()).exists()


def test_the_sentence_names_the_key_and_no_value(tmp_path: Path) -> None:
    (tmp_path / "resend.request.json").write_text('{"id": "x", "patient_ids": {"26267267-K": "PEREZ^JUAN"}}')
    with pytest.raises(Refused, match="patient_ids") as caught:
        Inbox(tmp_path).read(ResendRequest)
    assert "PEREZ" not in str(caught.value)
    assert "26267267" not in str(caught.value)


@pytest.mark.parametrize("what", ["directory", "pipe", "link", "large", "dangling"])
def test_something_else_in_its_place(tmp_path: Path, what: str) -> None:
    path = tmp_path / "pause.request.json"
    if what == "directory":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "large":
        path.write_bytes(b" " * 5_000_000)
    else:
        (tmp_path / "target").write_text('{"id": "x"}')
        path.symlink_to(tmp_path / ("target" if what == "link" else "nowhere"))
    inbox = Inbox(tmp_path)
    with pytest.raises(Refused):
        inbox.read(PauseRequest)
    assert inbox.read(PauseRequest) is None


def test_what_can_not_be_put_aside_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(self: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "pause.request.json").write_text("{}")
    inbox = Inbox(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", forbidden)
        with pytest.raises(Refused, match="remove it"):
            inbox.read(PauseRequest)
        assert inbox.read(PauseRequest) is None
    requests.ask(tmp_path, PauseRequest(id="x"))
    assert inbox.read(PauseRequest) == PauseRequest(id="x")


def test_a_second_one_takes_the_place_of_the_first_that_was_refused(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    (tmp_path / "pause.request.refused").mkdir()
    for content in ("{}", "[]"):
        (tmp_path / "pause.request.json").write_text(content)
        with pytest.raises(Refused):
            inbox.read(PauseRequest)
        assert inbox.read(PauseRequest) is None


def test_a_directory_that_can_not_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="can't be written"):
        requests.ask(tmp_path / "missing", PauseRequest(id="x"))
    target = tmp_path / "target"
    target.write_text("somebody's")
    (tmp_path / "pause.request.new").symlink_to(target)
    with pytest.raises(StorageError, match="can't be written"):
        requests.ask(tmp_path, PauseRequest(id="x"))
    assert target.read_text() == "somebody's"


@pytest.mark.parametrize("content", [b"", b"17", b"[", b"\xff", b"[" * 100_000])
def test_an_answer_that_is_not_whole_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "initial.progress.json").write_bytes(content)
    assert requests.read(tmp_path, InitialRequest.answer_file()) is None
    requests.write(tmp_path, InitialRequest.answer_file(), {"sent": 3})
    assert requests.read(tmp_path, InitialRequest.answer_file()) == {"sent": 3}
