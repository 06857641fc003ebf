"""A benchmark's verdict: its checks in .bench/<target>.json, printed, and as an exit code."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PASSED, MISSED, UNDECIDED = 0, 1, 3


@dataclass(frozen=True)
class Check:
    """A measured value with its interval, against a bound that it must not exceed or, with `at_least`, must reach."""

    name: str
    value: float
    lo: float
    hi: float
    bound: float
    at_least: bool = False

    @property
    def ok(self) -> bool | None:
        """True or False where the whole interval lies on one side of the bound, None where it does not."""
        if self.at_least:
            return True if self.lo >= self.bound else False if self.hi < self.bound else None
        return True if self.hi <= self.bound else False if self.lo > self.bound else None


def judge(
    target: str, checks: Sequence[Check], run_dirs: Sequence[Path] = (), measured: Mapping[str, Any] | None = None
) -> int:
    """Write and print the checks; 0 if all hold, 1 if one is missed, 3 if one can't be told.

    measured: what the checks were made of, written beside them.
    """
    sha = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip() or None
    document = {
        "git_sha": sha,
        "run_dirs": [str(path) for path in run_dirs],
        "checks": [{**asdict(check), "ok": check.ok} for check in checks],
        **(measured or {}),
    }
    folder = Path(".bench")
    folder.mkdir(exist_ok=True)
    (folder / f"{target}.json").write_text(json.dumps(document, indent=2) + "\n")
    words = {True: "holds", False: "missed", None: "can't tell"}
    for check in checks:
        bound = f"{'≥' if check.at_least else '≤'} {check.bound:g}"
        sys.stdout.write(
            f"{check.name}: {check.value:.4g} [{check.lo:.4g}, {check.hi:.4g}] {bound}: {words[check.ok]}\n"
        )
    verdicts = [check.ok for check in checks]
    return MISSED if False in verdicts else UNDECIDED if None in verdicts else PASSED
