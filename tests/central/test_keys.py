"""The commands that write the file of keys, and what they say of mistakes."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from central_index.keys import Keys, UnusableKeys
from tests.central.conftest import command

VIEWER = "https://pacs.example/viewer?StudyInstanceUIDs={study_iuid}"
PASSWORD = "correct horse battery"
KEY = "a-key-of-the-tests-{}"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    readers = {
        "radiology": KEY.format("radiology"),
        "ana": {
            "keys": [KEY.format("ana")],
            "centers": ["111"],
            "names": "initials",
            "until": "2099-01-01",
            "exports": True,
        },
    }
    centers = {"000": KEY.format("000"), "111": {"keys": [KEY.format("111")], "viewer": VIEWER}}
    path.write_text(json.dumps({"centers": centers, "readers": readers}))
    return path


def run(keys: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    said = f"{PASSWORD}\n{PASSWORD}\n" if arguments[:2] == ("user", "add") else ""
    return command(keys.parent, "--keys", "keys.json", *arguments, said=said)


def entry(keys: Path, name: str) -> dict[str, Any]:
    content = json.loads(keys.read_text())
    found: dict[str, Any] = (content["readers"] | content["centers"])[name]
    return {
        member: value for member, value in found.items() if member not in ("keys", "password", "pseudonyms")
    }


ANA = {"centers": ["111"], "names": "initials", "until": "2099-01-01", "exports": True}


@pytest.mark.parametrize("verb", ["add", "key", "change"])
@pytest.mark.parametrize(
    ("options", "becomes", "said"),
    [
        ([], ANA, "centres 111; initials; until 2099-01-01; CSV"),
        (["--center", "000"], {**ANA, "centers": ["000"]}, "centres 000; initials; until 2099-01-01; CSV"),
        (
            ["--all-centers"],
            {"names": "initials", "until": "2099-01-01", "exports": True},
            "all centres; initials; until 2099-01-01; CSV",
        ),
        (["--names"], {**ANA, "names": "full"}, "centres 111; full names; until 2099-01-01; CSV"),
        (
            ["--no-end"],
            {"centers": ["111"], "names": "initials", "exports": True},
            "centres 111; initials; without an end; CSV",
        ),
        (
            ["--until", "2001-01-01"],
            {**ANA, "until": "2001-01-01"},
            "centres 111; initials; until 2001-01-01, which is over; CSV",
        ),
        (["--no-exports"], {**ANA, "exports": False}, "centres 111; initials; until 2099-01-01; no CSV"),
    ],
)
def test_only_what_is_said_changes(
    keys: Path, verb: str, options: list[str], becomes: dict[str, Any], said: str
) -> None:
    for _ in range(2):
        done = run(keys, "user", verb, "ana", *options)
        assert f"ana may read: {said}.\n" in done.stdout + done.stderr
        assert entry(keys, "ana") == becomes
    assert f"ana: {said}\n" in run(keys, "user", "list").stdout


def test_one_who_is_out_keeps_what_was_said_of_them(keys: Path) -> None:
    assert run(keys, "user", "disable", "ana").returncode == 0
    assert "ana: out\n" in run(keys, "user", "list").stdout
    assert "111" not in run(keys, "user", "list").stdout
    assert entry(keys, "ana") == {**ANA, "disabled": True}
    assert "a-key" not in json.dumps(json.loads(keys.read_text())["readers"]["ana"])
    for arguments in (("disable", "ana"), ("retire-key", "ana"), ("change", "ana", "--names")):
        assert run(keys, "user", *arguments).stderr == "Error: ana is out.\n"
    assert run(keys, "user", "add", "ana").returncode == 0
    assert entry(keys, "ana") == ANA
    run(keys, "centre", "disable", "111")
    assert Keys(keys).centers() == ["000"]
    assert Keys(keys).viewer("111", "1.2") is None
    run(keys, "centre", "add", "111")
    assert entry(keys, "111") == {"viewer": VIEWER}


def test_pseudonyms_stay_whatever_key_or_password_comes(keys: Path) -> None:
    def by(key: str) -> bytes:
        role = Keys(keys).role(key)
        assert role is not None
        return role.secret

    def by_password() -> bytes:
        known = Keys(keys)
        role = known.role_of_digest(known.digest_of_password("ana", PASSWORD) or b"")
        assert role is not None
        return role.secret

    before = by(KEY.format("ana"))
    second = run(keys, "user", "key", "ana").stdout.strip()
    run(keys, "user", "retire-key", "ana")
    assert by(second) == before
    run(keys, "user", "disable", "ana")
    for _ in range(2):
        run(keys, "user", "add", "ana")
        assert by_password() == before
    # Another reader's are others.
    run(keys, "user", "change", "radiology", "--initials")
    assert by(KEY.format("radiology")) != before


def test_an_entry_that_is_only_a_key_keeps_it_and_what_it_means(keys: Path) -> None:
    run(keys, "user", "key", "ana")
    assert json.loads(keys.read_text())["readers"]["radiology"] == KEY.format("radiology")
    run(keys, "user", "add", "radiology")
    role = Keys(keys).role(KEY.format("radiology"))
    assert role is not None
    assert (role.centers, role.initials, role.exports) == (None, False, True)


def test_where_the_images_are_is_changed_without_a_key(keys: Path) -> None:
    other = VIEWER.replace("pacs", "other")
    for _ in range(2):
        assert (
            run(keys, "centre", "change", "111", "--viewer", other).stdout == f"The images of 111: {other}.\n"
        )
    known = Keys(keys)
    assert known.role(KEY.format("111")) is not None
    assert known.viewer("111", "1.2") == other.replace("{study_iuid}", "1.2")
    assert f"111: {other}\n" in run(keys, "centre", "list").stdout
    run(keys, "centre", "add", "111")
    assert f"111: two keys; {other}\n" in run(keys, "centre", "list").stdout
    run(keys, "centre", "change", "111", "--no-viewer")
    assert entry(keys, "111") == {}


def test_a_key_is_ended_only_where_there_is_another_one(keys: Path) -> None:
    assert run(keys, "centre", "retire-key", "000").stderr == "Error: 000 has no two keys.\n"
    assert Keys(keys).role(KEY.format("000")) is not None
    assert "The key before goes on to count.\n" in run(keys, "centre", "add", "000").stderr
    assert "the oldest one doesn't.\n" in run(keys, "centre", "add", "000").stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("user add tom --until soon", "Invalid value for '--until': must be a day as YYYY-MM-DD, such as 2027-06-30."),
        ("user key tom --until 2027-02-30", "Invalid value for '--until': must be a day as"),
        (
            "user add tom --center 999",
            "Invalid value for '--center': there is no centre 999; `central-index centre list` says which there are.",
        ),
        ("user add tom --center 111 --all-centers", "Say --center or --all-centers."),
        ("user change ana --until 2027-01-01 --no-end", "Say --until or --no-end."),
        ("user change tom --names", "There is no tom."),
        (f"user add {'t' * 65}", "Invalid value for 'NAME': must have 1 to 64 characters."),
        (
            "centre add 444 --viewer https://pacs.example/?u={study_uid}",
            f"Invalid value for '--viewer': must be such as {VIEWER}.",
        ),
        ("centre change 111 --viewer javascript:{study_iuid}", "Invalid value for '--viewer': must be such as"),
        ("centre change 111", "Say --viewer or --no-viewer."),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_changes_nothing(keys: Path, arguments: str, said: str) -> None:
    before = keys.read_text()
    done = run(keys, *arguments.split())
    assert done.returncode != 0
    assert f"Error: {said}" in done.stderr
    assert keys.read_text() == before
    assert [path.name for path in keys.parent.iterdir()] == ["keys.json"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"centers": {}}, "readers: Field required"),
        ([], "the file: "),
        ({"centers": {"000": 17}, "readers": {}}, "centers.000: must be a key, or have members"),
        ({"centers": {"000": {"keys": []}}, "readers": {}}, "centers.000: a key is missing"),
        (
            {"centers": {}, "readers": {"a": {"until": "soon"}}},
            "readers.a.until: must be a day as YYYY-MM-DD, such as 2027-06-30",
        ),
        ({"centers": {}, "readers": {"a": {"keys": [KEY], KEY: 1}}}, "in readers.a stands what isn't known"),
        (
            {"centers": {"000": {"keys": [KEY], "viewer": "https://pacs.example/viewer"}}, "readers": {}},
            f"centers.000.viewer: must be such as {VIEWER}",
        ),
        ({"centers": {"000": {"keys": ["short"]}}, "readers": {}}, "the key of '000' is shorter than 12"),
        ('{"centers": {},\n"readers" {}}', "line 2: Expecting ':' delimiter"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_is_named_without_a_key(keys: Path, content: Any, said: str) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    keys.write_text(text)
    with pytest.raises(UnusableKeys) as caught:
        Keys(keys)
    assert said in str(caught.value)
    assert KEY not in str(caught.value)
    assert str(caught.value).startswith(str(keys))
    for arguments in (("user", "list"), ("centre", "add", "222"), ("user", "add", "tom")):
        done = run(keys, *arguments)
        assert done.returncode == 1
        assert said in done.stderr
        assert "keys.json.new" not in done.stderr
    assert keys.read_text() == text


def test_a_key_that_is_out_by_hand_counts_no_more(keys: Path) -> None:
    content = json.loads(keys.read_text())
    content["readers"]["ana"]["disabled"] = True
    content["centers"]["111"]["disabled"] = True
    keys.write_text(json.dumps(content))
    known = Keys(keys)
    assert [known.role(KEY.format(name)) is None for name in ("ana", "111", "000")] == [True, True, False]


def test_a_file_that_is_mounted_alone_is_named(keys: Path) -> None:
    """As a container has it that is given the file and not its directory."""
    alone = [
        *("unshare", "--mount", "--map-root-user", "sh", "-c"),
        'mount --bind keys.json keys.json && exec "$@"',
        "sh",
    ]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*alone, "true"], cwd=keys.parent, check=False).returncode
    ):
        pytest.skip("nothing may be mounted here")
    before = keys.read_text()
    done = subprocess.run(
        [*alone, sys.executable, "-m", "central_index", "--keys", "keys.json", "centre", "add", "222"],
        cwd=keys.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        "Error: keys.json is mounted as a single file, which can't be replaced: mount its directory instead.\n"
    )
    assert keys.read_text() == before
    assert [path.name for path in keys.parent.iterdir()] == ["keys.json"]


def test_what_is_over_is_said(keys: Path) -> None:
    assert f"until {date.today()};" in run(keys, "user", "change", "ana", "--until", str(date.today())).stdout


def test_of_two_commands_at_once_none_is_lost(keys: Path) -> None:
    descriptor = os.open(keys.parent, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    content = json.loads(keys.read_text())
    second = subprocess.Popen(
        [sys.executable, "-m", "central_index", "--keys", str(keys), "centre", "add", "222"],
        stdout=subprocess.DEVNULL,
    )
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(2)
    content["centers"]["333"] = KEY.format("333")
    keys.write_text(json.dumps(content))
    os.close(descriptor)
    assert second.wait(60) == 0
    assert {"222", "333"} <= set(json.loads(keys.read_text())["centers"])
