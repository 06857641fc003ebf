"""Ctrl-C and its like: noted when they come, acted on where it is safe."""

import math
import signal
import time
from types import FrameType

GRACEFUL = (signal.SIGTERM, signal.SIGUSR2)
"""What Slurm tells a job with; ranks then have time for a last checkpoint."""
SIGNALS = (signal.SIGINT, signal.SIGHUP, *GRACEFUL)


class Interruption:
    """The first signal that asks the controller to end; `with` catches them.

    Later ones change nothing, but for Ctrl-C, which a person presses who will not wait for a checkpoint.
    `granted_s` is how long ranks have had for that.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.at = self.granted_s = 0.0

    def __enter__(self) -> "Interruption":
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        for number, handler in self._before.items():
            if handler is not signal.SIG_IGN:  # nohup stays nohup
                signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None or (self.graceful and number == signal.SIGINT):
            self.signal, self.at, self.granted_s = signal.Signals(number), time.monotonic(), 0.0

    def ended(self) -> bool:
        """Whether such a signal has come."""
        return self.signal is not None

    @property
    def graceful(self) -> bool:
        """Whether it leaves time for a checkpoint."""
        return self.signal in GRACEFUL

    @property
    def last_moment(self) -> float:
        """When everything has to be over: ten seconds after the ranks' time, less what the last words take."""
        return math.inf if self.signal is None else self.at + self.granted_s + 9.5

    @property
    def name(self) -> str:
        """The signal as a person knows it."""
        assert self.signal is not None
        return "Ctrl-C" if self.signal is signal.SIGINT else self.signal.name

    @property
    def reason(self) -> str:
        return f"ended by {self.name} of the controller"

    @property
    def exit_code(self) -> int | None:
        """The shell's code for an end by this signal."""
        return None if self.signal is None else 128 + self.signal
