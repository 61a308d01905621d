"""A bare Debian to install things in: a folder that tests/setup_servers.sh has made, under a layer that is gone afterwards.

It has its own network (port 3306 and 8080 are free there, nothing else is reached), its own processes (which end with it)
and its own mounts. No systemd runs in it: tests/install/systemctl.py starts what a unit says.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import pytest

from tests.servers import cache_directory

ROOT = Path(__file__).resolve().parent.parent.parent
CHECKOUT = "/root/cdc_indexer"

#: What builds and installs; pipx wants a pip of its own.
_TOOLS = "setuptools pipx pip click-man"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_START_SECONDS = 30.0
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"

_MOUNTS = """
set -e
mount -t tmpfs layer "$2"
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay overlay -o lowerdir="$1",upperdir="$2/upper",workdir="$2/work" "$2/root"
cd "$2/root"
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mkdir -p mnt/wheels
mount --bind "$3" mnt/wheels
chroot . ip link set lo up
touch run/ready
exec sleep infinity
"""


class Failed(Exception):
    """A command in the bare system; the message is what it was and what it said."""


class Bare:
    """A running bare system; `of` makes it."""

    def __init__(self, target: int, root: Path) -> None:
        self._target = target
        self._root = root
        #: Its files, as this process can read them.
        self.root = Path(f"/proc/{target}/root") / root.relative_to("/")

    @classmethod
    @contextlib.contextmanager
    def of(cls, folder: str, wheels: Path | None = None) -> Iterator[Bare]:
        """`folder`: such as debian-12. `wheels` are at /mnt/wheels in it. Skips where it can't be had; in CI that fails."""
        base = cache_directory() / folder
        if not base.is_dir():
            _unavailable(f"there is no {base}: run tests/setup_servers.sh")
        if os.geteuid() != 0:
            _unavailable("a system with accounts of its own is for root to make")
        layer = Path(tempfile.mkdtemp(prefix="bare-"))
        holder = subprocess.Popen(
            [
                *("unshare", "--net", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child"),
                *("sh", "-c", _MOUNTS, "sh", str(base), str(layer), str(wheels or layer)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            bare = cls(_child(holder), layer / "root")
            deadline = time.monotonic() + _START_SECONDS
            while not (bare.root / "run/ready").exists():
                if holder.poll() is not None or time.monotonic() > deadline:
                    holder.kill()
                    _unavailable(f"no bare system: {holder.communicate()[0]}")
                time.sleep(0.02)
            bare._furnish()
            yield bare
        finally:
            holder.kill()
            holder.communicate()
            shutil.rmtree(layer, ignore_errors=True)

    def _furnish(self) -> None:
        (self.root / "etc/hosts").write_text("127.0.0.1 localhost bare\n::1 localhost\n")
        for name in ("/etc/resolv.conf", _CERTIFICATES):
            if Path(name).exists():
                copy = self.root / "etc" / f"of-the-host-{Path(name).name}"
                copy.write_bytes(Path(name).read_bytes())
        shutil.copy(Path(__file__).with_name("systemctl.py"), self.root / "usr/bin/systemctl")
        (self.root / "usr/bin/systemctl").chmod(0o755)
        # By this Debian's scripts see that systemd runs.
        (self.root / "run/systemd/system").mkdir(parents=True)

    def check_out(self) -> None:
        """Puts what is under version control, as it is now, where a stranger would have it."""
        names = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for name in filter(None, names.split("\0")):
            source, target = ROOT / name, self.root / CHECKOUT.lstrip("/") / name
            if source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)

    def command(self, *words: str, network: bool = False, env: Mapping[str, str] | None = None) -> list[str]:
        """What starts `words` in there, as root."""
        spaces = ["--mount", "--pid"] if network else ["--mount", "--pid", "--net"]
        known = {"HOME": "/root", "LANG": "C.UTF-8", "PATH": _PATH, **(env or {})}
        environment = ["env", "-i", *(f"{name}={value}" for name, value in known.items())]
        return [
            *("nsenter", f"--target={self._target}", *spaces),
            *("chroot", str(self._root), *environment, *words),
        ]

    def run(
        self,
        script: str,
        *,
        cwd: str = "/",
        text: str = "",
        network: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """A piece of shell as root, stopped at its first failure; what it printed, errors included. Raises Failed."""
        answer = subprocess.run(
            self.command(
                "bash", "-e", "-o", "pipefail", "-c", f"cd {cwd}\n{script}", network=network, env=env
            ),
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if answer.returncode != 0:
            raise Failed(f"{script}\nended with {answer.returncode}:\n{answer.stdout}")
        return answer.stdout

    def online(self, script: str, *, cwd: str = "/") -> str:
        """As `run`, with this machine's network, and the settings that pip and apt have here."""
        names = ("PIP_", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY")
        env = {name: value for name, value in os.environ.items() if name.startswith(names)}
        env.pop("PIP_FIND_LINKS", None)
        env["PIP_CERT"] = f"/etc/of-the-host-{Path(_CERTIFICATES).name}"
        return self.run(
            f"cp /etc/of-the-host-resolv.conf /etc/resolv.conf\n{script}", cwd=cwd, network=True, env=env
        )


def wheels_for(folder: str) -> Path:
    """What pip needs for both programs in `folder`: collected once, and again when pyproject.toml changes."""
    wanted = "'.[central]' " + _TOOLS
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + wanted.encode()).hexdigest()[:12]
    directory = cache_directory() / f"wheels-{folder}-{digest}"
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (cache_directory() / f"wheels-{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if directory.is_dir():
            return directory
        for old in cache_directory().glob(f"wheels-{folder}-*"):
            shutil.rmtree(old)
        unfinished = Path(tempfile.mkdtemp(dir=cache_directory()))
        try:
            with Bare.of(folder, unfinished) as bare:
                bare.check_out()
                bare.online(
                    "python3 -m venv /tmp/venv\n"
                    f"/tmp/venv/bin/pip download --quiet --dest /mnt/wheels {wanted}",
                    cwd=CHECKOUT,
                )
            unfinished.chmod(0o755)
            unfinished.rename(directory)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return directory


def _child(holder: subprocess.Popen[str]) -> int:
    """The first process of the new spaces, which unshare has forked."""
    path = Path(f"/proc/{holder.pid}/task/{holder.pid}/children")
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and holder.poll() is None:
        if words := path.read_text().split():
            return int(words[0])
        time.sleep(0.01)
    holder.kill()
    return _unavailable(f"no spaces of our own: {holder.communicate()[0]}")


def _unavailable(why: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)
