"""Source and wheel hold all that they should, and the wheel can be installed alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.install.bare import ROOT, Bare, wheels_for

FOLDER = "debian-12"
_BUILD = "import sys; from setuptools import build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"


def _tracked() -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source's archive, and the wheel that is built from it."""
    work = tmp_path_factory.mktemp("built")
    for name in _tracked():
        (work / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, work / "checkout" / name)
    sdist = _build(work, "build_sdist", work / "checkout")
    with tarfile.open(sdist) as archive:
        archive.extractall(work / "unpacked", filter="data")
    (source,) = (work / "unpacked").iterdir()
    return sdist, _build(work, "build_wheel", source)


def _build(work: Path, what: str, source: Path) -> Path:
    answer = subprocess.run(
        [sys.executable, "-c", _BUILD, what, str(work)],
        cwd=source,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    return work / answer.stdout.splitlines()[-1]


def test_the_source_is_whole(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert _tracked() - names == set()


def test_the_wheel_has_all_that_runs(built: tuple[Path, Path]) -> None:
    names = set(zipfile.ZipFile(built[1]).namelist())
    tracked = _tracked()
    wanted = {name for name in tracked if name.startswith("cdc_indexer/")}
    central = "extras/central/"
    wanted |= {name.removeprefix(central) for name in tracked if name.startswith(f"{central}central_index/")}
    wanted |= {
        f"cdc_indexer/sql/{name}"
        for name in ("add_indexer.sql", "add_indexer_arc5.sql", "remove_indexer.sql")
    }
    assert wanted - names == set()
    # Nor anything that is not for who installs it.
    assert {name.partition("/")[0] for name in names if ".d" not in name} <= {"cdc_indexer", "central_index"}
    data = {name.partition(".data/data/")[2] for name in names if ".data/data/" in name}
    assert {"share/cdc-indexer/cdc-indexer.service", "share/central-index/central-index.service"} <= data
    # What the document of the region speaks of.
    linked = re.findall(r"\(\.\./extras/central/([\w.-]+)\)", (ROOT / "docs/region.md").read_text())
    assert len(linked) == 2
    assert {f"share/central-index/{name}" for name in linked} <= data


@pytest.mark.soak
def test_pipx_installs_the_wheel(built: tuple[Path, Path]) -> None:
    with Bare.of(FOLDER, wheels_for(FOLDER)) as bare:
        bare.check_out()
        wheel = bare.root / "root" / built[1].name
        shutil.copy(built[1], wheel)
        env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/mnt/wheels", "PIPX_BIN_DIR": "/usr/local/bin"}
        bare.run(
            "python3 -m venv /tmp/pipx\n/tmp/pipx/bin/pip install --quiet pipx\n"
            f"/tmp/pipx/bin/pipx install /root/{built[1].name}",
            env=env,
        )
        for options, name in (
            ("", "add_indexer"),
            ("--arc5", "add_indexer_arc5"),
            ("--remove", "remove_indexer"),
        ):
            assert bare.run(f"cdc-indexer sql {options}") == (ROOT / f"extras/{name}.sql").read_text()
        # The page, with the database out of reach.
        settings = json.loads((ROOT / "debian/config.json").read_text())
        settings["database"]["host"] = "127.0.0.1"
        settings["webservice_url"] = "http://127.0.0.1:1/"
        (bare.root / "root/config.json").write_text(json.dumps(settings))
        (bare.root / "root/server.json").write_text('{"server": "000"}')
        bare.run("cd /root; setsid cdc-indexer run < /dev/null > /var/log/run.log 2>&1 &")
        code = "import sys, urllib.request as u; print(u.urlopen('http://127.0.0.1:9108' + sys.argv[1]).read().decode())"
        get = f'python3 -c "{code}"'
        page = bare.run(f"for _ in $(seq 100); do {get} / 2> /dev/null && exit; sleep 0.1; done; exit 1")
        parts = re.findall(r'"(/static/[^"]*)"', page)
        assert len(parts) >= 3, page
        for part in parts:
            assert bare.run(f"{get} '{part}'").strip()
