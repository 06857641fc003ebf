"""A real browser without a network: headless Chromium, told what to do over its DevTools protocol on two pipes."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")
QUIET = "no-first-run disable-background-networking disable-component-update disable-sync disable-quic"
# Names resolve to nothing and the proxy is a closed port.
OFFLINE = ("--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9")
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", *(f"--{flag}" for flag in QUIET.split()), *OFFLINE)


class Tab:
    """One page. `complaints` are what its console was told beyond logs, errors that nobody caught among it;
    `requests` the addresses that it asked for."""

    def __init__(self, send: int, receive: int) -> None:
        self.send, self.receive, self.rest = send, receive, b""
        self.numbers = itertools.count(1)
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, page: Path | str, again: bool = False) -> float:
        """Load a file; the seconds until it is read, and its figures near the top are drawn and painted.

        As if for the first time, or `again`, with what it has kept of the last one.
        """
        if not again:
            clear = "try { sessionStorage.clear() } catch { /* an empty page has none */ }"
            self.run(f"addEventListener('beforeunload', () => {{ {clear} }})")
        return self._load("Page.navigate", url=f"file://{page}")

    def reload(self) -> None:
        """As the page itself does when there is a newer one."""
        self._load("Page.reload")

    def _load(self, method: str, **parameters: Any) -> float:
        self.events.clear()
        begin = time.perf_counter()
        self.call(method, **parameters)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())
        self.until("!document.querySelector('.plot') || globalThis.Plotly")
        for _ in range(2):
            self.run("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        return time.perf_counter() - begin

    def run(self, expression: str) -> Any:
        """What a JavaScript expression, or the promise that it is, comes to."""
        asked = {"expression": expression, "awaitPromise": True, "returnByValue": True, "userGesture": True}
        answer = self.call("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = 60) -> None:
        """Wait for a JavaScript expression to be true."""
        limit = time.monotonic() + seconds
        while not self.run(expression):
            assert time.monotonic() < limit, f"never so: {expression}"
            time.sleep(0.05)

    def press(self, key: str, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            code = {"Tab": 9, "Enter": 13, "ArrowDown": 40}.get(key, 0)
            own = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **own)

    def write(self, text: str) -> None:
        """As if typed into what has the focus."""
        self.call("Input.insertText", text=text)

    def prefer(self, **features: str) -> None:
        """Media features, such as `prefers_color_scheme="dark"`; no others than these."""
        listed = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", media="screen", features=listed)

    def size(self, width: int, height: int = 1000) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def picture(self) -> bytes:
        """A PNG of the whole page."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    @property
    def complaints(self) -> list[str]:
        self.run("0")
        told = [event for event in self.events if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]
        warned = [event for event in self.events if event["method"] == "Runtime.consoleAPICalled"]
        return [json.dumps(event["params"]) for event in [*told, *warned]]

    @property
    def requests(self) -> list[str]:
        sent = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            part = os.read(self.receive, 1 << 20)
            assert part, "the browser has ended"
            self.rest += part
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)


@contextmanager
def browser(folder: Path) -> Iterator[Tab]:
    """A browser with a profile in this folder, ended at the end."""
    assert CHROMIUM is not None
    theirs, ours = os.pipe()
    mine, yours = os.pipe()

    def place() -> None:
        # it reads file descriptor 3 and writes 4; those it gets may be these, crossed
        read, write = os.dup(theirs), os.dup(yours)
        high = [os.dup(read), os.dup(write)]
        os.dup2(high[0], 3)
        os.dup2(high[1], 4)

    command = [CHROMIUM, *OPTIONS, "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}", "about:blank"]
    with open(folder / "browser.log", "w") as log:
        process = subprocess.Popen(command, preexec_fn=place, close_fds=False, stdout=log, stderr=log)
    os.close(theirs)
    os.close(yours)
    try:
        yield Tab(ours, mine)
    finally:
        # it ends by itself, and its children with it, when nobody tells it anything any more
        os.close(ours)
        os.close(mine)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
