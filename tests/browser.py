"""A real headless Chromium, driven through its own debugging protocol; just enough to use a page as a person does."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT_S = 60.0  # generous: test machines have two cores and other work


class Navigated(Exception):
    """The page was left before an expression had its value."""


class Tab:
    """One open page.

    Args:
        socket: Connected to the page's debugger.
    """

    def __init__(self, socket: Any) -> None:
        self._socket, self._num_sent = socket, 0
        self.complaints: list[str] = []  # what the page's console says is wrong
        for domain in ("Runtime", "Log", "Page"):
            self.send(f"{domain}.enable")
        self.send("Emulation.setFocusEmulationEnabled", enabled=True)  # keys reach a tab that another one covers

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._num_sent += 1
        self._socket.send(json.dumps({"id": self._num_sent, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=WAIT_S))
            if message.get("id") == self._num_sent:
                if "navigated" in str(message.get("error")):
                    raise Navigated(message)
                assert "error" not in message, message
                return dict(message["result"])
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(message["params"]))

    def press(self, *keys: str) -> None:
        """Press and let go of keys, one after another, as a keyboard does."""
        codes = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        for key in keys:
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            code = codes.get(key, ord(key.upper()) if len(key) == 1 else 0)
            self.send("Input.dispatchKeyEvent", type="keyDown", key=key, text=text, windowsVirtualKeyCode=code)
            self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def js(self, code: str) -> Any:
        """Return the value of an expression; promises are awaited."""
        found = self.send("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, code: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + WAIT_S
        while not self._holds(code):
            assert time.monotonic() < deadline, (
                f"not within {WAIT_S:g} s: {code}; the page: {self.js('document.body.innerText')}"
            )
            time.sleep(0.05)

    def _holds(self, code: str) -> bool:
        try:
            return bool(self.js(code))
        except Navigated:  # the page was loaded anew meanwhile
            return False


@contextmanager
def opened_page(url: str, folder: Path, *more: str) -> Iterator[Tab]:
    """Open a page in a browser of its own, whose profile lies in a folder, with more options of Chromium's."""
    assert CHROMIUM is not None
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--remote-debugging-port=0",
        f"--user-data-dir={folder}",
        *more,
    ]
    browser = subprocess.Popen([CHROMIUM, *options, "about:blank"], stderr=subprocess.DEVNULL)
    try:
        told, deadline = folder / "DevToolsActivePort", time.monotonic() + WAIT_S
        while not (told.exists() and told.read_text().count("\n")):
            assert time.monotonic() < deadline and browser.poll() is None, "the browser did not start"
            time.sleep(0.05)
        with opened_tab(url, folder) as tab:
            yield tab
    finally:
        browser.terminate()
        browser.wait()


@contextmanager
def opened_tab(url: str, folder: Path) -> Iterator[Tab]:
    """Open a page in a further tab of the browser whose profile lies in a folder."""
    from websockets.sync.client import connect

    new = f"http://127.0.0.1:{(folder / 'DevToolsActivePort').read_text().splitlines()[0]}/json/new?about:blank"
    with urllib.request.urlopen(urllib.request.Request(new, method="PUT"), timeout=WAIT_S) as response:
        address = json.load(response)["webSocketDebuggerUrl"]
    with connect(address, max_size=None) as socket:
        tab = Tab(socket)
        tab.send("Page.navigate", url=url)
        tab.wait_for("location.href !== 'about:blank' && document.readyState === 'complete'")
        yield tab
