"""What a study has measured so far, from its run directories as they grow."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.analysis.accounts import Account, account
from harness.analysis.efficiency import curves
from harness.analysis.points import joined
from harness.analysis.read import read_config
from harness.pace import Pace
from harness.plan.workload import times_collectives
from harness.printable import printable
from harness.quantities import loss, number
from harness.records import OPEN, attempts
from harness.report.words import headline

PATIENT_S = 1.0
"""How long one look may read points that have ended; what is left is for the next."""


class Watched:
    """Called with the points of an overview, it reads on: what each has measured, by slug, and the headline so far."""

    def __init__(self, study_dir: Path) -> None:
        self.study_dir = study_dir
        self._followed: dict[str, tuple[Path, int | None, Pace]] = {}
        self._ended: dict[str, tuple[Any, Account | str]] = {}
        self._headline: list[str] = []

    def __call__(self, points: Sequence[Mapping[str, Any]]) -> tuple[dict[str, str], list[str]]:
        figures, changed, begun = {}, False, time.monotonic()
        for point in points:
            slug, ended = point["slug"], point["status"] not in OPEN
            read = slug in self._ended and self._ended[slug][0] == point["time"]
            if ended and not read and time.monotonic() - begun < PATIENT_S:
                self._followed.pop(slug, None)
                self._ended[slug] = point["time"], account(self.study_dir / "points" / slug)
                changed = True
            told = self._ended.get(slug, (None, ""))[1]
            figures[slug] = _result(told) if ended else self._progress(slug, goes_on=not point["lost"])
        if changed:
            rows = joined(self.study_dir.name, self._accounts(points)).frame.to_dicts()
            self._headline = headline(rows, curves(rows)) if rows else []
        return printable(figures), printable(self._headline)

    def _accounts(self, points: Sequence[Mapping[str, Any]]) -> list[Account]:
        found = (self._ended.get(point["slug"], (None, ""))[1] for point in points if point["status"] not in OPEN)
        return [each for each in found if isinstance(each, Account)]

    def _progress(self, slug: str, goes_on: bool) -> str:
        """How far the latest attempt of a point is."""
        run_dir = self.study_dir / "points" / slug
        with suppress(OSError, ValueError):  # half-written, or being moved away
            for attempt in attempts(run_dir)[-1:]:
                if slug not in self._followed or self._followed[slug][0] != attempt:
                    config = read_config(run_dir)
                    self._followed[slug] = attempt, None if times_collectives(config) else config.steps, Pace(attempt)
                _, steps, pace = self._followed[slug]
                pace.read_on()
                return pace.words(steps, goes_on)
        return ""


def _result(told: Account | str) -> str:
    """What a point has come to, in the report's own figures."""
    if isinstance(told, str):
        return ""
    rate, last = told.row.get("tokens_per_s"), told.row.get("loss_last")
    figures = [f"{number(rate)} tokens/s"] * (rate is not None) + [f"loss {loss(last)}"] * (last is not None)
    return "  ".join(figures)
