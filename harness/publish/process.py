"""What the processes that speak to W&B have in common at their start and their end."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, Protocol

AGAIN = "`harness publish wandb` uploads it again"


class Sender(Protocol):
    """What such a process is there for."""

    def run(self) -> int: ...

    def told_to_end(self, *_signal: Any) -> None: ...


def begin(folder: Path) -> None:
    """Step behind everything that is measured, and keep the W&B client within a folder and to what it is for."""
    # The measured ranks come first, also where the kernel shares out its time among sessions.
    os.nice(19)
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text("19")
    # Without a terminal the client never asks for a key.
    sys.stdin = open(os.devnull)  # noqa: SIM115
    # Set here and not in launch/, where all others are: these processes are also started by hand, and by
    # `harness publish`, which knows no launch/.
    os.environ.setdefault("WANDB_PROJECT", "scaling-harness")
    kept = folder.resolve() / "wandb"
    os.environ.setdefault("WANDB_CACHE_DIR", str(kept / "cache"))
    os.environ.setdefault("WANDB_DATA_DIR", str(kept / "data"))
    # The client's reports about itself: an offline run sends nothing, and a silent server would hold up the exit.
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    os.environ["WANDB_SILENT"] = "true"
    # The client's own process, in Go, wakes half as often where it need not look for idle processors.
    os.environ.setdefault("GOMAXPROCS", "1")


def send(folder: Path, make: Callable[[], Sender], name: str) -> int:
    """Begin in a folder, make what sends it and let it run until a signal tells it to end; the exit code."""
    begin(folder)
    try:
        made = make()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, made.told_to_end)
        return made.run()
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    except OSError as error:  # a disk that is full or gone; what is there can be published later
        print(f"the {name} ends: {error}", file=sys.stderr)  # noqa: T201
        return 1


def end_within(give_up: Callable[[str], NoReturn], seconds: float) -> None:
    """A hard end after so many seconds, for a client that never returns."""
    timer = threading.Timer(seconds, give_up, [f"W&B did not finish within {seconds:.0f} s; {AGAIN}"])
    timer.daemon = True
    timer.start()


def fail(reason: str, save: Callable[[], None]) -> NoReturn:
    """End at once as failed: `save` writes the reason into the state, standard error has it where the disk is full."""
    try:
        save()
    finally:
        with suppress(OSError):
            print(reason, file=sys.stderr)  # noqa: T201
        leave(1)


def leave(code: int) -> NoReturn:
    """End at once: the client's exit hooks may wait for a server, and all that matters is written."""
    sys.stderr.flush()
    os._exit(code)
