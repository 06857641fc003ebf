"""What a study has measured so far, from its run directories as they grow."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.analysis.accounts import Account, account
from harness.analysis.efficiency import curves
from harness.analysis.points import joined
from harness.analysis.read import Record, read_config
from harness.analysis.tail import Tail
from harness.report.words import headline, loss, number

UNFINISHED = ("pending", "queued", "running")
PATIENT_S = 1.0
"""How long one look may read points that have ended; what is left is for the next."""


class Watched:
    """Called with the points of an overview, it reads on: what each has measured, by slug, and the headline so far."""

    def __init__(self, study_dir: Path) -> None:
        self.study_dir = study_dir
        self._paces: dict[str, Pace] = {}
        self._ended: dict[str, tuple[Any, Account | str]] = {}
        self._headline: list[str] = []

    def __call__(self, points: Sequence[Mapping[str, Any]]) -> tuple[dict[str, str], list[str]]:
        figures, changed, begun = {}, False, time.monotonic()
        for point in points:
            slug, ended = point["slug"], point["status"] not in UNFINISHED
            known, told = self._ended.get(slug, (None, ""))
            if ended and known != point["time"] and time.monotonic() - begun < PATIENT_S:
                self._paces.pop(slug, None)
                told = account(self.study_dir / "points" / slug)
                self._ended[slug] = point["time"], told
                changed = True
            figures[slug] = _result(told) if ended else self._progress(slug, goes_on=not point["lost"])
        if changed:
            rows = joined(self.study_dir.name, self._accounts(points)).frame.to_dicts()
            self._headline = headline(rows, curves(rows)) if rows else []
        return figures, self._headline

    def _accounts(self, points: Sequence[Mapping[str, Any]]) -> list[Account]:
        found = (self._ended.get(point["slug"], (None, ""))[1] for point in points if point["status"] not in UNFINISHED)
        return [each for each in found if isinstance(each, Account)]

    def _progress(self, slug: str, goes_on: bool) -> str:
        with suppress(OSError, ValueError):  # half-written, or being moved away
            pace = self._paces.setdefault(slug, Pace(self.study_dir / "points" / slug))
            pace.read_on()
            return pace.told(goes_on)
        return ""


class Pace:
    """How far a point's latest attempt is, and how fast it goes on its slowest rank."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._tail = Tail(run_dir)
        self._steps: int | None = None
        self._begin(0)

    def _begin(self, attempt: int) -> None:
        self._attempt = attempt
        self._step = self._timed = self._tokens = self._benchmarks = 0
        self._loss: float | None = None
        # seconds of the measured steps on rank 0; on the slowest rank they last this many times as long
        self._seconds, self._stretch = 0.0, 1.0
        self._recent: list[tuple[int, float]] = []

    def read_on(self) -> None:
        """Take what was written since the last call."""
        for attempt, record in self._tail.read():
            if attempt > self._attempt:
                self._begin(attempt)
            if attempt == self._attempt:
                self._take(record)

    def _take(self, record: Record) -> None:
        if record["kind"] == "step":
            self._step = record["step"]
            self._loss = record["loss"] if record["loss"] is not None else self._loss
            if record["role"] == "measured":
                self._timed += 1
                self._tokens += record["tokens"]
                self._seconds += record["duration_s"]
                self._recent.append((record["step"], record["duration_s"]))
        elif record["kind"] == "ranks":
            self._recent = [(step, seconds) for step, seconds in self._recent if step > record["step_last"]]
            own = self._seconds - sum(seconds for _, seconds in self._recent)
            self._stretch = record["window_s"] / own if own > 0 and record["window_s"] else 1.0
        elif record["kind"] == "benchmark":
            self._benchmarks += 1

    def told(self, goes_on: bool) -> str:
        """All of it as a person reads it; what is left only of a point that goes on."""
        if self._benchmarks:
            return f"{self._benchmarks} figures"
        if not self._step:
            return ""
        if self._steps is None:
            self._steps = read_config(self._run_dir).steps
        told = [f"step {self._step:,} of {self._steps:,}"]
        seconds = self._seconds * self._stretch
        if seconds > 0:
            told.append(f"{number(self._tokens / seconds)} tokens/s")
        if self._loss is not None:
            told.append(f"loss {loss(self._loss)}")
        if goes_on and seconds > 0 and self._step < self._steps:
            told.append(_left((self._steps - self._step) * seconds / self._timed))
        return "  ".join(told)


def _result(told: Account | str) -> str:
    """What a point has come to, in the report's own figures."""
    if isinstance(told, str):
        return ""
    rate, last = told.row.get("tokens_per_s"), told.row.get("loss_last")
    figures = [f"{number(rate)} tokens/s"] * (rate is not None) + [f"loss {loss(last)}"] * (last is not None)
    return "  ".join(figures)


def _left(seconds: float) -> str:
    """How long the steps that are left take: `40 s left`, `12 min left`, `3.4 h left`."""
    if seconds < 120:
        return f"{seconds:.0f} s left"
    return f"{seconds / 60:.0f} min left" if seconds < 7200 else f"{seconds / 3600:.1f} h left"
