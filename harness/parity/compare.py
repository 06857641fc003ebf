"""How far two trainings of the same model on the same data are apart, and how far they may be."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

LOSS_TOLERANCE = 2e-6
"""Largest difference of two losses, in nats: several times what fp32 sums in another order come to."""

NORM_TOLERANCE = 1e-5
"""Largest difference of two gradient norms before clipping, as a share of the norm."""


@dataclass(frozen=True)
class Told:
    """The loss and the gradient norm before clipping of each step."""

    losses: list[float]
    norms: list[float]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))


def read(path: Path) -> Told:
    """What a training has told."""
    return Told(**json.loads(path.read_text()))


@dataclass(frozen=True)
class Differences:
    """The largest difference over the steps: of losses, and of norms as a share of the reference's."""

    loss: float
    norm: float

    @property
    def tolerable(self) -> bool:
        return self.loss <= LOSS_TOLERANCE and self.norm <= NORM_TOLERANCE


def differences(told: Told, reference: Told) -> Differences:
    """How far a training is from its reference; infinitely far where a number is none."""
    return Differences(
        largest(abs(loss - wanted) for loss, wanted in zip(told.losses, reference.losses, strict=True)),
        largest(abs(norm / wanted - 1) for norm, wanted in zip(told.norms, reference.norms, strict=True)),
    )


def largest(gaps: Iterable[float]) -> float:
    return max(gap if math.isfinite(gap) else math.inf for gap in gaps)
