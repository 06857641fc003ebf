"""Ctrl-C and its like: noted when they come, acted on where it is safe."""

import math
import signal
import time
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """The first signal that asks the controller to end; `with` catches them, later ones change nothing."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.at = 0.0

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
        if self.signal is None:
            self.signal, self.at = signal.Signals(number), time.monotonic()

    def ended(self) -> bool:
        """Whether such a signal has come."""
        return self.signal is not None

    @property
    def last_moment(self) -> float:
        """When everything has to be over: ten seconds after the signal, less what the last words take."""
        return math.inf if self.signal is None else self.at + 9.5

    @property
    def reason(self) -> str:
        assert self.signal is not None
        return f"ended by {'Ctrl-C' if self.signal is signal.SIGINT else self.signal.name} of the controller"

    @property
    def exit_code(self) -> int | None:
        """The shell's code for an end by this signal."""
        return None if self.signal is None else 128 + self.signal
