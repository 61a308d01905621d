"""Makes the scripts in extras/ out of the parts in extras/sql/parts: `python -m extras.sql`.

In the scripts' own files here a line ``-- %include NAME`` stands for a part; ``-- %triggers NAME`` for one with triggers,
and what gives these to the archive's account; ``-- %compared NAME`` for triggers that some versions of the archive have
instead of others. In the parts:

``{{now}}``              the time of a row (procedures.sql says why)
``{{record OP, PK, UID}}``  leaves a row that says what happened to which study, without its other values
``{{ours and root}}``    the accounts that are never the archive's own
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
SCRIPTS = ("add_indexer.sql", "add_indexer_arc5.sql")

#: MySQL takes no account's name from a variable when it makes a trigger. For these the triggers are in the file as well.
_USUAL_ACCOUNTS = ("'pacs'@'%'", "'pacs'@'localhost'")

_OURS_AND_ROOT = (
    "'indexer', 'indexer_definer', 'indexer_trigger', 'root', 'mysql', 'debian-sys-maint', 'rdsadmin',\n"
    "        'mariadb.sys', 'mysql.sys', 'mysql.session', 'mysql.infoschema'"
)

_NOW = (
    "UTC_TIMESTAMP(6) + INTERVAL GREATEST(0, LEAST(TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)),\n"
    "  CAST((UNIX_TIMESTAMP(SYSDATE(6)) - UNIX_TIMESTAMP(NOW(6))) * 1000000 AS SIGNED))) MICROSECOND"
)

_INSERT = """\
INSERT INTO study_service (id, operation, patient_pk, patient_id, patient_name, study_pk, study_iuid, study_datetime,
    study_description, study_modality, study_series, study_instances, accession_no, patient_id_issuer, recorded_at)
  VALUES ({id}, {operation}, NULL, NULL, NULL, {pk}, {uid}, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    {now});"""
#: A number that is taken becomes another one, beyond all that the server gives (procedures.sql says why).
_OTHER_ID = "(UUID_SHORT() & 0xFF00000000FFFFFF) | ((FLOOR(RAND() * 0x80000000) | 0x80000000) << 24)"


def made(name: str) -> str:
    """The text of a script, as it is to be in extras/."""
    return _filled(
        re.sub(
            r"^-- %(include|triggers|compared) (\S+)$",
            _part,
            (_HERE / name).read_text(),
            flags=re.MULTILINE,
        )
    )


def _part(found: re.Match[str]) -> str:
    text = (_HERE / "parts" / found[2]).read_text().rstrip("\n")
    if "-- %mariadb" in text:
        text = text.replace("-- %mariadb", _for_mariadb(text))
    if found[1] == "triggers":
        row = (_HERE / "parts/row_trigger.sql").read_text()
        return _named(text + "\n" + _for_mariadb(row + text), row)
    if found[1] == "compared":
        return _compared(text)
    return text


def _named(text: str, row: str) -> str:
    """A part with triggers, and what gives these, and the one of the part ``row``, to the usual account on MySQL."""
    names = re.findall(r"^CREATE DEFINER = CURRENT_USER TRIGGER (\w+)", text + row, re.MULTILINE)
    drops = "\n".join(f"    DROP TRIGGER IF EXISTS {name};" for name in names)
    literal = "\n".join(_for_mysql(account, row + text) for account in _USUAL_ACCOUNTS)
    return f"""{text}

-- MySQL takes no account's name from a variable: the same once more for the archive's usual account. Nothing new to read.
SET @indexer_named = NULL;
/*!80029 SET @indexer_named = @indexer_account */;
DROP PROCEDURE IF EXISTS indexer_install_named;
DELIMITER //
CREATE PROCEDURE indexer_install_named(IN account VARCHAR(80) CHARACTER SET utf8mb4)
BEGIN
  IF @indexer_named = account THEN
{drops}
  END IF;
END//
DELIMITER ;
{literal}
DROP PROCEDURE indexer_install_named;"""


def _for_mysql(account: str, text: str, procedure: str = "indexer_install_named") -> str:
    """The triggers for one account, made only where the procedure has dropped those that are there."""
    quoted = account.replace("'", "''")
    lines = [f"CALL {procedure}('{quoted}');", "DELIMITER //"]
    for statement in _statements(text):
        made_once = statement.replace(
            "DEFINER = CURRENT_USER TRIGGER", f"DEFINER = {account} TRIGGER IF NOT EXISTS", 1
        )
        lines.append(f"/*!80029 {made_once} */ //")
    return "\n".join([*lines, "DELIMITER ;"])


def _for_mariadb(text: str) -> str:
    """The triggers once more, for whatever account: MariaDB takes the whole statement from an expression."""
    lines = [
        "-- MariaDB 10.6.2 and later: the same for the archive's account, whatever its name. Nothing new to read.",
        "DELIMITER //",
    ]
    for statement in _statements(text):
        quoted = statement.replace("'", "''").partition("DEFINER = CURRENT_USER")[2]
        lines.append(
            "/*M!100602 EXECUTE IMMEDIATE IF(@indexer_account = @indexer_runs_as, 'DO 0',\n"
            f"CONCAT('CREATE OR REPLACE DEFINER = ', @indexer_account,\n'{quoted}')) */ //"
        )
    return "\n".join([*lines, "DELIMITER ;"])


def _statements(text: str) -> list[str]:
    """Each CREATE TRIGGER of a part, without comments."""
    found = re.findall(
        r"^CREATE DEFINER = CURRENT_USER TRIGGER .*?^END(?=//$)", text, re.MULTILINE | re.DOTALL
    )
    return [
        "\n".join(line for line in statement.splitlines() if not line.lstrip().startswith("--"))
        for statement in found
    ]


def _compared(text: str) -> str:
    """Triggers that name columns which only some versions of the archive have; made in place of others if those are there.

    MariaDB makes them from a text; MySQL passes over IF NOT EXISTS before it looks at the columns.
    """
    names = re.findall(r"^CREATE DEFINER = CURRENT_USER TRIGGER (\w+)", text, re.MULTILINE)
    drops = "\n".join(f"    DROP TRIGGER IF EXISTS {name};" for name in names)
    prepared = ""
    for statement in _statements(text):
        quoted = statement.replace("'", "''").partition("DEFINER = CURRENT_USER")[2]
        prepared += (
            f"    SET @indexer_sql = CONCAT('CREATE OR REPLACE DEFINER = ', @indexer_account,\n'{quoted}');\n"
            "    PREPARE indexer_statement FROM @indexer_sql;\n"
            "    EXECUTE indexer_statement;\n"
            "    DEALLOCATE PREPARE indexer_statement;\n"
        )
    accounts = ("CURRENT_USER", *_USUAL_ACCOUNTS)
    literal = "\n".join(_for_mysql(account, text, "indexer_install_compared") for account in accounts)
    usual = ", ".join("'" + account.replace("'", "''") + "'" for account in _USUAL_ACCOUNTS)
    return f"""DROP PROCEDURE IF EXISTS indexer_install_compared;
DELIMITER //
CREATE PROCEDURE indexer_install_compared(IN account VARCHAR(80) CHARACTER SET utf8mb4)
BEGIN
  IF NOT @indexer_compares THEN
    SET @indexer_sql = NULL;
  ELSEIF @indexer_dynamic THEN
    IF account = 'CURRENT_USER' THEN
{prepared.rstrip()}
    END IF;
  ELSEIF account = IF(@indexer_named IN ({usual}), @indexer_named, IF(@indexer_named IS NULL, '', 'CURRENT_USER')) THEN
{drops}
  END IF;
END//
DELIMITER ;
{literal}
DROP PROCEDURE indexer_install_compared;"""


def _filled(text: str) -> str:
    text = re.sub(r"^( *)\{\{record (.+?), (.+?), (.+?)\}\}$", _record, text, flags=re.MULTILINE)
    text = re.sub(r"^( *)(.*)\{\{now\}\}", lambda found: _indented(found, _NOW), text, flags=re.MULTILINE)
    return re.sub(
        r"^( *)(.*)\{\{ours and root\}\}",
        lambda found: _indented(found, _OURS_AND_ROOT),
        text,
        flags=re.MULTILINE,
    )


def _indented(found: re.Match[str], value: str) -> str:
    """A value of several lines, as deep as the line in which it stands."""
    return found[1] + found[2] + value.replace("\n", f"\n{found[1]}")


def _record(found: re.Match[str]) -> str:
    indent, operation, pk, uid = found.groups()
    values = {"operation": operation, "pk": pk, "uid": uid, "now": "{{now}}"}
    other = _INSERT.format(id=_OTHER_ID, **values)
    text = "\n".join(
        (
            "BEGIN",
            "  DECLARE CONTINUE HANDLER FOR 1062",
            *(f"    {line}" for line in other.splitlines()),
            *(f"  {line}" for line in _INSERT.format(id="UUID_SHORT()", **values).splitlines()),
            "END;",
        )
    )
    return "\n".join(indent + line for line in text.splitlines())


if __name__ == "__main__":
    for script in SCRIPTS:
        target = _HERE.parent / script
        if "--check" not in sys.argv:
            target.write_text(made(script))
        elif target.read_text() != made(script):
            sys.exit(f"extras/{script} isn't what its parts make: python -m extras.sql")
