"""A page in headless Chromium with a keyboard and no mouse, by the DevTools protocol over the browser's own pipe."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.indexer import wait_until

_KEYS = {"Tab": 9, "Enter": 13}


@contextmanager
def open_page(browser: Sequence[str], url: str) -> Iterator[Keyboard]:
    """The page that ``browser``, a command line without an address, shows at ``url``."""
    # Where it wants its pipe: 3 to read, 4 to write.
    command = ["/bin/sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null', "sh", *browser]
    with subprocess.Popen(
        [*command, "--remote-debugging-pipe", "about:blank"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    ) as process:
        try:
            page = Keyboard(process)
            page.open(url)
            yield page
        finally:
            process.terminate()


class Keyboard:
    """``press`` keys on a page, and ask it by ``value`` what it shows."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._commands, self._answers = process.stdin, process.stdout
        self._unread = b""
        self._number = 0
        self._session: dict[str, str] = {}

    def open(self, url: str) -> None:
        """Shows the page there, and waits until it is complete."""
        target = self._call("Target.createTarget", url=url)["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        loaded = "document.readyState === 'complete' && location.href !== 'about:blank'"
        wait_until(lambda: bool(self.value(loaded)), what="the page")

    def press(self, key: str) -> None:
        """Presses and lets go of "Tab" or "Enter"."""
        text = "\r" if key == "Enter" else ""
        common = {"key": key, "code": key, "windowsVirtualKeyCode": _KEYS[key]}
        self._call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self._call("Input.dispatchKeyEvent", type="keyUp", **common)

    def value(self, script: str) -> Any:
        """What the script's expression is on the page."""
        return self._call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

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
                said = answer.get("error", {}).get("message", "")
                if "execution context" in said or "navigated" in said:
                    return {"result": {}}  # between two documents
                assert "error" not in answer, answer
                return dict(answer["result"])
