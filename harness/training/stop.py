"""A rank that is told to end: it notes that, and ends when all ranks can."""

import signal
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)


class Stop:
    """The signal that this process has got, from its making on; 0 where there is none."""

    def __init__(self) -> None:
        self.signal = 0
        for number in SIGNALS:
            signal.signal(number, self._note)

    def forget(self) -> None:
        """Let a signal end the process at once, where there is nothing that it could finish."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
