"""The Debian packages: built as the README says, then installed, started, upgraded and purged in bare systems.

It takes minutes, most of them lintian's and the compressor's, so it is behind the mark `soak`: `make test-all`.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.install.bare import CHECKOUT, ROOT, Bare, Failed, wheels_for
from tests.install.test_readme_blocks import blocks

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

#: By the folder in which they are built: each package belongs to the Python of its Debian.
FOLDERS = {"debian-12": "deb12", "debian-13": "deb13"}


@pytest.fixture(scope="module", params=sorted(FOLDERS))
def packages(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """The folder's name, and a directory with dist/*.deb as `make deb` made them on that Debian."""
    folder = str(request.param)
    # Once for all processes of this run: each of them building its own would be most of what `make test-all` does.
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    shared = tmp_path_factory.getbasetemp().parent if run else tmp_path_factory.mktemp(folder)
    kept = shared / f"packages-{run}-{folder}"
    with kept.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.is_dir():
            _build(folder, kept)
    yield folder, kept


def _build(folder: str, kept: Path) -> None:
    (block,) = [one.text for one in blocks((ROOT / "README.md").read_text()) if "make deb" in one.text]
    assert block.splitlines() == ["make deb", "apt install ./dist/cdc-indexer_*.deb"]
    made = kept.with_suffix(".unfinished")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    with Bare.of(folder) as bare:
        bare.check_out()
        # What apt says of a mirror is this machine's; the folder has none that it could reach from here.
        bare.online("apt-get update -qq && apt-get install -qq -y make > /dev/null", cwd=CHECKOUT)
        said = bare.online("make deb", cwd=CHECKOUT)
        for deb in (bare.root / CHECKOUT.lstrip("/") / "dist").glob("*.deb"):
            shutil.copy(deb, made)
        assert not (bare.root / CHECKOUT.lstrip("/") / "build").exists(), "what it was built in is left over"
    assert not re.search(r"^[EW]: ", said, re.MULTILINE), said
    made.rename(kept)


@pytest.fixture
def bare(packages: tuple[str, Path]) -> Iterator[Bare]:
    """A machine on which they lie in dist/, nothing of them installed."""
    with Bare.of(packages[0]) as one:
        (one.root / "root/dist").mkdir()
        for deb in packages[1].glob("*.deb"):
            shutil.copy(deb, one.root / "root/dist")
        one.run("ln -s /root/dist /dist")
        yield one


def test_the_names_say_the_version_and_the_release(packages: tuple[str, Path]) -> None:
    version = re.search(r'"(.*)"', (ROOT / "cdc_indexer/__init__.py").read_text().splitlines()[-1])
    assert version is not None
    names = {path.name.partition("_amd64")[0].partition("_arm64")[0] for path in packages[1].glob("*.deb")}
    suffix = f"{version[1]}+{FOLDERS[packages[0]]}"
    assert names == {f"cdc-indexer_{suffix}", f"central-index_{suffix}"}


def _install(bare: Bare, what: str = "./dist/cdc-indexer_*.deb") -> str:
    return bare.run(f"DEBIAN_FRONTEND=noninteractive apt-get install -y {what}", cwd="/root")


def test_it_is_installed_used_upgraded_and_purged(bare: Bare) -> None:
    said = _install(bare)
    assert "dpkg: error" not in said, said
    _what_is_there(bare)
    _what_it_does(bare)
    _what_an_upgrade_leaves(bare)
    bare.run("apt-get remove -y -q cdc-indexer")
    assert "cdc_indexer" not in bare.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert (bare.root / "etc/cdc-indexer/config.json").exists()
    assert (bare.root / "var/lib/cdc-indexer/kept").exists()
    assert not (bare.root / "usr/lib/cdc-indexer").exists()
    bare.run("apt-get purge -y -q cdc-indexer")
    left = bare.run("find / -xdev -name '*cdc?indexer*' -not -path '/root/*' -not -path '/var/log/*'")
    assert left == ""
    assert "cdc-indexer" not in bare.run("cat /etc/passwd /etc/group")


def _what_is_there(bare: Bare) -> None:
    def modes(*paths: str) -> list[str]:
        return bare.run(f"stat -c '%a %U:%G' {' '.join(paths)}").splitlines()

    etc = "/etc/cdc-indexer"
    assert modes(etc, "/var/lib/cdc-indexer") == ["750 root:cdc-indexer", "700 cdc-indexer:cdc-indexer"]
    assert modes(f"{etc}/config.json", f"{etc}/server.json") == ["640 root:cdc-indexer"] * 2
    assert bare.run("dpkg-query -W -f '${Conffiles}' cdc-indexer").count("/etc/cdc-indexer/") == 2
    for option, name in (("", "add_indexer"), ("--arc5", "add_indexer_arc5"), ("--remove", "remove_indexer")):
        script = (ROOT / f"extras/{name}.sql").read_text()
        assert (bare.root / f"usr/share/cdc-indexer/{name}.sql").read_text() == script
        assert bare.run(f"cdc-indexer sql {option}") == script
    commands = re.findall(r"^  ([a-z]+) ", bare.run("cdc-indexer --help"), re.MULTILINE)
    assert "run" in commands and "initial" in commands
    for command in commands:
        page = bare.run(f"zcat /usr/share/man/man1/cdc-indexer-{command}.1.gz")
        assert page.startswith(f'.TH "CDC-INDEXER {command.upper()}"')
    completed = bare.run(
        "source /usr/share/bash-completion/completions/cdc-indexer\nCOMP_WORDS=(cdc-indexer in) COMP_CWORD=1\n"
        '_cdc_indexer_completion cdc-indexer\necho "${COMPREPLY[@]}"'
    )
    assert completed.strip() == "initial"
    assert "#compdef cdc-indexer" in (bare.root / "usr/share/zsh/vendor-completions/_cdc-indexer").read_text()
    bare.run("systemd-analyze verify --man=no cdc-indexer.service")
    unit = bare.run("cat $(find /usr/lib/systemd /lib/systemd -name cdc-indexer.service | head -1)")
    (named,) = re.findall(r"^Documentation=.*file://(\S+)", unit, re.MULTILINE)
    assert (bare.root / named.lstrip("/") / "README.md").exists()
    # Not before somebody has put in a key; and no byte code is left out, for the service's account may write none.
    assert "cdc-indexer" not in bare.run("ls /etc/systemd/system/multi-user.target.wants 2>/dev/null || true")
    assert not (bare.root / "run/cdc-indexer.pid").exists()
    assert (
        bare.run("ls /usr/lib/cdc-indexer/lib/python3*/site-packages/cdc_indexer/__pycache__ | wc -l")
        != "0\n"
    )


def _what_it_does(bare: Bare) -> None:
    """With what it brings alone; the database is away, which is said, and the page answers."""
    with pytest.raises(Failed, match="connection"):
        bare.run("cd /etc/cdc-indexer && runuser -u cdc-indexer -- cdc-indexer check")
    with pytest.raises(Failed, match="name it with `--config FILE`"):
        bare.run("cdc-indexer status")
    path = bare.root / "etc/cdc-indexer/config.json"
    settings = json.loads(path.read_text())
    settings.update(key="a-key-of-our-own-0123456789", webservice_url="http://127.0.0.1:1/")
    settings["database"].update(host="127.0.0.1", password="a-password-of-our-own")
    path.write_text(json.dumps(settings))
    bare.run("systemctl enable --now cdc-indexer")
    _await_page(bare)


def _await_page(bare: Bare) -> None:
    code = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9108/healthz').status)"
    bare.run(f'for _ in $(seq 100); do python3 -c "{code}" 2>/dev/null && exit; sleep 0.1; done; exit 1')


def _what_an_upgrade_leaves(bare: Bare) -> None:
    """A newer package over this one: what the administrator has set stays, and what ran, runs."""
    (bare.root / "var/lib/cdc-indexer/kept").touch()
    bare.run("chmod 600 /etc/cdc-indexer/server.json; chown cdc-indexer /etc/cdc-indexer/server.json")
    before = (bare.root / "etc/cdc-indexer/config.json").read_text()
    bare.run(
        "dpkg-deb -R dist/cdc-indexer_*.deb new\nsed -i 's/^Version: .*/Version: 999.0+deb/' new/DEBIAN/control\n"
        # Its author has changed the example.
        "sed -i 's/index.example.org/index.example.net/' new/etc/cdc-indexer/config.json\n"
        "dpkg-deb -Znone -b new newer.deb > /dev/null",
        cwd="/root",
    )
    before_pid = (bare.root / "run/cdc-indexer.pid").read_text()
    said = bare.run(
        "DEBIAN_FRONTEND=noninteractive apt-get install -y -o Dpkg::Options::=--force-confold ./newer.deb",
        cwd="/root",
    )
    assert "999.0" in bare.run("dpkg-query -W cdc-indexer"), said
    assert (bare.root / "etc/cdc-indexer/config.json").read_text() == before
    assert bare.run("stat -c '%a %U' /etc/cdc-indexer/server.json").strip() == "600 cdc-indexer"
    assert (bare.root / "var/lib/cdc-indexer/kept").exists()
    assert (bare.root / "run/cdc-indexer.pid").read_text() != before_pid, said
    _await_page(bare)


def test_the_central_index_is_installed_and_purged(bare: Bare) -> None:
    _install(bare, "./dist/central-index_*.deb")
    assert bare.run("stat -c '%a %U:%G' /etc/central-index").strip() == "750 root:central-index"
    bare.run(
        "cd /etc/central-index\ncentral-index --keys keys.json centre add 000\n"
        "chown root:central-index keys.json\nchmod 640 keys.json\nsystemctl enable --now central-index"
    )
    code = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/healthz').status)"
    bare.run(f'for _ in $(seq 100); do python3 -c "{code}" 2>/dev/null && exit; sleep 0.1; done; exit 1')
    bare.run("apt-get purge -y -q central-index")
    # A region's studies are no package's to delete.
    assert (bare.root / "var/lib/central-index/central.sqlite").exists()
    assert not (bare.root / "etc/central-index").exists()


def test_the_units_tests_pass_with_its_python(packages: tuple[str, Path]) -> None:
    """On Debian 12 that is 3.11, on 13 it is 3.13."""
    with Bare.of(packages[0], wheels_for(packages[0])) as bare:
        bare.check_out()
        bare.online(
            "apt-get update -qq && apt-get install -qq -y git > /dev/null\n"
            "python3 -m venv /tmp/venv\n/tmp/venv/bin/pip install --quiet --find-links /mnt/wheels"
            " '.[central]' hypothesis pytest pytest-timeout pytest-xdist schemathesis",
            cwd=CHECKOUT,
        )
        said = bare.run("/tmp/venv/bin/python -m pytest -q -n 2 tests/unit -p no:cacheprovider", cwd=CHECKOUT)
        assert " passed" in said and " failed" not in said, said
