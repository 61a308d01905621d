"""Who else may read the secrets, or change the settings."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cdc_indexer.model._sources import read_json
from cdc_indexer.model.finding import Finding, ok, warning

if TYPE_CHECKING:
    from cdc_indexer.model.settings import Settings

__all__ = ["check_files"]

#: As the environment names them.
_SECRETS = ("KEY", "DATABASE__PASSWORD", "ALERTS__EMAIL__PASSWORD", "ALERTS__WEBHOOK_SECRET")

#: Mounted for one container, in which there is nobody else.
_CONTAINER_SECRETS = Path("/run/secrets")


def check_files(settings: Settings) -> Iterator[Finding]:
    """Those of the settings, and what they name."""
    config = settings.config_path
    secret = _secret_files(settings)
    plain = [path for path in (config.with_name("server.json"),) if path.exists()]
    (secret if _holds_secrets(config) else plain).insert(0, config)
    troubles = [finding for path in secret for finding in _secret_file(path)]
    troubles += [finding for path in plain for finding in _writable(path)]
    yield from troubles
    if not troubles:
        names = ", ".join(path.name for path in (*secret, *plain))
        yield ok("files", f"{names}: nobody else can read the secrets or change the settings.")


def _holds_secrets(config: Path) -> bool:
    """Whether the key or the password is in config.json; they may come from elsewhere."""
    return any(_value(read_json(config), name.lower().split("__")) for name in _SECRETS)


def _value(values: object, path: Sequence[str]) -> object:
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _secret_files(settings: Settings) -> list[Path]:
    """Files besides config.json that hold a password or a private key."""
    base = settings.config_path.parent
    named = [
        (base / os.environ[variable]).absolute()
        for variable in (f"CDC_INDEXER_{name}_FILE" for name in _SECRETS)
        if os.environ.get(variable)
    ]
    tls = settings.database.tls
    named += [path for path in (tls.key or tls.cert if tls else None, settings.delivery.client_cert) if path]
    return [path for path in named if not path.is_relative_to(_CONTAINER_SECRETS)]


def _secret_file(path: Path) -> Iterator[Finding]:
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    # root:service 0640 is how a service reads a file that it can't change.
    by_group = mode & stat.S_IRGRP and not (status.st_uid == 0 and status.st_gid != 0)
    if mode & stat.S_IROTH or by_group:
        yield warning(
            "files",
            f"{path} holds a secret, and {'everybody' if mode & stat.S_IROTH else 'its group'} on this machine can read it "
            f"(mode {mode:04o}).",
            f"Let only the service's account read it:\n{_for_us_alone(path, status.st_uid)}",
        )
    yield from _writable(path)


def _for_us_alone(path: Path, owner: int) -> str:
    """What an administrator types."""
    name = shlex.quote(str(path))
    if os.geteuid() in (0, owner):
        return f"chmod 600 {name}"
    # Another's with 600 couldn't be read by us any more.
    return f"chown root:{_group()} {name}\nchmod 640 {name}"


def _writable(path: Path) -> Iterator[Finding]:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield warning(
            "files",
            f"Others than its owner can change {path} (mode {mode:04o}): they could send the studies elsewhere.",
            f"Let only its owner change it:\nchmod go-w {shlex.quote(str(path))}",
        )
    directory = path.parent.stat().st_mode
    if directory & stat.S_IWOTH and not directory & stat.S_ISVTX:
        yield warning(
            "files",
            f"Everybody can replace the files in {path.parent}.",
            f"Let only its owner change what is in it:\nchmod o-w {shlex.quote(str(path.parent))}",
        )


def _group() -> str:
    import grp  # noqa: PLC0415

    try:
        return grp.getgrgid(os.getegid()).gr_name
    except KeyError:
        return str(os.getegid())
