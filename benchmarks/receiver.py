"""The central index of the measurements: nginx that answers 201, its log with the moment of each arrival.

`Fallback` is for where there is no nginx: it shows that everything runs, its figures are those of a receiver in Python.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.ports import free_port
from tests.receiver import Receiver as TestReceiver

_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_MODULES = Path("/usr/lib/nginx/modules")
_CONFIG = """
load_module {modules}/ndk_http_module.so;
load_module {modules}/ngx_http_lua_module.so;
daemon off;
user {user};
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{ worker_connections 512; }}
http {{
    log_format arrivals escape=json '{{"time": $msec, "body": "$request_body"}}';
    map $request_method $counts {{ POST 1; default 0; }}
    access_log {directory}/arrivals.log arrivals if=$counts;
    client_body_buffer_size 8m;
    client_max_body_size 8m;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 100000000;
    keepalive_timeout 600;
    lua_shared_dict kept 1m;
    server {{
        listen 127.0.0.1:{port};
        location = /versions {{ content_by_lua_block {{
            ngx.req.read_body()
            local version = tonumber(ngx.req.get_headers()["Study-Version"])
            if version and version > (ngx.shared.kept:get("highest") or 0) then
                ngx.shared.kept:set("highest", version)
            end
            ngx.status = 201
            ngx.header["Index-Features"] = "versions, reports"
            ngx.header["Content-Type"] = "application/json"
            ngx.header["Content-Length"] = 16
            ngx.print('{{"status": "Ok"}}')
        }} }}
        location = /versions/report {{ access_log off; content_by_lua_block {{
            ngx.req.read_body()
            local at = string.match(ngx.req.get_body_data() or "", '"at": ?([0-9]+)')
            local before = ngx.shared.kept:get("at") or "null"
            ngx.shared.kept:set("at", at)
            local highest = ngx.shared.kept:get("highest")
            ngx.header["Index-Features"] = "versions, reports"
            ngx.header["Content-Type"] = "application/json"
            ngx.print('{{"status": "Ok", "previous": ' .. before .. ', "highest": '
                .. (highest and string.format("%.0f", highest) or "null") .. '}}')
        }} }}
        location /near {{ content_by_lua_block {{
            ngx.req.read_body()
            ngx.status = 201
            ngx.header["Content-Type"] = "application/json"
            ngx.header["Content-Length"] = 16
            ngx.print('{{"status": "Ok"}}')
        }} }}
        location ~ ^/batches/(?<ms>[0-9]+)$ {{ content_by_lua_block {{
            ngx.req.read_body()
            ngx.sleep(tonumber(ngx.var.ms) / 1000)
            ngx.status = 201
            ngx.header["Index-Features"] = "batch=500"
            ngx.header["Content-Type"] = "application/json"
            ngx.header["Content-Length"] = 16
            ngx.print('{{"status": "Ok"}}')
        }} }}
        location ~ ^/far/(?<ms>[0-9]+)$ {{ content_by_lua_block {{
            ngx.req.read_body()
            ngx.sleep(tonumber(ngx.var.ms) / 1000)
            ngx.status = 201
            ngx.header["Content-Type"] = "application/json"
            ngx.header["Content-Length"] = 16
            ngx.print('{{"status": "Ok"}}')
        }} }}
    }}
}}
"""


class NginxMissing(Exception):
    """nginx or its Lua module isn't there."""


class Arrival(NamedTuple):
    """One study that was taken; ``time`` in seconds since 1970, to the millisecond."""

    time: float
    study_iuid: str


class Receiver:
    """A private nginx below ``directory``. /near answers at once, /far/20 after 20 ms.

    /versions says that it has them, and /batches/20, after 20 ms, that it takes arrays.
    """

    def __init__(self, directory: Path) -> None:
        nginx = shutil.which("nginx", path=_PATH)
        if nginx is None or not (_MODULES / "ngx_http_lua_module.so").exists():
            raise NginxMissing("nginx with its Lua module isn't there: tests/setup_servers.sh bench.")
        directory.mkdir()
        self._log = directory / "arrivals.log"
        self._cleared_at = 0
        self._counted = 0
        self._counted_to = 0
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        config = directory / "nginx.conf"
        user = "root" if os.geteuid() == 0 else str(os.getlogin())
        config.write_text(_CONFIG.format(modules=_MODULES, directory=directory, port=port, user=user))
        self._process = subprocess.Popen([nginx, "-p", str(directory), "-c", str(config)])
        deadline = time.monotonic() + 10
        while not (directory / "nginx.pid").exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NginxMissing(f"nginx doesn't start: {(directory / 'error.log').read_text()}")
            time.sleep(0.02)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def clear(self) -> None:
        """What has arrived until now isn't reported any more."""
        self._cleared_at = self._counted_to = self._log.stat().st_size if self._log.exists() else 0
        self._counted = 0

    def count(self) -> int:
        """How many studies have arrived since `clear`."""
        with self._log.open("rb") as log:
            log.seek(self._counted_to)
            for line in log:
                if not line.endswith(b"\n"):
                    break  # nginx is writing it
                self._counted += line.count(b"study_iuid")
                self._counted_to += len(line)
        return self._counted

    def arrivals(self) -> list[Arrival]:
        """The studies since `clear`, in order; those of one batch together."""
        found = []
        with self._log.open("rb") as log:
            log.seek(self._cleared_at)
            for line in log:
                entry: dict[str, Any] = json.loads(line)
                body = json.loads(entry["body"])
                for study in body if isinstance(body, list) else [body]:
                    found.append(Arrival(entry["time"], study["study_iuid"]))
        return found


class Fallback:
    """The receiver of the tests in place of nginx; no distance."""

    def __init__(self) -> None:
        self._receiver = TestReceiver("a-key-for-benchmarks")
        self.url = f"http://{self._receiver.host}:{self._receiver.port}"

    def close(self) -> None:
        self._receiver.close()

    def clear(self) -> None:
        self._receiver.clear()

    def count(self) -> int:
        # Not what an index is asked for itself: whether the key counts.
        return len(self.arrivals())

    def arrivals(self) -> list[Arrival]:
        return [Arrival(entry.time, uid) for entry in self._receiver.entries() for uid in entry.study_iuids]
