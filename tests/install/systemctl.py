#!/usr/bin/env python3
"""Stands in for systemctl where no systemd runs: does what a unit says of account, directories, environment and command.

Copied into a bare system by tests/install/bare.py. Debian's scripts for packages ask it as well.
"""

import os
import pwd
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

PLACES = ("/etc/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system")
WANTS = Path("/etc/systemd/system/multi-user.target.wants")
RUN = Path("/run")
PATIENCE_SECONDS = 90


def main() -> int:
    """One command, as typed."""
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    now = "--now" in sys.argv
    if not words:
        return 1
    verb, *names = words
    for name in (one.removesuffix(".service") for one in names):
        wanted = WANTS / f"{name}.service"
        if verb == "is-enabled":
            print("enabled" if wanted.is_symlink() else "disabled")
        if verb == "is-active":
            return 0 if _pid(name) else 3
        unit = _unit(name)
        if verb == "enable":
            WANTS.mkdir(exist_ok=True)
            wanted.unlink(missing_ok=True)
            wanted.symlink_to(f"/lib/systemd/system/{name}.service")
        if verb == "disable":
            wanted.unlink(missing_ok=True)
        if verb in ("stop", "restart") or (verb == "disable" and now):
            _stop(name)
        if verb in ("start", "restart") or (verb == "enable" and now):
            _start(name, unit)
        if verb == "reload":
            os.kill(_pid(name), signal.SIGHUP)
    return 0


def _unit(name: str) -> dict[str, list[str]]:
    for place in PLACES:
        path = Path(place, f"{name}.service")
        if path.is_file():
            found: dict[str, list[str]] = {}
            for line in path.read_text().splitlines():
                key, equals, value = line.partition("=")
                if equals and not line.startswith("#"):
                    found.setdefault(key, []).append(value)
            return found
    sys.exit(f"Unit {name}.service not found.")


def _start(name: str, unit: dict[str, list[str]]) -> None:
    if _pid(name):
        return
    account = pwd.getpwnam(unit["User"][0])
    state = Path("/var/lib", unit["StateDirectory"][0])
    state.mkdir(exist_ok=True)
    state.chmod(int(unit["StateDirectoryMode"][0], 8))
    # As systemd does, if the directory itself isn't the account's.
    if state.stat().st_uid != account.pw_uid:
        for path in (state, *state.rglob("*")):
            os.chown(path, account.pw_uid, account.pw_gid)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
    for line in unit.get("Environment", []):
        environment.update(_pairs(shlex.split(line)))
    for file in unit.get("EnvironmentFile", []):
        path = Path(file.removeprefix("-"))
        if path.is_file():
            environment.update(_pairs(path.read_text().splitlines()))
    with Path("/var/log", f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            shlex.split(unit["ExecStart"][0]),
            cwd=unit["WorkingDirectory"][0],
            env=environment,
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
            umask=int(unit["UMask"][0], 8),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (RUN / f"{name}.pid").write_text(str(process.pid))
    time.sleep(0.3)
    if process.poll() is not None:
        sys.exit(f"Job for {name}.service failed: " + Path("/var/log", f"{name}.log").read_text()[-2000:])


def _pairs(lines: list[str]) -> dict[str, str]:
    return {name: value for name, equals, value in (line.partition("=") for line in lines) if equals}


def _stop(name: str) -> None:
    pid = _pid(name)
    if not pid:
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while _pid(name):
        if time.monotonic() > deadline:
            sys.exit(f"{name}.service doesn't stop.")
        time.sleep(0.05)


def _pid(name: str) -> int:
    """0 when it doesn't run."""
    try:
        pid = int((RUN / f"{name}.pid").read_text())
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return 0
    return 0 if state == "Z" else pid


if __name__ == "__main__":
    sys.exit(main())
