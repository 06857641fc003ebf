"""What came of a parity check, for people and for programs."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.parity.choices import choices
from harness.parity.compare import LOSS_TOLERANCE, NORM_TOLERANCE, Differences, Told, differences
from harness.plan.batch import tokens_per_step
from harness.study.point import Point

EQUAL, DIFFERS, FAILED, INVALID = "equal", "differs", "failed", "invalid"


@dataclass(frozen=True)
class Result:
    """One point's verdict, with what it and its reference told as far as they ran, or the reason why not."""

    point: Point
    verdict: str
    reason: str | None = None
    told: Told | None = None
    reference: Told | None = None
    differences: Differences | None = None


def judged(point: Point, told: Told | str, reference: Told | str) -> Result:
    """A point's result, from what the two trainings told or why they told nothing."""
    if isinstance(reference, str):
        return Result(point, FAILED, f"in one process: {reference}")
    if isinstance(told, str):
        return Result(point, FAILED, told, reference=reference)
    apart = differences(told, reference)
    return Result(point, EQUAL if apart.tolerable else DIFFERS, None, told, reference, apart)


class Table:
    """Rows of one width: point and what was chosen for it, ranks, largest differences, verdict."""

    def __init__(self, points: Sequence[Point]) -> None:
        chosen = choices(points)
        self.titles = {
            point.slug: " ".join([point.slug, *(f"{key}={value}" for key, value in chosen.get(point.slug, {}).items())])
            for point in points
        }
        self.width = max(map(len, self.titles.values()))

    def heading(self) -> str:
        return self._line("point", "ranks", "loss", "norm", "verdict")

    def row(self, result: Result) -> str:
        point, apart = result.point, result.differences
        loss, norm = (f"{apart.loss:.1e}", f"{apart.norm:.1e}") if apart else ("-", "-")
        verdict = f"{result.verdict}: {result.reason}" if result.reason else result.verdict
        return self._line(self.titles[point.slug], str(point.ranks), loss, norm, verdict)

    def _line(self, point: str, ranks: str, loss: str, norm: str, verdict: str) -> str:
        return f"{point:<{self.width}}  {ranks:>5}  {loss:>7}  {norm:>7}  {verdict}"


def document(results: Sequence[Result], provenance: dict[str, Any], now: float) -> dict[str, Any]:
    """The check as .bench/check-parity.json has it; what is not a number is null."""
    chosen = choices([result.point for result in results])
    return {
        "schema": 1,
        "kind": "parity",
        "time": now,
        "git": provenance["git"],
        "versions": provenance["versions"],
        "machine": provenance["machine"],
        "tolerance": {"loss": LOSS_TOLERANCE, "norm": NORM_TOLERANCE},
        "points": [_described(result, chosen.get(result.point.slug, {})) for result in results],
    }


def _described(result: Result, chosen: dict[str, Any]) -> dict[str, Any]:
    config, apart = result.point.config, result.differences
    return {
        "point": result.point.slug,
        "model": config.model.name,
        "parallel": config.parallel.name,
        "choices": chosen,
        "ranks": result.point.ranks,
        "tokens_per_step": tokens_per_step(config) if result.reference else None,
        "verdict": result.verdict,
        "reason": result.reason,
        "differences": {"loss": _number(apart.loss), "norm": _number(apart.norm)} if apart else None,
        "told": _numbers(result.told),
        "reference": _numbers(result.reference),
    }


def _numbers(told: Told | None) -> dict[str, list[float | None]] | None:
    if told is None:
        return None
    return {name: [_number(value) for value in values] for name, values in asdict(told).items()}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
