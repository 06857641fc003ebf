"""A point under way, as somebody sees it who wants to disturb it."""

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from study_command import Command

from launch.local import marked

POLL_S = 0.01
PATIENCE_S = 300.0
ENDED = re.compile(r"attempt (\d+) ended (.*); starting again in ")


class Underway:
    """A point that a real controller runs; `run` gives the same command again when that was killed.

    said: what all controllers have printed. ends: how attempts have ended, by those words.
    """

    def __init__(self, command: Command, words: tuple[str, ...]) -> None:
        self.command, self.words = command, words
        self.ends: dict[int, str] = {}
        self.said: list[str] = []
        self.run()

    def run(self) -> None:
        self.controller = self.command.start("run", *self.words)
        self.listener = threading.Thread(target=self._listen, args=(self.controller,), daemon=True)
        self.listener.start()

    def _listen(self, controller: subprocess.Popen[str]) -> None:
        assert controller.stdout is not None
        for line in controller.stdout:
            self.said.append(line)
            if told := ENDED.search(line):
                self.ends[int(told[1])] = told[2]

    def finish(self) -> int:
        """Wait for the controller's own end; its exit code."""
        code = self.controller.wait(PATIENCE_S)
        self.listener.join()
        return code

    def stop(self) -> None:
        """Leave nothing behind."""
        self.controller.kill()
        self.controller.wait()
        for process in self.processes() if self.attempts() else ():
            process.kill()

    @property
    def run_dir(self) -> Path:
        (path,) = self.command.points().values()
        return path

    def attempts(self) -> list[int]:
        """The attempts that have begun to record where they are."""
        points = self.command.folder / "studies" / "default" / "points"
        return sorted(int(path.parent.name) for path in points.glob("*/attempts/*/progress.json"))

    def folder(self, attempt: int) -> Path:
        return self.run_dir / "attempts" / str(attempt)

    def wait(self, happened: Callable[[], Any]) -> Any:
        """What `happened` returns once it is something; AssertionError where the controller ends by itself before."""
        until = time.monotonic() + PATIENCE_S
        while not (found := happened()):
            assert self.controller.poll() is None, f"the controller has ended by itself: {''.join(self.said)}"
            assert time.monotonic() < until, f"waited in vain: {''.join(self.said)}"
            time.sleep(POLL_S)
        return found

    def wait_for_step(self, step: int, after: int) -> int:
        """Wait until an attempt later than `after` is at a step; which one."""

        def there() -> bool:
            attempts = self.attempts()
            return bool(attempts) and attempts[-1] > after and self.step(attempts[-1]) >= step

        self.wait(there)
        return self.attempts()[-1]

    def step(self, attempt: int) -> int:
        """The last step that rank 0 has done; 0 before the first."""
        try:
            return json.loads((self.folder(attempt) / "progress.json").read_bytes())["step"] or 0
        except ValueError:  # opened this moment, nothing written yet
            return 0

    def wait_for_end(self, attempt: int) -> None:
        """Wait until the controller says how an attempt has ended."""
        self.wait(lambda: attempt in self.ends)

    def processes(self) -> list[psutil.Process]:
        return marked(str(self.run_dir))

    def rank(self, number: int) -> psutil.Process:
        return next(process for process in self.processes() if variable(process, "RANK") == str(number))

    def agent(self) -> psutil.Process:
        """torchrun."""
        return next(process for process in self.processes() if variable(process, "RANK") is None)


def variable(process: psutil.Process, name: str) -> str | None:
    try:
        return process.environ().get(name)
    except psutil.NoSuchProcess:
        return "gone"
