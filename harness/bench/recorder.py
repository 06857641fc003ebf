"""What the recorder costs: whole launches with it and with nothing attached, in pairs: off on, on off, off on …"""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.bench.judge import Check, judge
from harness.bench.launches import Stamps, bare, recorded
from harness.bench.pairs import Share, pace, share
from harness.config import Config
from harness.plan.window import sampled_steps
from harness.recorder.recorder import FLUSH_STEPS
from harness.study.collect import collect
from harness.study.planning import Planned, plan_all
from harness.study.point import spread
from harness.study.progress import Progress
from harness.study.rundir import open_study
from launch.devices import Machine, machine

FOLDER = Path(".bench/recorder")
ON_GPUS = ("model=1b", "parallel=fsdp", "precision=bf16", "compile=true", "seq_len=8192", "local_batch=2", "steps=85")
ON_CPUS = ("model=tiny", "parallel=fsdp", "gpus_per_node=2", "seq_len=256", "local_batch=6", "steps=85")
"""On CPUs steps of about 0.2 s: as long beside what the recorder does as those of 1b on a GPU."""

FEWEST_PAIRS = 5
FEWEST_WINDOWS = 3
GPU_BOUND, CPU_BOUND, CPU_BOUND_WITH_WINDOWS = 0.003, 0.015, 0.03
OUTSIDE = "the recorder's share of a step outside sampled windows"
WHOLE = "the recorder's share of a step with sampled windows"

Pair = dict[str, dict[str, Any]]


def main(words: Sequence[str]) -> int:
    """Compare launches of the point that the words ask for; the verdict's exit code, or 2 for a mistake."""
    here, progress = machine(), Progress()
    try:
        pairs, chosen = asked(words, len(here.gpus))
        sides = {side: launches(chosen, side, pairs, here) for side in ("off", "on")}
    except ValueError as error:
        sys.stderr.write(f"bench-recorder: {error}\n")
        return 2
    progress.say(f"{pairs} pairs of launches: {' '.join(chosen)}")
    shutil.rmtree(FOLDER, ignore_errors=True)
    try:
        measured = [pair(number, sides, here, progress) for number in range(pairs)]
    except RuntimeError as error:
        sys.stderr.write(f"bench-recorder: {error}\n")
        return 1
    outside, whole = (share([(p["off"][key], p["on"][key]) for p in measured]) for key in ("outside", "whole"))
    if here.gpus:
        progress.say(f"{WHOLE}: {whole.value:.4g} [{whole.lo:.4g}, {whole.hi:.4g}]")
    run_dirs = [planned.point.run_dir for side in sides.values() for planned in side]
    found = {"words": chosen, "pairs": measured, "outside": asdict(outside), "whole": asdict(whole)}
    return judge("recorder", checks(outside, whole, bool(here.gpus)), run_dirs, found)


def asked(words: Sequence[str], gpus: int) -> tuple[int, list[str]]:
    """How many pairs, and the words of the point: the given ones in place of the usual; ValueError for too few."""
    given = {word.lstrip("+").partition("=")[0] for word in words}
    pairs = [str(FEWEST_PAIRS), *(word.partition("=")[2] for word in words if word.startswith("pairs="))][-1]
    if not pairs.isdecimal() or int(pairs) < FEWEST_PAIRS:
        raise ValueError(f"pairs={pairs}: must be at least {FEWEST_PAIRS}")
    usual = (*ON_GPUS, f"gpus_per_node={gpus}") if gpus else ON_CPUS
    kept = [word for word in usual if word.partition("=")[0] not in given]
    return int(pairs), [*kept, *(word for word in words if not word.startswith("pairs="))]


def launches(words: Sequence[str], side: str, pairs: int, here: Machine) -> list[Planned]:
    """The launches of one side: the repeats of a point, in a study of that name. ValueError where it can't be run."""
    fixed = (f"root={FOLDER}", f"study={side}", f"repeats={pairs}")
    (config,) = collect([*words, *fixed], False, lambda: len(here.gpus))
    check(config)
    planned = plan_all(spread([config]), here)
    if impossible := planned[0].impossible:
        raise ValueError(impossible)
    return planned


def check(config: Config) -> None:
    """Raise ValueError for a point whose launches would tell nothing here."""
    every = config.record.sample_every
    if config.launcher.kind != "local" or config.launcher.dry:
        raise ValueError(f"launcher={config.launcher.name}: launches are timed on this machine; say launcher=local")
    if every <= 2 * FLUSH_STEPS:
        raise ValueError(
            f"record.sample_every={every}: must be above {2 * FLUSH_STEPS}, or no steps lie outside windows"
        )
    if sampled_steps(config.steps, config.warmup, every) < FEWEST_WINDOWS:
        least = config.warmup + FEWEST_WINDOWS * every
        raise ValueError(f"steps={config.steps}: must be at least {least}, for {FEWEST_WINDOWS} sampled windows")


def pair(number: int, sides: Mapping[str, Sequence[Planned]], here: Machine, progress: Progress) -> Pair:
    """The launches of a pair: every other one begins with the recorder, so that drift does not pose as its cost."""
    found: Pair = {}
    for side in ("off", "on") if number % 2 == 0 else ("on", "off"):
        found[side] = launched(side, sides[side][number], here, progress)
        times = "{outside:.5f} s a step outside sampled windows, {whole:.5f} s with them".format(**found[side])
        progress.say(f"pair {number + 1} of {len(sides[side])}, {side}: {times}")
    return found


def launched(side: str, planned: Planned, here: Machine, progress: Progress) -> dict[str, Any]:
    """One launch: its pace, what its ranks saw of variables, and how busy the machine was before."""
    config, load = planned.point.config, os.getloadavg()[0]
    open_study(planned.point.study_dir, config.study)
    stamps: Stamps = bare(planned, here) if side == "off" else recorded(planned, here, progress)
    kept = pace(stamps.seconds, config.warmup, config.record.sample_every, FLUSH_STEPS)
    return {**asdict(kept), "load": load, "variables": stamps.variables}


def checks(outside: Share, whole: Share, gpus: bool) -> list[Check]:
    """The shares against the bounds that hold on this kind of device."""
    if gpus:
        return [Check(OUTSIDE, outside.value, outside.lo, outside.hi, GPU_BOUND)]
    return [
        Check(OUTSIDE, outside.value, outside.lo, outside.hi, CPU_BOUND),
        Check(WHOLE, whole.value, whole.lo, whole.hi, CPU_BOUND_WITH_WINDOWS),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
