"""Every block of both READMEs is typed, in its order, as root of a bare Debian with a database, until the program is gone.

What the reader is told to fill in is filled in (the password, the key, the address, instead of the dots). A reader without
an index follows the link to its section first, and so does the test. The English README meets a DCM4CHEE 2.x, the Spanish
one a dcm4chee-arc 5; that both have the same blocks is for tests/unit/test_readme.py. Behind the mark `soak`: it takes a
minute or two, a Debian of its own, and Debian's mirror for what the README installs.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from dataclasses import dataclass

import pytest

from tests.install.bare import CHECKOUT, ROOT, Bare, Failed, wheels_for

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

FOLDER = "debian-12"
PASSWORD = "a-password-of-our-own"
#: The README has 000 in its place.
CENTRE = "101"
READERS_PASSWORD = "a-readers-password"
ADDRESS = "http://127.0.0.1:8080/api/v1/register"
MY_CNF = "etc/mysql/mariadb.conf.d/99-cdc-indexer.cnf"

#: What stands in the archive, without strict mode: columns that aren't named get what MySQL takes for their default.
_PEOPLE = {
    "2.x": "INSERT INTO patient (pat_id, pat_name) VALUES ('26267267-K', 'PEÑA^JOSÉ')",
    "arc5": "INSERT INTO person_name (alphabetic_name) VALUES ('PEÑA^JOSÉ'); INSERT INTO patient (pat_name_fk) VALUES (1);"
    " INSERT INTO patient_id (pat_id, patient_fk) VALUES ('26267267-K', 1)",
}
_STUDY = {
    "2.x": "INSERT INTO study (patient_fk, study_iuid, study_datetime) VALUES (1, '{}', '2026-03-01 09:30:00')",
    "arc5": "INSERT INTO study (patient_fk, study_iuid, study_date, study_time) VALUES (1, '{}', '20260301', '093000')",
}
_SCHEMA = {"2.x": "dcm4chee2.sql", "arc5": "dcm4chee_arc5.sql"}


@dataclass(frozen=True)
class Block:
    section: str
    language: str
    text: str


def blocks(readme: str) -> list[Block]:
    """All that have a language; one without is a drawing."""
    section, found = "", []
    for match in re.finditer(r"^## ([^\n]*)$|^```(\w*)\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL):
        if match[1] is not None:
            section = match[1]
        elif match[2]:
            found.append(Block(section, match[2], match[3]))
    return found


class Machine:
    """A bare system with an archive in it, and somebody who types."""

    def __init__(self, bare: Bare, archive: str) -> None:
        self.bare = bare
        self._archive = archive
        self._studies = 0
        #: Where the last command was typed.
        self.cwd = CHECKOUT

    def type(self, text: str, answers: str = "") -> str:
        """Shell. What the directory is at its end is for the next."""
        env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/mnt/wheels", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        said = self.bare.run(f"{text}\npwd > /run/cwd", cwd=self.cwd, text=answers, env=env)
        self.cwd = (self.bare.root / "run/cwd").read_text().strip()
        return said

    def type_until_it_works(self, text: str) -> None:
        """What is said to take some seconds."""
        deadline = time.monotonic() + 60
        while True:
            try:
                self.type(text)
            except Failed:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
            else:
                return

    def mysql(self, text: str, database: str = "") -> str:
        return self.bare.run(f"mysql {database}", text=text)

    def start_database(self) -> None:
        self.bare.run(
            "install -d -o mysql /run/mysqld\n"
            "setsid mariadbd --user=mysql --pid-file=/run/mysqld/mysqld.pid --socket=/run/mysqld/mysqld.sock"
            " < /dev/null > /var/log/mariadbd.log 2>&1 &\n"
            "for _ in $(seq 300); do ! mysql -e 'SELECT 1' > /dev/null 2>&1 || exit 0; sleep 0.05; done\n"
            "tail /var/log/mariadbd.log; exit 1"
        )

    def stop_database(self) -> None:
        self.bare.run(
            "kill $(cat /run/mysqld/mysqld.pid)\nwhile [ -e /run/mysqld/mysqld.pid ]; do sleep 0.05; done"
        )

    def make_archive(self) -> None:
        """As it was before anybody thought of an index; its account comes from any machine."""
        self.bare.run(
            "useradd --system mysql\nmariadb-install-db --user=mysql --skip-test-db > /dev/null\n"
            "printf '[client]\\nsocket = /run/mysqld/mysqld.sock\\ndefault-character-set = utf8mb4\\n' > /root/.my.cnf"
        )
        self.start_database()
        schema = (ROOT / "tests/schemas" / _SCHEMA[self._archive]).read_text()
        self.mysql(
            "DROP USER IF EXISTS ''@'localhost', ''@'bare', ''@'vm'; CREATE DATABASE pacsdb CHARACTER SET latin1;"
            " CREATE USER 'pacs'@'%' IDENTIFIED BY 'pacs'; GRANT ALL ON pacsdb.* TO 'pacs'@'%'; USE pacsdb;"
            f"{schema}; SET sql_mode = ''; {_PEOPLE[self._archive]};"
        )
        self.store(20)

    def store(self, count: int = 1) -> None:
        """The archive stores studies."""
        numbers = range(self._studies, self._studies + count)
        self._studies += count
        statements = ";".join(_STUDY[self._archive].format(f"1.2.3.{number}") for number in numbers)
        self.bare.run(
            "mysql --user=pacs --password=pacs --host=127.0.0.1 pacsdb",
            text=f"SET sql_mode = '';{statements};",
        )

    def await_arrival(self) -> None:
        """All that the archive holds is in the central index."""
        deadline = time.monotonic() + 60
        while (arrived := self._arrived()) != self._studies:
            if time.monotonic() > deadline:
                log = (self.bare.root / "var/log/cdc-indexer.log").read_text()[-3000:]
                pytest.fail(f"{arrived} of {self._studies} have arrived\n{log}")
            time.sleep(0.1)

    def _arrived(self) -> int:
        code = (
            "import sqlite3; db = sqlite3.connect('/var/lib/central-index/central.sqlite');"
            "print(db.execute('SELECT COUNT(*) FROM studies WHERE study_iuid LIKE \\'1.2.3.%\\'').fetchone()[0])"
        )
        return int(self.bare.run(f'python3 -c "{code}"'))

    def mode(self, path: str) -> str:
        return self.bare.run(f"stat -c '%a %U:%G' {path}").strip()


class Page:
    """The blocks that are still to be typed."""

    def __init__(self, found: list[Block]) -> None:
        self.left = found

    def next(self, language: str, word: str) -> str:
        """The next block: in this language, and with this word in it."""
        block = self.left.pop(0)
        assert block.language == language and word in block.text, block
        return block.text

    def take_section(self, word: str) -> Page:
        """A section that is typed sooner than it stands there."""
        taken = [block for block in self.left if word in block.section]
        self.left = [block for block in self.left if word not in block.section]
        return Page(taken)


@pytest.mark.parametrize(
    ("name", "archive", "central"),
    [
        pytest.param("README.md", "2.x", "A central index", id="english"),
        pytest.param("README.es.md", "arc5", "Un índice central", id="spanish"),
    ],
)
def test_who_types_every_block_gets_a_service_that_works(name: str, archive: str, central: str) -> None:
    page = Page(blocks((ROOT / name).read_text()))
    with Bare.of(FOLDER, wheels_for(FOLDER)) as bare:
        bare.check_out()
        machine = Machine(bare, archive)
        machine.make_archive()
        # The first is for the tests themselves: tests/demo starts the demo.
        assert page.next("sh", "make demo").splitlines()[1].startswith("make test ")
        key = _region(machine, page.take_section(central))
        _install(machine, page, archive, key)
        _document(machine, page, key)
        for command in page.next("sh", "reconcile").splitlines():
            _type_as_the_service(machine, command)
        _away(machine, page)
        assert page.left == []


def _region(machine: Machine, page: Page) -> str:
    """The central index runs; the key of our centre."""
    machine.type(page.next("sh", "central-index/bin/pip install"))
    said = machine.type(
        page.next("sh", "centre add").replace("000", CENTRE), answers=f"{READERS_PASSWORD}\n" * 2
    )
    assert machine.mode("/etc/central-index/keys.json") == "640 root:central-index"
    assert page.left == []
    (key,) = re.findall(r"^\S{40,}$", said, re.MULTILINE)
    return str(key)


def _install(machine: Machine, page: Page, archive: str, key: str) -> None:
    machine.cwd = CHECKOUT
    assert page.next("sh", "git clone").splitlines()[-1] == "cd cdc_indexer"  # bare.check_out() has done that
    page.next("sh", "make deb")  # the other way, for tests/install/test_deb.py
    by_hand = page.next("sh", "python3 -m venv")
    machine.type(by_hand)
    for word, kind in (
        ("cdc-indexer sql | mysql", "2.x"),
        ("sql --arc5", "arc5"),
        ("@indexer_definer", "2.x"),
    ):
        block = page.next("sh", word)
        if kind == archive:
            assert "is installed in pacsdb" in machine.type(block)
    # With the account of this archive, and, as the comment says, the option for the other one.
    named = page.next("sh", "sql --definer 'dcm4chee@%'").replace("dcm4chee@%", "pacs@%")
    if archive == "arc5":
        named = named.replace("--definer", "--arc5 --definer")
    assert "is installed in pacsdb" in machine.type(named)
    machine.mysql(page.next("sql", "CREATE USER").replace("'...'", f"'{PASSWORD}'"))
    (machine.bare.root / MY_CNF).write_text(page.next("ini", "log_bin"))
    machine.stop_database()
    machine.start_database()
    machine.type(page.next("sh", "chmod 640"))
    settings = json.loads(page.next("json", "webservice_url"))
    settings["database"]["password"] = PASSWORD
    settings.update(key=key, webservice_url=ADDRESS)
    etc = machine.bare.root / "etc/cdc-indexer"
    (etc / "config.json").write_text(json.dumps(settings))
    (etc / "server.json").write_text(page.next("json", '"server"').replace("000", CENTRE))
    assert machine.mode("/etc/cdc-indexer/config.json") == "640 root:cdc-indexer"
    for warnings, block in ((1, page.next("sh", "cdc-indexer check")), (0, page.next("sh", "--admin root"))):
        said = machine.type(block, answers="\n")
        # What is perfect looks perfect.
        assert len(re.findall(r"^(?:warning|failed) ", said, re.MULTILINE)) == warnings, said
    assert machine.bare.run("systemd-analyze verify --man=no cdc-indexer.service central-index.service") == ""
    machine.type(page.next("sh", "systemctl enable --now"))
    machine.await_arrival()
    machine.type_until_it_works(page.next("sh", "cdc-indexer status"))
    machine.store()
    machine.await_arrival()
    assert machine.mode("/var/lib/cdc-indexer/state.sqlite") == "600 cdc-indexer:cdc-indexer"
    machine.type(page.next("sh", "_CDC_INDEXER_COMPLETE"))
    completed = machine.bare.run(
        "source /etc/bash_completion.d/cdc-indexer\nCOMP_WORDS=(cdc-indexer in) COMP_CWORD=1\n"
        '_cdc_indexer_completion cdc-indexer\necho "${COMPREPLY[@]}"'
    )
    assert completed.strip() == "initial"
    _keep(machine, page, by_hand)


def _keep(machine: Machine, page: Page, by_hand: str) -> None:
    """An upgrade, a backup, a restored one, another machine."""
    machine.cwd = CHECKOUT
    machine.type(page.next("sh", "--upgrade"))
    machine.store()
    machine.await_arrival()
    machine.type(page.next("sh", "systemctl stop"))
    machine.store()
    machine.await_arrival()
    # The state of before the last study.
    machine.type(page.next("sh", "tar -C / -xpf"))
    machine.store()
    machine.await_arrival()
    machine.type(page.next("sh", "disable --now"))
    machine.store()
    # A machine on which another account has the number of the old one.
    machine.bare.run(
        "rm -rf /etc/cdc-indexer /var/lib/cdc-indexer /etc/systemd/system/cdc-indexer.service\n"
        "userdel cdc-indexer\nuseradd --system somebody-else"
    )
    machine.cwd = CHECKOUT
    machine.type(
        "\n".join(line for line in by_hand.splitlines() if line.split()[0] in ("useradd", "install", "cp"))
    )
    machine.type(page.next("sh", "chown -R"))
    machine.await_arrival()
    machine.cwd = "/etc/cdc-indexer"
    machine.type_until_it_works("runuser -u cdc-indexer -- cdc-indexer status")
    assert machine.mode("/etc/cdc-indexer/config.json") == "640 root:cdc-indexer"
    assert machine.mode("/var/lib/cdc-indexer") == "700 cdc-indexer:cdc-indexer"


def _document(machine: Machine, page: Page, key: str) -> None:
    """The JSON is one that an index takes."""
    document = page.next("json", "patient_pk").replace('"000"', f'"{CENTRE}"')
    code = (
        "import sys, urllib.request as u; print(u.urlopen(u.Request(sys.argv[1], sys.stdin.buffer.read(),"
        " {'X-Api-Key': sys.argv[2], 'Content-Type': 'application/json'})).status)"
    )
    assert machine.bare.run(f'python3 -c "{code}" {ADDRESS} {key}', text=document).strip() == "201"


def _type_as_the_service(machine: Machine, command: str) -> None:
    # As step 6 says it. 1: something differs, as the document of before does.
    machine.cwd = "/etc/cdc-indexer"
    with contextlib.suppress(Failed):
        machine.type(f"runuser -u cdc-indexer -- {command}")


def _away(machine: Machine, page: Page) -> None:
    machine.cwd = CHECKOUT
    machine.type(page.next("sh", "sql --remove"))
    machine.mysql(page.next("sql", "DROP USER"))
    machine.store()  # the archive goes on
    machine.type(page.next("sh", "99-cdc-indexer.cnf"))
    left = machine.bare.run(
        "find / -xdev -name '*cdc?indexer*' -not -path '/root/*' -not -path '/mnt/*' -not -path '/opt/central-index/*'"
    )
    # The log is systemctl.py's.
    assert left.split() == ["/var/log/cdc-indexer.log"]
    assert "indexer" not in machine.mysql("SHOW TABLES; SHOW TRIGGERS; SHOW EVENTS", "pacsdb")
