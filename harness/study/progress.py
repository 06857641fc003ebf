"""The bar on a terminal: step, tokens/s, loss and time left of the point that runs."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

from harness.pace import Pace

LOOK_S = 0.5
STARTING = "starting"


class Progress:
    """Lines and, on a terminal, a bar below them."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        """One line on standard output; a bar that is shown stays below it.

        A line that cannot be written is dropped: that nobody can read it must end no point.
        """
        with suppress(OSError):
            if self._console.is_terminal:
                self._console.print(line, markup=False)
            else:
                sys.stdout.write(f"{line}\n")
                sys.stdout.flush()

    @contextmanager
    def point(self, title: str, steps: int, pace: Pace) -> Iterator[Callable[[], None]]:
        """Show one point while it runs: what is given is to be called again and again, and moves the bar on."""
        if not self._console.is_terminal:
            yield lambda: None
            return
        columns = (
            TextColumn(title.split()[0], markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.description}"),
        )
        with Bar(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(pace.words(steps) or STARTING, total=steps)
            looked = time.monotonic()

            def watch() -> None:
                nonlocal looked
                if time.monotonic() - looked > LOOK_S:
                    looked = time.monotonic()
                    pace.read_on()
                    bar.update(task, completed=pace.step, description=pace.words(steps) or STARTING)

            yield watch
