"""`harness check-parity`: a few fp32 steps of every point, against the same steps of the bare module in one process."""

import json
import shutil
import tempfile
import time
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path

from harness.config import Config
from harness.fields import default, walk
from harness.files import write_json
from harness.parity.compare import LOSS_TOLERANCE, NORM_TOLERANCE, Told
from harness.parity.launching import launch
from harness.parity.result import DIFFERS, FAILED, INVALID, Result, Table, document, judged
from harness.plan.batch import tokens_per_step
from harness.study.collect import collect
from harness.study.interruption import Interruption
from harness.study.planning import plan_all
from harness.study.point import Point, spread
from harness.study.preview import counted, here
from harness.study.progress import Progress
from harness.study.provenance import provenance
from harness.study.reference import reference
from launch.devices import Machine, machine

QUICK = {
    "precision": "fp32",
    "steps": "5",
    "warmup": "2",
    "seq_len": "128",
    "local_batch": "2",
    "launcher.timeout_s": "600",
}
"""What holds where nothing else is asked for: enough to see a difference, soon."""

UNUSED = ("workload", "checkpoint", "record", "profile", "watchdog", "faults", "launcher")
"""Groups of which nothing happens while a few steps are trained and compared, but for these keys."""
USED = ("launcher.kind", "launcher.timeout_s")

RECORD = Path(".bench/check-parity.json")


def usage() -> str:
    """The long help."""
    return f"""\
usage: harness check-parity key=value …

Trains a few fp32 steps of each point from one seed, at a constant learning rate of optimizer.lr, and the same steps
of the bare module in one process; prints the largest differences and writes {RECORD}.
Values that commas separate are swept over, as by harness run -m, and each point starts as there.

unless given: {" ".join(f"{key}={value}" for key, value in QUICK.items())}

exit codes: 0 every point agrees, losses to {LOSS_TOLERANCE:g} and gradient norms to {NORM_TOLERANCE:g} of their size;
1 one does not, or did not run; 2 a mistake

example:
  harness check-parity model=tiny parallel=fsdp,tp,pp,cp,zero3 gpus_per_node=4

{reference()}
"""


def check(arguments: list[str]) -> int:
    """Check the points that are asked for; the exit code. ValueError for a person's mistake, nothing started."""
    found = machine()
    given = {word.lstrip("+").partition("=")[0] for word in arguments}
    words = [f"{key}={value}" for key, value in QUICK.items() if key not in given]
    points = spread(collect([*words, *arguments], True, lambda: len(found.gpus)))
    reasons = [refusal(planned.point.config) or planned.impossible for planned in plan_all(points, found)]
    if all(reasons):
        raise ValueError("; ".join(dict.fromkeys(reason for reason in reasons if reason)))
    writable(RECORD.parent)
    progress, table, results = Progress(), Table(points), []
    progress.say(f"{counted(len(points), 'point')} in fp32, each against one process; here: {here(found)}")
    progress.say(table.heading())
    folder = Path(tempfile.mkdtemp(prefix="harness-check-parity-"))
    with Interruption() as interruption:
        trainings = Trainings(folder, found, interruption)
        for point, reason in zip(points, reasons, strict=True):
            result = Result(point, INVALID, reason) if reason else trainings.result(point)
            if interruption.exit_code is not None:
                shutil.rmtree(folder)
                return interruption.exit_code
            progress.say(table.row(result))
            results.append(result)
    write_json(RECORD, document(results, provenance(found), time.time()))
    bad = any(result.verdict in (DIFFERS, FAILED) for result in results)
    if bad:
        progress.say(f"logs of all processes: {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if bad else 0


def writable(folder: Path) -> None:
    """Make the folder and write into it; OSError where that cannot be, before anything has been trained."""
    folder.mkdir(exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


def refusal(config: Config) -> str | None:
    """Why a point's parity cannot be checked, whatever its strategy."""
    rounded = "rounds far above the tolerance"
    if config.precision.compute != "fp32":
        return f"precision.compute={config.precision.compute}: {rounded}; say precision=fp32, or leave it out"
    if config.precision.float8:
        return f"precision.float8=True: {rounded}; say precision=fp32, or leave it out"
    if config.optimizer.state != "fp32":
        return f"optimizer.state={config.optimizer.state}: {rounded}; say optimizer.state=fp32"
    if config.data.kind == "synthetic":
        return "data.kind=synthetic: ranks draw their own ids, other ones with each strategy; say data=bytes"
    if config.launcher.kind != "local" or config.launcher.dry:
        return f"launcher={config.launcher.name}: parity is seen by training here; say launcher=local"
    for key, item in walk():
        unused = key.split(".")[0] in UNUSED and key not in USED and not key.endswith(".name")
        if unused and (value := attrgetter(key)(config)) != default(item):
            return f"{key}={value}: has no effect in a check of parity; leave it out"
    return None


class Trainings:
    """The launches of one check; the bare module trains once for all points of the same model and data."""

    def __init__(self, folder: Path, here: Machine, interruption: Interruption) -> None:
        self.folder, self.here, self.interruption = folder, here, interruption
        self.references: dict[str, Told | str] = {}

    def result(self, point: Point) -> Result:
        """Train the point and, unless it stands already, its reference."""
        work = same_work(point.config)
        if work not in self.references:
            self.references[work] = self.launch(f"bare{len(self.references)}", point, bare=True)
        reference = self.references[work]
        told = reference if isinstance(reference, str) else self.launch(point.slug, point, bare=False)
        return judged(point, told, reference)

    def launch(self, name: str, point: Point, bare: bool) -> Told | str:
        return launch(self.folder / name, point, bare, self.here, self.interruption)


def same_work(config: Config) -> str:
    """What two points have in common that train the same model on the same data."""
    chosen = [asdict(config.model), asdict(config.data), asdict(config.optimizer)]
    return json.dumps([*chosen, config.steps, config.seed, config.seq_len, tokens_per_step(config)])
