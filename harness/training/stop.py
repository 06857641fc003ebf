"""A rank that is told to end: it notes that, and ends when all ranks can."""

import ctypes
import os
import signal
import threading
import time
from collections import deque

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
PATIENCE_S = 5.0
RECENT = 10
"""Steps whose longest tells how long one may take."""


class Stop:
    """The signal that this process has got, from its making on; 0 where there is none.

    torchrun sends SIGTERM to the ranks of one that has failed, too. Then a rank may wait in a collective for ever, deep
    in a library where Python hears no signal. So a thread hears it, and where a step takes four times as long as the
    longest of late, and PATIENCE_S at least, it ends the process as the signal would have.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self.signal, self.patience_s = 0, patience_s
        self.began: float | None = None
        self.durations: deque[float] = deque([0.0], RECENT)
        heard, told = os.pipe()
        os.set_blocking(told, False)
        for number in SIGNALS:
            signal.signal(number, lambda number, frame: None)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(heard,), name="stop", daemon=True).start()

    def forget(self) -> None:
        """Let a signal end the process at once, where there is nothing that it could finish."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    def wait(self, seconds: float) -> None:
        """Wait that long, or until this process is told to end."""
        end = time.monotonic() + seconds
        while not self.signal and time.monotonic() < end:
            time.sleep(0.05)

    def step_begins(self) -> None:
        self.began = time.monotonic()

    def step_ended(self) -> None:
        if self.began is not None:
            self.durations.append(time.monotonic() - self.began)
        self.began = None

    def _listen(self, heard: int) -> None:
        while (number := os.read(heard, 1)[0]) not in SIGNALS:
            continue
        self.signal = number
        while not self._stuck():
            time.sleep(self.patience_s / 10)
        # Python lets no thread but the main one do it
        ctypes.CDLL(None).signal(signal.SIGTERM, None)
        os.kill(os.getpid(), signal.SIGTERM)

    def _stuck(self) -> bool:
        began, patience_s = self.began, max(self.patience_s, 4 * max(self.durations))
        return began is not None and time.monotonic() - began > patience_s
