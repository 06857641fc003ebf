"""`make soak`: a point lives through every fault that a process, a disk and a server can have; in .bench/soak.json."""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soak_checks import at_least, checks
from soak_faults import Soak, drawn_steps, injected
from soak_point import Underway
from study_command import Command
from wandb_stub import Stub, serving

from harness.bench.judge import Check, judge

MIB = 2**20
FEWEST_FAULTS = 12


@dataclass(frozen=True)
class Form:
    """How long a point, and what happens to it, in this order. The seconds are those of a rank that hangs."""

    ranks: int
    steps: int
    every: int
    kinds: tuple[str, ...]
    hang_s: float
    seed: int = 0

    def words(self) -> tuple[str, ...]:
        shape = ("model=tiny", "parallel=fsdp", "precision=fp32", "seq_len=128", "warmup=2", "record.sample_every=25")
        size = (f"gpus_per_node={self.ranks}", f"steps={self.steps}")
        return (*shape, *size, "checkpoint=steps", f"checkpoint.every={self.every}")


# A controller waits longer before each restart, and the next one begins anew. A mirror that a full disk has ended comes
# back with the next controller. Where a controller is killed its ranks train on for some seconds: faults= comes before.
LONG = Form(
    ranks=4,
    steps=400,
    every=10,
    kinds=(
        "SIGKILL of a rank",
        "W&B outage",
        "torn record",
        "faults=hang",
        "SIGKILL of the controller",
        "SIGSTOP of a rank",
        "SIGKILL of a rank in a checkpoint",
        "SIGKILL of torchrun",
        "SIGKILL of everything",
        "full disk",
        "SIGKILL of the controller",
        "torn record",
        "SIGKILL of the controller between attempts",
        "W&B outage",
        "SIGKILL of torchrun",
        "SIGKILL of a rank",
    ),
    hang_s=15,
)


def soaked(form: Form, folder: Path, kept: Path) -> tuple[list[Check], dict[str, Any]]:
    """Run a point undisturbed and one with all the faults; the checks, and what they are made of.

    `kept` is where the disturbed one's study is then, whatever came of it.
    """
    begin = time.time()
    draw = random.Random(form.seed)
    kinds = tuple(kind for kind in form.kinds if kind != "full disk" or os.geteuid() == 0)
    steps = drawn_steps(draw, kinds, form.steps)
    whole = Command(made(folder / "undisturbed"), {})
    ended = whole("run", *form.words(), "record.wandb=disabled", seconds=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (undisturbed,) = whole.points().values()
    words = [*form.words(), "launcher.max_restarts=20", "launcher.grace_s=5"]
    words += [f"watchdog.{phase}_s={form.hang_s:g}" for phase in ("step", "checkpoint")]
    if "faults=hang" in kinds:
        at = steps[kinds.index("faults=hang")] + 1  # the driver looks on from the step before
        words += ["faults=hang", f"faults.step={at}", f"faults.rank={draw.randrange(form.ranks)}"]
    online = "W&B outage" in kinds
    words.append(f"record.wandb={'online' if online else 'disabled'}")
    with disk(made(folder / "disturbed")) as room, serving() if online else nullcontext() as server:
        variables = {"TMPDIR": str(made(folder / "tmp")), "HOME": str(made(folder / "home"))}
        command = Command(room, variables | (server.environment if server else {}))
        point = Underway(command, tuple(words))
        try:
            faults = injected(Soak(point, draw, form.ranks, server), kinds, steps)
            code = point.finish()
            found, measured = checks(point.run_dir, undisturbed, faults)
        finally:
            point.stop()
            shutil.copytree(command.folder / "studies" / "default", kept)
        found += [at_least("the last command ends well", code == 0, 1)]
        if server:
            found.append(at_least("steps in W&B's run", len(mirrored(server, point.run_dir)), form.steps))
            found.append(at_least("calls that W&B's server hung up on", server.refused, 2 * kinds.count("W&B outage")))
    absent = {} if kinds == form.kinds else {"left out": {"full disk": "only root can mount a small disk"}}
    measured |= {"seconds": time.time() - begin, "words": words, "said": point.said, "faults": faults, **absent}
    return found, measured


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


@contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """A folder on a small disk of its own, where one may be mounted."""
    mounted = os.geteuid() == 0
    if mounted:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={128 * MIB}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", "-l", folder], check=True)


def mirrored(server: Stub, run_dir: Path) -> set[int]:
    """The steps whose loss W&B has in the point's run; its study's report has one of its own."""
    run = server.runs[json.loads((run_dir / "mirror.json").read_text())["run_id"]]
    return {row["train/step"] for row in run.history if "train/loss" in row}


def main() -> int:
    study = Path("studies/soak").resolve()
    shutil.rmtree(study, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        found, measured = soaked(LONG, Path(folder), study)
    found.append(at_least("faults", len(measured["faults"]), FEWEST_FAULTS))
    return judge("soak", found, sorted(study.glob("points/*")), measured)


if __name__ == "__main__":
    sys.exit(main())
