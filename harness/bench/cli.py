"""How long a person waits for the command line: help, a dry run of 100 points, a report."""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from harness.bench.judge import Check, judge

HARNESS = str(Path(sys.executable).with_name("harness"))
HUNDRED_POINTS = ["-m", "model=1b", "parallel=ddp,fsdp", "gpus_per_node=1,2,4,6,8", "seed=range(10)", "hardware=h200"]


def waits(arguments: list[str], times: int) -> list[float]:
    """Seconds of each of `times` runs of the command."""
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        subprocess.run([HARNESS, *arguments], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - begin)
    return seconds


def main() -> int:
    """Time the commands in turn; the interval is from the quickest to the slowest run."""
    checks = []
    for name, arguments, times, bound in (
        ("harness --help, seconds", ["--help"], 10, 0.5),
        ("harness run launcher=dry of 100 points, seconds", ["run", *HUNDRED_POINTS, "launcher=dry"], 3, 30.0),
        ("harness report demo, seconds", ["report", "demo"], 5, 5.0),
    ):
        seconds = waits(arguments, times)
        checks.append(Check(name, median(seconds), min(seconds), max(seconds), bound))
    return judge("cli", checks, [Path("studies/demo")])


if __name__ == "__main__":
    sys.exit(main())
