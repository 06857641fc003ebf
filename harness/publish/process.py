"""What the processes that speak to W&B have in common at their start."""

import os
import sys
from contextlib import suppress
from pathlib import Path


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
