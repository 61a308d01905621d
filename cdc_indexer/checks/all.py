"""`check`: every precondition of the service, one finding each. Reads only, in bounded time, and changes nothing."""

from __future__ import annotations

import os
import shlex
import stat
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cdc_indexer.checks.database import is_local, preflight
from cdc_indexer.checks.files import check_files
from cdc_indexer.checks.retention import Following
from cdc_indexer.delivery.features import Known
from cdc_indexer.model.errors import StateError, StorageError
from cdc_indexer.model.finding import Finding, Status, failed, failed_by, later, ok, warning
from cdc_indexer.model.moment import for_people
from cdc_indexer.model.program import command
from cdc_indexer.state.glance import Glance, glance
from cdc_indexer.state.lock import held_by

if TYPE_CHECKING:
    from cdc_indexer.model.settings import DatabaseSettings, Settings

__all__ = ["check"]

#: What the README's example has where a value of one's own belongs.
_LITERAL = "..."

#: Keys that anybody can read, as SHA-256: the one in the old client's published config.json, and the demo's.
_PUBLISHED_KEYS = frozenset(
    (
        "acd04e057c3859500909599f48da732da1758e4bb1e31e173a2df70de2d95032",
        "7bec9111db6f3f6afd0de403cbd520f9556ff2c487e7cb6f823bec12967b411b",
    )
)

_SPACE_ENOUGH_BYTES = 100 * 1024 * 1024


def check(settings: Settings, administrator: DatabaseSettings | None = None) -> Iterator[Finding]:
    """The findings, in the order in which things are set up; ``administrator``: a login that sees triggers too."""
    yield from check_files(settings)
    yield from _values(settings)
    yield from _alerts(settings)
    try:
        yield from _state_directory(settings)
    except OSError as error:
        yield failed(
            "state directory",
            f"{settings.state_dir} can't be looked at ({error.strerror}).",
            "Run `check` as the service's account, such as: runuser -u cdc-indexer -- ...",
        )
    checkpoint = None
    for finding, loaded in _state(settings):
        checkpoint = loaded
        yield finding
    following = Following(
        server_id=settings.server_id,
        position=checkpoint.position if checkpoint else None,
        written=checkpoint.written if checkpoint else None,
        running=_runs(settings.state_dir),
        columns=tuple(settings.fields.values()),
    )
    if settings.database.password.get_secret_value() == _LITERAL:
        yield later("connection", "database.password")
    else:
        yield from preflight(settings.database, following, administrator)
    known = Known()
    found = list(check_index(settings, known))
    yield _delivery(settings, known, answered=all(one.status is Status.OK for one in found))
    yield from found


def _delivery(settings: Settings, known: Known, *, answered: bool) -> Finding:
    """Whether what is sent suits the index, which may say so itself."""
    if "delivery" in settings.model_fields_set:
        return ok("delivery", "Said in config.json how studies are sent.")
    if "versions" in known.features or "digests" in known.features:
        return ok(
            "delivery",
            "A study is sent at once, and again when it changes: this index replaces what it holds of a study.",
        )
    if not answered:
        return later("delivery", "web service")
    return warning(
        "delivery",
        "A study is sent at once, and again when it changes; whether it then replaces what it has, this index doesn't say.",
        "If it does (ask whoever runs it), say so in config.json, and this line goes away:\n"
        '"delivery": {}\n'
        "One that only inserts, as the old client's does, would hold each version:\n"
        '"delivery": {"send": "stable", "updates": false}',
    )


def check_index(settings: Settings, known: Known | None = None) -> Iterator[Finding]:
    """What is asked of the central index, without leaving a study; what it can is put into ``known``."""
    if _is_example(settings.webservice_url):
        return iter((later("web service", "webservice_url"),))
    if settings.key.get_secret_value() == _LITERAL:
        return iter((later("web service", "key"),))
    from cdc_indexer.delivery.probe import probe  # noqa: PLC0415 - requests takes longer to import than all before

    return probe(settings, known)


# --- values ----------------------------------------------------------------------------------------------


def _is_example(url: str) -> bool:
    """Whether a host is one of those that RFC 2606 keeps for examples, as the README's is."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    return host.endswith((".example", ".example.org", ".example.com", ".example.net"))


def _left_over(settings: Settings) -> Iterator[Finding]:
    """Values of the README's example that nobody has replaced."""
    if settings.database.password.get_secret_value() == _LITERAL:
        yield failed(
            "database.password",
            'The password is "...", as in the example.',
            "Put the password of the service's account into config.json, the one of its CREATE USER.",
        )
    if settings.key.get_secret_value() == _LITERAL:
        yield failed(
            "key",
            'The key is "...", as in the example.',
            "Put the key that whoever runs the central index gave you into config.json.",
        )
    if _is_example(settings.webservice_url):
        yield failed(
            "webservice_url",
            "The address of the central index is the example's.",
            "Put the address that whoever runs the central index gave you into config.json.",
        )


def _values(settings: Settings) -> Iterator[Finding]:
    yield from _left_over(settings)
    if settings.center == _LITERAL:
        yield failed(
            "center",
            'The centre is "...", as in the example.',
            "Put the code that the region gave you into server.json.",
        )
    elif settings.center == "000":
        yield warning(
            "center",
            "The centre is \"000\", which is the example's: the index couldn't tell this hospital from another.",
            "Put the code that the region gave you into server.json.",
        )
    else:
        yield ok("center", f"{settings.center}.")
    if sha256(settings.key.get_secret_value().encode()).hexdigest() in _PUBLISHED_KEYS:
        yield warning(
            "key",
            "The key is a published one: anybody could write into the index with it.",
            "Ask whoever runs the central index for a key of your own, and put it into config.json.",
        )
    elif settings.key.get_secret_value() != _LITERAL:
        yield ok("key", "Not one that is published.")
    url = urlsplit(settings.webservice_url)
    host = url.hostname or ""
    from requests.utils import get_environ_proxies, select_proxy  # noqa: PLC0415

    proxied = select_proxy(settings.webservice_url, get_environ_proxies(settings.webservice_url)) is not None
    if url.scheme == "http" and not is_local(host):
        yield warning(
            "webservice_url",
            f"Studies and the key go to {host} unencrypted: whoever is on the way can read them"
            f"{', the proxy of HTTP_PROXY too' if proxied else ''}.",
            "Let the central index have a certificate, and put https:// into webservice_url.",
        )
    elif url.scheme == "http" and proxied:
        yield warning(
            "webservice_url",
            f"Studies and the key go to the proxy of HTTP_PROXY unencrypted, though {host} is this machine.",
            f"Name it as an exception in the service's environment:\nNO_PROXY={host}",
        )
    address = settings.monitor.address
    if address is not None and not is_local(address[0]):
        yield warning(
            "monitor.listen",
            f"Whoever reaches {settings.monitor.listen} can read status and metrics (no patient data, no login).",
            'Listen on this machine only, or let a firewall decide who may come:\n"monitor": {"listen": "127.0.0.1:9108"}',
        )


def _alerts(settings: Settings) -> Iterator[Finding]:
    webhook = settings.alerts.webhook
    if webhook is None:
        return
    url = urlsplit(webhook)
    if settings.alerts.webhook_secret is None:
        yield warning(
            "alerts",
            "The webhook's messages aren't signed: whoever receives them can't tell them from somebody else's.",
            "Put a secret into alerts.webhook_secret, and give it to whoever receives them; this makes one:\n"
            'echo "whsec_$(openssl rand -base64 32)"',
        )
    elif url.scheme == "http" and not is_local(url.hostname or ""):
        yield warning(
            "alerts",
            f"Alerts go to {url.hostname} unencrypted.",
            "Put https:// into alerts.webhook.",
        )


# --- the state directory ---------------------------------------------------------------------------------


def _state_directory(settings: Settings) -> Iterator[Finding]:
    name, directory = "state directory", settings.state_dir
    if not directory.exists():
        parent = next(path for path in directory.parents if path.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            yield ok(name, f"{directory} isn't there yet; the service makes it.")
        else:
            yield failed(
                name,
                f"{directory} isn't there, and this account may not make it in {parent}.",
                f"As root, for the service's account:\ninstall -d -m 700 -o {_account()} {shlex.quote(str(directory))}",
            )
        return
    try:
        # What the service does with its checkpoint: a file, its bytes, the disk's word.
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".check-") as file:
            file.write(b"check")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        yield failed(
            name,
            f"{directory} can't be written ({error.strerror}): nothing would be sent.",
            f"Free some space, or give it to the service's account:\nchown -R {_account()} {shlex.quote(str(directory))}",
        )
        return
    free = os.statvfs(directory)
    if free.f_bavail * free.f_frsize < _SPACE_ENOUGH_BYTES:
        yield warning(
            name,
            f"The disk of {directory} is almost full ({free.f_bavail * free.f_frsize // 2**20} MiB left): "
            "when it is, nothing more is sent.",
            "Free some space.",
        )
    open_ones = [path for path in (directory, *sorted(directory.iterdir())) if _open_to_others(path)]
    if open_ones:
        yield warning(
            name,
            f"Others on this machine have rights on {', '.join(path.name for path in open_ones)}; "
            "parked studies hold patients' names.",
            f"Take them away:\nchmod -R go-rwx {shlex.quote(str(directory))}",
        )
    else:
        yield ok(name, f"{directory} can be written, by this account only.")


def _open_to_others(path: Path) -> bool:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:  # a running service renames its files
        return False
    return not stat.S_ISLNK(mode) and bool(mode & (stat.S_IRWXG | stat.S_IRWXO))


def _state(settings: Settings) -> Iterator[tuple[Finding, Glance | None]]:
    name = "state"
    try:
        if not settings.state_dir.is_dir():
            return
    except OSError:  # said already
        return
    try:
        state = glance(settings.state_dir)
    except (StateError, StorageError) as error:
        yield failed_by(name, error), None
        return
    if state is None:
        yield ok(name, "None yet: `initial` or `run` begins it."), None
    elif state.center not in (None, settings.center):
        yield (
            failed(
                name,
                f"The studies sent so far went out as centre {state.center!r}, "
                f"and server.json says {settings.center!r}: `run` refuses to start.",
                f"Put {state.center!r} back into server.json, or send everything under the new one:\n"
                f"{command('initial', '--restart', config=settings.config_path)}",
            ),
            state,
        )
    else:
        written = f" Last written at {for_people(state.written, seconds=False)}." if state.written else ""
        yield ok(name, f"It is whole.{written}"), state


def _account() -> str:
    import pwd  # noqa: PLC0415

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _runs(state_dir: Path) -> bool:
    """Whether the service is active: a server_id in use may be its own."""
    try:
        holder = held_by(state_dir)
    except StorageError:
        return False
    return holder is not None and holder[0] == "run"
