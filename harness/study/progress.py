"""The bar on a terminal: step, tokens/s and time left of the point that runs."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

from harness.study.events import Pace

LOOK_S = 0.5


class WatchedPace(Pace):
    """A pace that is shown on a bar; without one it is read at the end only."""

    def __init__(self, events: Path, steps: int, bar: Bar | None) -> None:
        super().__init__(events)
        self._steps = steps
        self._bar = bar
        self._task = bar.add_task("starting", total=steps) if bar else None
        self._looked = 0.0

    def watch(self) -> None:
        """Move the bar on, at most every half second."""
        if self._bar is None or self._task is None or time.monotonic() - self._looked < LOOK_S:
            return
        self._looked = time.monotonic()
        self.read_on()
        if self.step:
            words = f"step {self.step}/{self._steps}"
            if self.tokens_per_s and self.step_s:
                left = (self._steps - self.step) * self.step_s
                words += f"  {self.tokens_per_s:,.0f} tokens/s  {left:.0f} s left"
            self._bar.update(self._task, completed=self.step, description=words)


class Progress:
    """Lines and, on a terminal, a bar below them."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        """One line on standard output; a bar that is shown stays below it."""
        if self._console.is_terminal:
            self._console.print(line, markup=False)
        else:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()

    @contextmanager
    def point(self, title: str, steps: int, events: Path) -> Iterator[WatchedPace]:
        """Watch one point while it runs."""
        if not self._console.is_terminal:
            yield WatchedPace(events, steps, None)
            return
        columns = (
            TextColumn(title.split()[0], markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.description}"),
        )
        with Bar(*columns, console=self._console, transient=True) as bar:
            yield WatchedPace(events, steps, bar)
