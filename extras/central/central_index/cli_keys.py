"""The commands that write the file of keys: ``central-index user`` and ``central-index centre``."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import click

from central_index.keys import (
    LONGEST_NAME,
    VIEWER_EXAMPLE,
    UnusableKeys,
    check,
    checked_viewer,
    hashed,
    in_full,
    made_with,
)

_SHORTEST_PASSWORD = 12
_SECRET = ("keys", "password")


def _read(path: Path) -> dict[str, Any]:
    """Raises OSError, UnusableKeys."""
    text = path.read_bytes()
    check(text, path)
    content: dict[str, Any] = json.loads(text)
    return content


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Another command waits: what it read would be older than what this one writes. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _changed(path: Path) -> Iterator[dict[str, Any]]:
    """The file's content, to be changed; written whole or not at all, and only if it is good. Raises ClickException."""
    with _refused(path), _alone(path.parent):
        content = _read(path) if path.exists() else {"centers": {}, "readers": {}}
        yield content
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        check(text.encode(), path)
        new = path.with_name(f"{path.name}.new")
        with os.fdopen(os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as file:
            file.write(text)
        try:
            if path.exists():
                # As readable as it was.
                stat = path.stat()
                new.chmod(stat.st_mode & 0o777)
                if os.geteuid() == 0:
                    os.chown(new, stat.st_uid, stat.st_gid)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Says why the file can't be changed. Raises ClickException."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise click.ClickException(
                f"{path} is mounted as a single file, which can't be replaced: mount its directory instead."
            ) from None
        raise click.ClickException(f"{path} can't be changed: {error.strerror}.") from None
    except UnusableKeys as error:
        raise click.ClickException(str(error)) from None


def _in_full(section: str, entry: Any) -> Any:
    """With members, also where it is only a key; as keys.py understands it."""
    return in_full(entry, exports=True) if section == "readers" else in_full(entry)


def _keep_pseudonyms(entry: dict[str, Any]) -> None:
    """Who sees pseudonyms goes on to see the same ones, whatever key or password comes."""
    members = [*entry.get("keys", []), entry.get("password")]
    if entry.get("names") == "initials" and any(members):
        entry.setdefault("pseudonyms", made_with(*filter(None, members)))


def _known(content: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    """The entry of one that isn't out. Raises ClickException."""
    if name not in content[section]:
        raise click.ClickException(f"There is no {name}.")
    entry: dict[str, Any] = _in_full(section, content[section][name])
    if entry.get("disabled"):
        raise click.ClickException(f"{name} is out.")
    _keep_pseudonyms(entry)
    content[section][name] = entry
    return entry


def _let_in(content: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    """The entry of NAME, who may come in from now on: what was said of it before goes on to count."""
    entry: dict[str, Any] = _in_full(section, content[section].get(name, {}))
    entry.pop("disabled", None)
    _keep_pseudonyms(entry)
    content[section][name] = entry
    return entry


def _another_key(entry: dict[str, Any]) -> tuple[str, str]:
    """A second key while the one before still counts, and what to say of that."""
    key = secrets.token_urlsafe(32)
    before = entry.get("keys", [])
    entry["keys"] = [*before[-1:], key]
    said = (
        "",
        " The key before goes on to count.",
        " The key before goes on to count, the oldest one doesn't.",
    )
    return key, "It is shown this once." + said[len(before)]


def _name(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not 0 < len(value) <= LONGEST_NAME:
        raise click.BadParameter(f"must have 1 to {LONGEST_NAME} characters.")
    return value


def _day(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        return datetime.strptime(value, "%Y-%m-%d").date().isoformat()
    except ValueError:
        raise click.BadParameter("must be a day as YYYY-MM-DD, such as 2027-06-30.") from None


def _viewer(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    try:
        return checked_viewer(value) if value is not None else None
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None


_NAME = click.argument("name", callback=_name)


@dataclass(frozen=True)
class _Limits:
    """As the options say it; what isn't given stays as it is."""

    centers: tuple[str, ...]
    all_centers: bool
    initials: bool | None
    until: str | None
    no_end: bool
    exports: bool | None


def _limits(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--exports/--no-exports", default=None, help="Whether they may take a search as CSV; at first not."),
        click.option("--no-end", is_flag=True, help="There is no last day."),
        click.option("--until", metavar="YYYY-MM-DD", callback=_day, help="The last day; at first there is none."),
        click.option(
            "--initials/--names", default=None,
            help="Initials and pseudonyms instead of names and ids; --names: names and ids, as at first.",
        ),
        click.option("--all-centers", is_flag=True, help="They see all centres."),
        click.option("--center", "centers", multiple=True, metavar="NAME", help="One that they see; at first all."),
    ):  # fmt: skip
        command = option(command)
    return command


def _limit(content: dict[str, Any], entry: dict[str, Any], limits: _Limits) -> None:
    """Changes what was said, and nothing else. Raises UsageError."""
    centers = limits.centers
    if centers and limits.all_centers:
        raise click.UsageError("Say --center or --all-centers.")
    if limits.until is not None and limits.no_end:
        raise click.UsageError("Say --until or --no-end.")
    for center in centers:
        if center not in content["centers"]:
            raise click.BadParameter(
                f"there is no centre {center}; `central-index centre list` says which there are.",
                param_hint="'--center'",
            )
    said = {
        "centers": list(dict.fromkeys(centers)) or None,
        "names": None if limits.initials is None else "initials" if limits.initials else "full",
        "until": limits.until,
        "exports": limits.exports,
    }
    entry.update({member: value for member, value in said.items() if value is not None})
    if limits.all_centers:
        entry.pop("centers", None)
    if limits.no_end:
        entry.pop("until", None)


def _may(entry: dict[str, Any]) -> str:
    """What a reader may, in words."""
    centers, until = entry.get("centers"), entry.get("until")
    which = "all centres" if centers is None else f"centres {', '.join(centers)}" if centers else "no centre"
    names = "initials" if entry.get("names") == "initials" else "full names"
    end = "without an end" if until is None else f"until {until}"
    if until is not None and until < date.today().isoformat():
        end += ", which is over"
    return "; ".join([which, names, end, "CSV" if entry.get("exports") else "no CSV"])


@click.group("user")
def user_command() -> None:
    """Who may read, in the file that --keys names. A running index reads it again by itself."""


@user_command.command("add")
@_NAME
@_limits
@click.password_option(prompt=f"Password (at least {_SHORTEST_PASSWORD} characters)")
@click.pass_obj
def add_user(given: Any, /, name: str, password: str, **limits: Any) -> None:
    """Adds a person who logs in with NAME and a password, or gives them another one.

    One who was there, even one who is out, may see what they might before, but for what the options say.
    """
    if len(password) < _SHORTEST_PASSWORD:
        raise click.UsageError(f"The password must have at least {_SHORTEST_PASSWORD} characters.")
    with _changed(given.keys) as content:
        entry = _let_in(content, "readers", name)
        entry["password"] = hashed(password)
        _limit(content, entry, _Limits(**limits))
    click.echo(f"{name} may read: {_may(entry)}.")


@user_command.command("key")
@_NAME
@_limits
@click.pass_obj
def key_of_user(given: Any, /, name: str, **limits: Any) -> None:
    """Says a key, this once, for NAME, a program that reads. For one that has a key: a second one, while that still counts.

    One who was there, even one who is out, may see what they might before, but for what the options say.
    """
    with _changed(given.keys) as content:
        entry = _let_in(content, "readers", name)
        key, said = _another_key(entry)
        _limit(content, entry, _Limits(**limits))
    click.echo(key)
    click.echo(f"The key of {name}. {said}\n{name} may read: {_may(entry)}.", err=True)


@user_command.command("change")
@_NAME
@_limits
@click.pass_obj
def change_user(given: Any, /, name: str, **limits: Any) -> None:
    """Changes what NAME may see, as the options say, and nothing else. Password and keys stay."""
    with _changed(given.keys) as content:
        entry = _known(content, "readers", name)
        _limit(content, entry, _Limits(**limits))
    click.echo(f"{name} may read: {_may(entry)}.")


@user_command.command("list")
@click.pass_obj
def list_users(given: Any) -> None:
    """Names and what they may, without keys."""
    for name, entry in _listed(given.keys, "readers"):
        click.echo(f"{name}: {'out' if entry.get('disabled') else _may(entry)}")


@click.group("centre")
def centre_command() -> None:
    """Which centres may send, in the file that --keys names."""


_VIEWER = click.option(
    "--viewer", metavar="URL", callback=_viewer, help=f"Where its images are: {VIEWER_EXAMPLE}"
)


@centre_command.command("add")
@_NAME
@_VIEWER
@click.pass_obj
def add_centre(given: Any, name: str, viewer: str | None) -> None:
    """Adds a centre and says its key, this once. For one that is there: a second key, while the first still counts."""
    with _changed(given.keys) as content:
        entry = _let_in(content, "centers", name)
        key, said = _another_key(entry)
        if viewer is not None:
            entry["viewer"] = viewer
    click.echo(key)
    click.echo(f"The key of centre {name}, for the hospital's config.json. {said}", err=True)


@centre_command.command("change")
@_NAME
@_VIEWER
@click.option("--no-viewer", is_flag=True, help="Its studies have no link any more.")
@click.pass_obj
def change_centre(given: Any, name: str, viewer: str | None, no_viewer: bool) -> None:
    """Changes where the images of NAME are. Its keys stay."""
    if no_viewer == (viewer is not None):
        raise click.UsageError("Say --viewer or --no-viewer.")
    with _changed(given.keys) as content:
        entry = _known(content, "centers", name)
        entry.pop("viewer", None)
        if viewer is not None:
            entry["viewer"] = viewer
    click.echo(f"The images of {name}: {viewer or 'no link'}.")


@centre_command.command("list")
@click.pass_obj
def list_centres(given: Any) -> None:
    """Names, without keys."""
    for name, entry in _listed(given.keys, "centers"):
        said = [
            "out" if entry.get("disabled") else "two keys" if len(entry["keys"]) > 1 else "",
            entry.get("viewer", ""),
        ]
        click.echo(": ".join(one for one in (name, "; ".join(part for part in said if part)) if one))


def _listed(path: Path, section: str) -> list[tuple[str, dict[str, Any]]]:
    """Raises ClickException."""
    try:
        return sorted((name, _in_full(section, entry)) for name, entry in _read(path)[section].items())
    except OSError as error:
        raise click.ClickException(f"{path} can't be read: {error.strerror}.") from None
    except UnusableKeys as error:
        raise click.ClickException(str(error)) from None


def _retire_key(section: str) -> click.Command:
    @click.command("retire-key")
    @_NAME
    @click.pass_obj
    def command(given: Any, name: str) -> None:
        """Ends the older of two keys of NAME: at once, logins included."""
        with _changed(given.keys) as content:
            entry = _known(content, section, name)
            if len(entry.get("keys", [])) < 2:
                raise click.ClickException(f"{name} has no two keys.")
            del entry["keys"][:-1]
        click.echo(f"Only the newer key of {name} counts.")

    return command


def _disable(section: str) -> click.Command:
    @click.command("disable")
    @_NAME
    @click.pass_obj
    def command(given: Any, name: str) -> None:
        """Takes NAME out: at once, logins included. Keys and password are gone, what NAME may see is kept for `add`."""
        with _changed(given.keys) as content:
            entry = _known(content, section, name)
            for member in _SECRET:
                entry.pop(member, None)
            entry["disabled"] = True
        click.echo(f"{name} is out.")

    return command


for _group, _section in ((user_command, "readers"), (centre_command, "centers")):
    _group.add_command(_retire_key(_section))
    _group.add_command(_disable(_section))
