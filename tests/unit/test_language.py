"""English and Spanish: every sentence that a user can see has both."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from cdc_indexer.cli import cli
from cdc_indexer.model.finding import Finding, Status
from cdc_indexer.monitor.causes import Cause, parked_problem
from cdc_indexer.monitor.findings import as_json
from cdc_indexer.monitor.language import by_locale, catalogue, say
from tests.sentences import sentences

PACKAGE = Path(__file__).resolve().parent.parent.parent / "cdc_indexer"

#: All that these say is shown to users; of the other modules, what is raised.
SHOWN = (
    *sorted((PACKAGE / "checks").glob("*.py")),
    *(
        PACKAGE / name
        for name in (
            "cli/__init__.py",
            "cli/hand.py",
            "cli/help.py",
            "cli/parked.py",
            "cli/reconcile.py",
            "delivery/_meaning.py",
            "delivery/probe.py",
            "delivery/webservice.py",
            "flow/gate.py",
            "jobs/pausing.py",
            "jobs/silence.py",
            "jobs/sweep.py",
            "jobs/sweeper.py",
            "jobs/triggers.py",
            "model/_kinds.py",
            "model/_sources.py",
            "model/alert_settings.py",
            "model/finding.py",
            "model/settings.py",
            "model/unfinished.py",
            "monitor/causes.py",
            "monitor/findings.py",
            "monitor/health.py",
            "monitor/messengers.py",
            "monitor/offline.py",
            "monitor/status.py",
            "source/errors.py",
            "source/outbox.py",
        )
    ),
)

#: What is compared with a server's text, goes to the log, is pasted, or is no sentence.
NOT_SHOWN = {
    "<!doctype html",
    "All of them.",  # a help text
    "bold red",
    "binary log is not open",
    "chmod 640 {}",
    "chmod go-w {}",
    "chown root:{} {}",
    'echo "whsec_$(openssl rand -base64 32)"',
    "id IN ({}) ORDER BY recorded_at, id",
    "read again",
    "same server_id",
    "same server_uuid",
    "server id was not set",
    "server_id was not set",
    "the daily comparison",
    "the last one was interrupted",
    "the ledger isn't believed",
    "the ledger was damaged",
    "the triggers didn't record for a while",
    "there is no binary log",
    "timed out",
    "timedatectl set-ntp true",
    "unexpected error",
    "webservice_url is another one",
    "{} ORDER BY recorded_at, id LIMIT %s",
}
#: Of modules that check what is on the disk or comes by the wire: caught, and told in another sentence.
INSIDE = re.compile(
    r"an interval can't end|settled is not an object|it went$|a row (doesn't|can't|was)|rows came for|the columns that the "
    r"outbox|a digest has|'@'"
)


def has_spanish(sentence: str) -> bool:
    """By itself, or as the beginning or the end of a longer one."""
    found = catalogue()
    forms = (sentence, f"{sentence}.", f"{sentence} {{}}", f"{sentence}{{}}", sentence.rstrip(":"))
    if any(form in found for form in forms):
        return True
    # A part of a sentence that is put together of several.
    plain = re.sub(r"\{\{|\}\}", lambda match: match.group()[0], sentence)
    return any(plain.lower() in english.lower() for english in found if len(english) > len(plain))


@pytest.mark.parametrize("path", SHOWN, ids=[str(path.relative_to(PACKAGE)) for path in SHOWN])
def test_every_sentence_has_a_spanish_one(path: Path) -> None:
    missing = sorted(
        one for one in sentences(path) - NOT_SHOWN if not INSIDE.match(one) and not has_spanish(one)
    )
    assert missing == []


def test_every_error_has_a_spanish_sentence() -> None:
    missing = {
        f"{path.name}: {one}"
        for path in PACKAGE.rglob("*.py")
        for one in sentences(path, errors_only=True) - NOT_SHOWN
        if not INSIDE.match(one) and not has_spanish(one)
    }
    assert missing == set()


def test_the_catalogue_is_whole() -> None:
    text = (PACKAGE / "monitor/locale/es.po").read_text()
    assert len(catalogue()) == len(re.findall(r"^msgid \"(?!\")", text, re.MULTILINE)), "an entry isn't read"
    for english, spanish in catalogue().items():
        assert spanish.count("{}") == english.count("{}"), english
        assert "log binario" not in spanish, "one word for one thing: registro binario"
        # What is typed stays as it is.
        assert sorted(re.findall(r"`[^`]+`", spanish)) == sorted(re.findall(r"`[^`]+`", english)), english
        for name in re.findall(r"\b[a-z]+_[a-z_]+\b", english):
            assert name in spanish, english


@pytest.mark.parametrize(
    ("english", "spanish"),
    [
        (
            "The database at db:3306 refuses user 'indexer', which comes from 10.0.0.7, without a password: correct "
            "database.user and database.password, or the host that the account may come from.",
            "La base de datos de db:3306 rechaza al usuario 'indexer', que viene de 10.0.0.7, sin contraseña: corrija "
            "database.user y database.password, o el equipo desde el que puede venir la cuenta.",
        ),
        # As `check` parts it, and with what is pasted below.
        ("Is it running?", "¿Está en marcha?"),
        (
            "As an administrator:\nGRANT SELECT ON `pacsdb`.study_service TO 'indexer'@'localhost';",
            "Como administrador:\nGRANT SELECT ON `pacsdb`.study_service TO 'indexer'@'localhost';",
        ),
        ("Not judged yet: `grants` comes first.", "Aún no se puede juzgar: antes va `permisos`."),
        # The name of a setting is no word.
        ("/etc/x/config.json: key is missing.", "/etc/x/config.json: key no está."),
        (
            "delivery.concurrency (environment variable X) must be at least 1.",
            "delivery.concurrency (variable de entorno X) debe ser al menos 1.",
        ),
        (
            "It is whole. Last written at 2026-01-01 10:00 +00:00.",
            "Está completo. Escrito por última vez el 2026-01-01 10:00 +00:00.",
        ),
        ("An unknown sentence. Free some space.", "An unknown sentence. Libere espacio."),
    ],
)
def test_sentences_with_values(english: str, spanish: str) -> None:
    assert say(english, "es") == spanish
    assert say(english, "en") == english


def test_problems_that_are_put_together() -> None:
    for count in (1, 2):
        said = say(parked_problem(count, None).message, "es")
        assert f"{count} estudio" in said
        assert "parked," not in said
    assert {cause.value for cause in Cause}  # each has its own text on the page: tests/monitor/test_page.py


def test_the_regions_page_has_words_for_each_cause() -> None:
    texts = (PACKAGE.parent / "extras/central/central_index/static/texts.js").read_text()
    for words in re.findall(r"^    causes: \{\n(.*?)\n    \},$", texts, re.MULTILINE | re.DOTALL):
        assert sorted(re.findall(r'(\w+): "', words)) == sorted(cause.value for cause in Cause)
    assert texts.count("    causes: {") == 2


def test_the_locale() -> None:
    assert by_locale({}) == "en"
    assert by_locale({"LANG": "es_CL.UTF-8"}) == "es"
    assert by_locale({"LANG": "es_CL.UTF-8", "LC_ALL": "C"}) == "en"
    assert by_locale({"LANG": "C.UTF-8", "LC_MESSAGES": "es_ES"}) == "es"


def test_json_is_for_programs() -> None:
    finding = Finding("key", Status.FAILED, "Free some space.", "Free some space.")
    shown = json.loads(as_json([finding], "es"))[0]
    assert (shown["name"], shown["status"], shown["message"]) == ("key", "failed", "Libere espacio.")


def test_every_help_text_has_a_spanish_one() -> None:
    missing = set()
    commands: list[click.Command] = [cli]
    while commands:
        command = commands.pop()
        texts = [option.help or "" for option in command.params if isinstance(option, click.Option)]
        texts += [" ".join(part.split()) for part in (command.help or "").split("\n\n")]
        missing |= {text for text in texts if text and text not in catalogue()}
        assert any("--lang" in option.opts for option in command.params), command.name
        if isinstance(command, click.Group):
            commands += command.commands.values()
    assert missing == set()


@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        ([], "Uso: cdc-indexer", 2),
        (["--help"], "Muestra este mensaje y termina.", 0),
        (["initial", "-h"], "Opciones:\n  --since DATE      Solo estudios de este día", 0),
        (["--help", "--lang", "en"], "Show this message and exit.", 0),
        (["parked"], "Uso: cdc-indexer parked [OPTIONS] COMMAND", 2),
        (["initial", "--rate", "x"], "Valor no válido para '--rate': 'x' no es un número.", 2),
    ],
)
def test_help_and_what_is_said_of_a_misuse(arguments: list[str], said: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cdc_indexer", *arguments],
        env={"LANG": "es_CL.UTF-8", "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode in (
        status,
        0 if not arguments[1:] else status,
    )  # click 8.1 takes a bare group for --help
    assert said in done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("Usage: " if "en" in arguments else "Uso: ") == 1


MISSING = {
    "en": "The file {}/config.json isn't there: go to the directory that has it, such as /etc/cdc-indexer, or name it with "
    "`--config FILE`.",
    "es": "El archivo {}/config.json no existe: vaya al directorio que lo tiene, por ejemplo /etc/cdc-indexer, o "
    "indíquelo con `--config FILE`.",
}


@pytest.mark.parametrize(
    ("arguments", "locale", "said"),
    [
        (["status"], "es_CL.UTF-8", MISSING["es"]),
        (["--lang", "es", "status"], "C", MISSING["es"]),
        (["check", "--lang", "es"], "C", MISSING["es"]),
        (["parked", "list", "--lang", "en"], "es_CL.UTF-8", MISSING["en"]),
    ],
)
def test_the_commands(arguments: list[str], locale: str, said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cdc_indexer", *arguments],
        cwd=tmp_path,
        env={"LANG": locale, "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == f"cdc-indexer: {said.format(tmp_path)}\n"
