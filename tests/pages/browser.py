"""Chromium without a window, driven through its own protocol on a pipe: no other program is needed."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_PATIENCE = 60.0  # seconds for an answer


class Browser:
    """A page in a browser.

    Args:
        address: of the page.
        width, height: of the window, in pixels.
        folder: for the browser's own files.

    Attributes:
        errors: messages of the console that are errors, exceptions and files that could not be loaded.
        requested: addresses that the page asked for, those that hold their content left out.
    """

    def __init__(self, address: str, *, width: int, height: int, folder: Path, dark: bool = False) -> None:
        assert CHROMIUM is not None
        self.errors: list[str] = []
        self.requested: list[str] = []
        self._number, self._rest = 0, b""
        hears, self._tells = os.pipe()
        self._hears, tells = os.pipe()

        def pipes() -> None:
            above = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (hears, tells)]  # out of the way of 3 and 4
            for number, end in enumerate(above, start=3):
                os.dup2(end, number)

        options = ["--headless=new", "--no-sandbox", "--disable-gpu-sandbox", "--remote-debugging-pipe", "--mute-audio"]
        options += [f"--user-data-dir={folder}", f"--window-size={width},{height}", "--enable-unsafe-swiftshader"]
        options += ["--disable-background-networking", "--no-first-run", *(["--force-dark-mode"] if dark else [])]
        self._process = subprocess.Popen(
            [CHROMIUM, *options, "about:blank"],
            preexec_fn=pipes,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(hears)
        os.close(tells)
        pages = [one for one in self._ask("Target.getTargets")["targetInfos"] if one["type"] == "page"]
        attached = self._ask("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        if dark:
            self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        self.ask("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete'")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._ask("Browser.close")  # in order, so that its own processes end too
            self._process.wait(_PATIENCE)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._tells)
        os.close(self._hears)

    def ask(self, method: str, **values: Any) -> dict[str, Any]:
        """A command to the page, and its answer."""
        return self._ask(method, session=self._session, **values)

    def value(self, script: str) -> Any:
        """What JavaScript gives on the page, as JSON."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise AssertionError(found["exceptionDetails"])
        return found["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """Asks until JavaScript gives something that is true, and returns it."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            if found := self.value(script):
                return found
            time.sleep(0.05)
        raise AssertionError(f"never true: {script}")

    def move(self, x: float, y: float) -> None:
        """Moves the mouse there."""
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        """Moves the mouse there and clicks."""
        self.move(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """A picture of the window, or of the whole page."""
        found = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def _ask(self, method: str, *, session: str | None = None, **values: Any) -> dict[str, Any]:
        self._number += 1
        message = {
            "id": self._number,
            "method": method,
            "params": values,
            **({"sessionId": session} if session else {}),
        }
        os.write(self._tells, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            found = self._read(end)
            if found.get("id") == self._number:
                if "error" in found:
                    raise AssertionError(f"{method}: {found['error']}")
                result: dict[str, Any] = found["result"]
                return result
            self._note(found)
        raise AssertionError(f"no answer to {method}")

    def _read(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._hears], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise AssertionError("the browser says nothing")
            self._rest += os.read(self._hears, 1 << 20)
        one, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(one)
        return found

    def _note(self, event: dict[str, Any]) -> None:
        values = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(values["exceptionDetails"])[:500])
            case "Runtime.consoleAPICalled" if values["type"] in ("error", "assert"):
                self.errors.append(json.dumps(values["args"])[:500])
            case "Log.entryAdded" if values["entry"]["level"] == "error":
                self.errors.append(values["entry"]["text"])
            case "Network.requestWillBeSent":
                address = values["request"]["url"]
                if not address.startswith(("data:", "blob:")):
                    self.requested.append(address)
