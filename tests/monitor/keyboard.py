"""A page in headless Chromium with a keyboard and no mouse, by the DevTools protocol over the browser's own pipe."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.indexer import wait_until

_KEYS = {"Tab": 9, "Enter": 13}


class Keyboard:
    """One page; ``press`` keys on it, and ask it by ``value`` what it shows."""

    def __init__(self, browser: str, url: str, directory: Path) -> None:
        self._process = subprocess.Popen(
            [
                "/bin/sh",
                "-c",
                'exec "$@" 3<&0 4>&1 </dev/null >/dev/null',  # where it wants its pipe
                "sh",
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--remote-debugging-pipe",
                f"--user-data-dir={directory / 'keyboard'}",
                "about:blank",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._commands, self._answers = self._process.stdin, self._process.stdout
        self._unread = b""
        self._number = 0
        self._session: dict[str, str] = {}
        self._url = url

    def __enter__(self) -> Keyboard:
        try:
            target = self._call("Target.createTarget", url=self._url)["targetId"]
            session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            self._session = {"sessionId": session}
            loaded = "document.readyState === 'complete' && location.href !== 'about:blank'"
            wait_until(lambda: bool(self.value(loaded)), what="the page")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the browser."""
        self._commands.close()
        self._answers.close()
        self._process.terminate()
        self._process.wait(30)

    def press(self, key: str) -> None:
        """Presses and lets go of "Tab" or "Enter"."""
        text = "\r" if key == "Enter" else ""
        common = {"key": key, "code": key, "windowsVirtualKeyCode": _KEYS[key]}
        self._call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self._call("Input.dispatchKeyEvent", type="keyUp", **common)

    def value(self, script: str) -> Any:
        """What the script's expression is on the page."""
        answer = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        return answer["result"].get("value")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters, **self._session}
        self._commands.write(json.dumps(command).encode() + b"\0")
        while True:
            while b"\0" not in self._unread:
                data = self._answers.read(65_536)  # what there is
                assert data, "the browser ended"
                self._unread += data
            message, _, self._unread = self._unread.partition(b"\0")
            answer = json.loads(message)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])
