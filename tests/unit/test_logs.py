"""The log holds no secret and no patient, one line for each event, and never stops the program."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import structlog

from cdc_indexer.model.errors import SourceError
from cdc_indexer.model.settings import LogSettings
from cdc_indexer.monitor import logs

SECRETS = ("the-key-0123456789", "pw")
PATIENT = "PEREZ^JUAN"

log = structlog.get_logger("cdc_indexer")


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leaves logging and structlog to the other tests as they were."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    showwarning = warnings.showwarning
    yield
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    warnings.showwarning = showwarning
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("pymysqlreplication", "urllib3", "requests", "pymysql"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def configured(
    stream: logs.Stream | None = None,
    format: Literal["auto", "json", "console"] = "auto",
    level: Literal["debug", "info", "warning", "error"] = "info",
    **options: Any,
) -> io.StringIO:
    stream = stream or io.StringIO()
    logs.configure(LogSettings(format=format, level=level), stream, secrets=SECRETS, **options)
    return stream  # type: ignore[return-value]


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_where_nobody_watches() -> None:
    stream = configured()
    log.info("connected", position="bin.000001:4", rows=3)
    (line,) = lines(stream)
    assert list(line) == ["timestamp", "level", "event", "position", "rows"]
    assert line["timestamp"].endswith("Z")
    assert (line["level"], line["event"], line["rows"]) == ("info", "connected", 3)


def test_words_on_a_terminal() -> None:
    stream = configured(Screen())
    log.warning("held", reason="the key is refused")
    assert "held" in stream.getvalue()
    assert not stream.getvalue().startswith("{")
    assert "\x1b[" in stream.getvalue()


def test_no_colours_when_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = configured(Screen())
    log.warning("held")
    assert "\x1b[" not in stream.getvalue()


def test_the_format_can_be_forced() -> None:
    stream = configured(Screen(), format="json")
    log.info("x")
    assert lines(stream)
    stream = configured(format="console")
    log.info("x")
    assert not stream.getvalue().startswith("{")


def test_the_level_leaves_lines_out() -> None:
    stream = configured(level="warning")
    log.info("quiet")
    log.warning("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]


@pytest.mark.parametrize("format", ["json", "console"])
def test_private_fields_and_secrets_never_show(format: Literal["json", "console"]) -> None:
    stream = configured(format=format, level="debug")
    log.info(
        "sent the-key-0123456789",
        key="anything",
        Patient_Name=PATIENT,
        patient_id="26267267-K",
        body=PATIENT.encode(),
        answer=PATIENT,
        nested={"password": "x9", "list": [{"patient_name": PATIENT}, "pw", b"bytes of " + PATIENT.encode()]},
        reason="refused for 'the-key-0123456789' and pw, not pwd",
        study_pk=7,
    )
    text = stream.getvalue()
    for private in (*SECRETS[:1], "anything", "x9", PATIENT, "26267267-K"):
        assert private not in text
    assert " and [removed], not pwd" in text, "a short secret goes where it stands alone, and only there"
    assert "study_pk" in text


@pytest.mark.parametrize("level", ["info", "debug"])
def test_an_unexpected_error_shows_its_place_not_its_values(level: Literal["info", "debug"]) -> None:
    stream = configured(level=level)
    try:
        dict[str, str]()[PATIENT]
    except KeyError:
        log.exception("failed")
    (line,) = lines(stream)
    assert line["error"].startswith(f"KeyError at {__name__}:")
    assert ("traceback" in line) is (level == "debug")
    assert PATIENT not in stream.getvalue()


def test_our_own_errors_are_written_to_be_read() -> None:
    stream = configured()
    log.error("failed", exc_info=SourceError("The server is away."))
    assert lines(stream)[0]["error"] == "The server is away."


def test_an_errors_cause_on_the_disk_is_said() -> None:
    try:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"/tmp/{PATIENT}")
    except OSError as error:
        said = logs.describe(error)
    assert said.startswith(f"OSError (No space left on device) at {__name__}:")
    assert PATIENT not in said


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_text_can_not_forge_a_line(format: Literal["json", "console"]) -> None:
    stream = configured(format=format)
    log.info("one", reason='x\n{"event": "forged"}\r\x1b[2J\u2028', other=["\nforged"])
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert "\u2028" not in text


def test_a_line_that_keeps_coming_is_left_out() -> None:
    clock = Clock()
    stream = configured(clock=clock)
    for number in range(1000):
        log.warning("parked", study_pk=number, reason="rejected")
        log.info("other") if number == 500 else None
    shown = lines(stream)
    assert len([line for line in shown if line["event"] == "parked"]) == logs.REPEATS_SHOWN
    assert len([line for line in shown if line["event"] == "other"]) == 1
    clock.now += logs.REPEATS_SECONDS
    log.warning("parked", study_pk=1, reason="rejected")
    log.warning("parked", study_pk=2, reason="rejected")
    assert [line.get("left_out") for line in lines(stream)[len(shown) :]] == [1000 - logs.REPEATS_SHOWN]
    clock.now += 3 * logs.REPEATS_SECONDS
    log.warning("parked", study_pk=3, reason="rejected")
    assert lines(stream)[-1]["left_out"] == 1
    log.warning("parked", study_pk=4, reason="another reason")
    assert lines(stream)[-1]["study_pk"] == 4


def test_remembering_lines_takes_no_more_and_more_memory() -> None:
    repeats = logs.Repeats()
    for number in range(5000):
        repeats(None, "info", {"event": str(number)})
    assert len(repeats._seen) <= 1000


def test_libraries_can_not_write_past_us(capsys: pytest.CaptureFixture[str]) -> None:
    """pymysqlreplication logs its settings, the password among them, and a warning for each start."""
    stream = configured()
    logging.getLogger("pymysqlreplication").warning("settings: %s", {"passwd": "pw"})
    logging.getLogger("urllib3.connectionpool").warning("Retrying %s", PATIENT)
    assert stream.getvalue() == ""
    logging.getLogger("some.library").error("can't read %s", PATIENT)
    warnings.showwarning(PATIENT, UserWarning, __file__, 1)
    assert [(line["event"], line["library"]) for line in lines(stream)] == [
        ("a library complains", "some.library"),
        ("a library complains", "py.warnings"),
    ]
    assert PATIENT not in stream.getvalue()
    assert capsys.readouterr() == ("", "")


def test_a_log_that_can_not_be_written_stops_nothing() -> None:
    with contextlib.suppress(OSError), Path("/dev/full").open("w", encoding="utf-8", buffering=1) as full:
        configured(full)
        log.info("lost")
    log.info("lost as well: the stream is closed")


def test_a_terminal_of_another_alphabet() -> None:
    buffer = io.BytesIO()
    with io.TextIOWrapper(buffer, encoding="latin1") as stream:
        configured(stream, format="console")
        log.info("held", reason="señal → perdida")
        stream.flush()
        assert "señal".encode("latin1") in buffer.getvalue()
