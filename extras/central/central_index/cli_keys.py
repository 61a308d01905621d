"""The commands that write the file of keys: ``central-index user`` and ``central-index centre``."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from central_index.keys import Keys, UnusableKeys, hashed

_SHORTEST_PASSWORD = 12


@contextmanager
def _changed(path: Path) -> Iterator[dict[str, Any]]:
    """The file's content, to be changed; written whole or not at all, and only if it is good. Raises ClickException."""
    try:
        content: dict[str, Any] = (
            json.loads(path.read_text()) if path.exists() else {"centers": {}, "readers": {}}
        )
        yield content
        new = path.with_name(f"{path.name}.new")
        with os.fdopen(os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as file:
            file.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        try:
            Keys(new)
            if path.exists():
                # As readable as it was.
                stat = path.stat()
                new.chmod(stat.st_mode & 0o777)
                if os.geteuid() == 0:
                    os.chown(new, stat.st_uid, stat.st_gid)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{path} can't be changed: {error}.") from None
    except UnusableKeys as error:
        raise click.ClickException(str(error)) from None


@click.group("user")
def user_command() -> None:
    """Who may read, in the file that --keys names. A running index reads it again by itself."""


@user_command.command("add")
@click.argument("name")
@click.option("--center", "centers", multiple=True, help="What they may see; all, if it isn't given.")
@click.option("--initials", is_flag=True, help="Initials and pseudonyms instead of names and ids.")
@click.option("--until", metavar="YYYY-MM-DD", help="The last day.")
@click.option("--exports", is_flag=True, help="May take a search as CSV.")
@click.password_option(prompt=f"Password (at least {_SHORTEST_PASSWORD} characters)")
@click.pass_obj
def add_user(
    given: Any,
    name: str,
    centers: tuple[str, ...],
    initials: bool,
    until: str | None,
    exports: bool,
    password: str,
) -> None:
    """Adds a person who logs in with NAME and a password, or gives them another one."""
    if len(password) < _SHORTEST_PASSWORD:
        raise click.UsageError(f"The password must have at least {_SHORTEST_PASSWORD} characters.")
    entry: dict[str, Any] = {"password": hashed(password), "exports": exports}
    if centers:
        entry["centers"] = list(centers)
    if initials:
        entry["names"] = "initials"
    if until:
        entry["until"] = until
    with _changed(given.keys) as content:
        content["readers"][name] = entry
    click.echo(f"{name} may read.")


@click.group("centre")
def centre_command() -> None:
    """Which centres may send, in the file that --keys names."""


@centre_command.command("add")
@click.argument("name")
@click.option(
    "--viewer", metavar="URL", help="Where its images are: https://.../viewer?StudyInstanceUIDs={study_iuid}"
)
@click.pass_obj
def add_centre(given: Any, name: str, viewer: str | None) -> None:
    """Adds a centre and says its key, this once. For one that is there: a second key, while the first still counts."""
    key = secrets.token_urlsafe(32)
    with _changed(given.keys) as content:
        known = content["centers"].get(name)
        entry = known if isinstance(known, dict) else {"keys": [known] if known else []}
        entry["keys"] = [*entry["keys"][-1:], key]
        if viewer:
            entry["viewer"] = viewer
        content["centers"][name] = entry
    click.echo(key)
    click.echo(f"The key of centre {name}, for the hospital's config.json. It is shown this once.", err=True)


def _list(section: str) -> click.Command:
    @click.command("list")
    @click.pass_obj
    def command(given: Any) -> None:
        """Names, without keys."""
        try:
            content = json.loads(given.keys.read_text())
        except (OSError, ValueError) as error:
            raise click.ClickException(f"{given.keys} can't be read: {error}.") from None
        for name, entry in sorted(content[section].items()):
            shown = (
                {part: value for part, value in entry.items() if part not in _SECRET}
                if isinstance(entry, dict)
                else {}
            )
            click.echo(" ".join([name, *(f"{part}={value}" for part, value in shown.items())]))

    return command


def _disable(section: str) -> click.Command:
    @click.command("disable")
    @click.argument("name")
    @click.pass_obj
    def command(given: Any, name: str) -> None:
        """Takes NAME out: at once, logins included."""
        with _changed(given.keys) as content:
            if content[section].pop(name, None) is None:
                raise click.ClickException(f"There is no {name}.")
        click.echo(f"{name} is out.")

    return command


_SECRET = ("keys", "password")
for _group, _section in ((user_command, "readers"), (centre_command, "centers")):
    _group.add_command(_list(_section))
    _group.add_command(_disable(_section))
