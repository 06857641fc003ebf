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

STEPS = 10
STEP = {"role": "measured", "start": 0.0, "duration_s": 0.1, "data_s": 0.0, "tokens": 100}
STEP |= {"grad_norm": None, "lr": 1e-3, "peak_memory_bytes": None}
SLEEPER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def write_record(attempt_dir: Path, lacks: str = "") -> None:
    """A whole record of ten steps, as rank 0 writes it, but for a field of each that it `lacks`."""
    base = {"schema": 1, "time": time.time(), "attempt": 0}
    steps = [{**STEP, "kind": "step", "step": n, "loss": 5.0 - n / 10} for n in range(1, 11)]
    for step in steps:
        step.pop(lacks, None)
    records = [*steps, {"kind": "end", "steps": 10, "tokens": 1000}]
    (attempt_dir / "events.jsonl").write_text("".join(json.dumps({**base, **record}) + "\n" for record in records))


def step_on(run_dir: Path, attempt: int) -> None:
    """Ten steps that go on from the last step of which there is a checkpoint, one a step, as a training does.

    STANDIN_FAULTS has a word for each attempt: kill3 has rank 1 killed after that step, wait3 has it wait there to be
    told to end. What tells them ends all ranks after the step that they are in.
    """
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda caught, _: told.append(caught))
    faults, rank, folder = os.environ["STANDIN_FAULTS"].split(), os.environ["RANK"], run_dir / "checkpoints"
    fault = faults[attempt] if attempt < len(faults) else ""
    folder.mkdir(exist_ok=True)
    here = run_dir / "attempts" / str(attempt)
    if rank == "0":
        before = max((int(path.name) for path in folder.iterdir()), default=0) if attempt else 0
        (here / f"first{before + 1}").touch()
    while not (agreed := list(here.glob("first*"))):
        time.sleep(0.01)
    first = int(agreed[0].name.removeprefix("first"))
    with (here / "events.jsonl").open("a", buffering=1) as events:

        def write(kind: str, **record: object) -> None:
            if rank == "0":
                whole = {"schema": 1, "kind": kind, "time": time.time(), "attempt": attempt, **record}
                events.write(json.dumps(whole) + "\n")

        for step in range(first, STEPS + 1):
            write("step", **STEP, step=step, loss=5.0 - step / 10)
            if rank == "0":
                (folder / str(step)).touch()
            # all ranks are as far before anything happens to one of them
            while not (folder / str(step)).exists():
                time.sleep(0.01)
            if fault == f"kill{step}":
                if rank == "1":
                    os.kill(os.getpid(), signal.SIGKILL)
                while not told:
                    time.sleep(0.01)
                sys.exit("a peer is gone")
            while fault == f"wait{step}" and not told:
                time.sleep(0.01)
            if told:
                write("preempted", step=step, checkpoint=True, signal=signal.Signals(told[0]).name)
                return
        write("end", steps=STEPS, tokens=100 * STEPS)


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
    if mode in ("ok", "lacking"):
        if os.environ["RANK"] == "0":
            write_record(Path(sys.argv[1]) / "attempts" / "0", "loss" if mode == "lacking" else "")
    elif mode == "steps":
        step_on(Path(sys.argv[1]), int(sys.argv[2].removeprefix("--attempt=")))
    elif mode == "endless":  # a cooperative rank
        time.sleep(600)
    elif mode == "stubborn":  # neither the rank nor what it has started ends when asked to
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
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
