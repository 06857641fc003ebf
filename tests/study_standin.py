"""A worker that only behaves: what the launcher does with ranks that fail, hang or refuse to end needs no training.

`python -m study_standin RUN_DIR --attempt=K`, started by torchrun in the place of harness.worker; STANDIN says how.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

SLEEPER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def write_record(attempt_dir: Path) -> None:
    """A whole record of ten steps, as rank 0 writes it."""
    base = {"schema": 1, "time": time.time(), "attempt": 0}
    steps = [
        {"kind": "step", "step": n, "role": "measured", "tokens": 100, "duration_s": 0.1, "loss": 5.0 - n / 10}
        for n in range(1, 11)
    ]
    records = [*steps, {"kind": "end", "steps": 10, "tokens": 1000}]
    (attempt_dir / "events.jsonl").write_text("".join(json.dumps({**base, **record}) + "\n" for record in records))


def fall(mode: str) -> None:
    """Rank 1 fails in the way of the mode, the others wait."""
    if os.environ["RANK"] != "1":
        time.sleep(600)
    if mode == "oom":
        raise type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")
    if mode == "diverged":
        raise type("Diverged", (RuntimeError,), {})("loss is nan at step 3")
    if mode == "comm":
        raise type("DistBackendError", (RuntimeError,), {})("NCCL error: unhandled system error")
    if mode == "exit":
        sys.stderr.write("nothing to be done\n")
        sys.exit(7)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    mode = os.environ["STANDIN"]
    if mode == "ok":
        if os.environ["RANK"] == "0":
            write_record(Path(sys.argv[1]) / "attempts" / "0")
    elif mode == "endless":  # a cooperative rank
        time.sleep(600)
    elif mode == "stubborn":  # neither the rank nor what it has started ends when asked to
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen([sys.executable, "-c", SLEEPER], start_new_session=True)
        time.sleep(600)
    elif mode == "moved":  # as by a person, or a file server that is gone
        study = Path(sys.argv[1]).parents[1]
        study.rename(study.with_name("away"))
        time.sleep(600)
    elif mode == "vanish":  # as if the disk were gone
        shutil.rmtree(Path(sys.argv[1]).parents[1])
    elif mode == "leaving":  # ends well, but leaves something behind
        subprocess.Popen([sys.executable, "-c", SLEEPER], start_new_session=True)
        if os.environ["RANK"] == "0":
            write_record(Path(sys.argv[1]) / "attempts" / "0")
    else:
        from torch.distributed.elastic.multiprocessing.errors import record

        record(fall)(mode)


if __name__ == "__main__":
    main()
