"""How two trainings are compared."""

import math

import pytest

from harness.parity.compare import LOSS_TOLERANCE, NORM_TOLERANCE, Told, differences

REFERENCE = Told(losses=[5.0, 4.0, 3.0], norms=[10.0, 0.5, 2.0])


def test_the_largest_difference_counts_and_norms_count_by_their_size() -> None:
    apart = differences(Told([5.0, 4.0 - 3e-6, 3.0 + 1e-6], [10.0 + 1e-4, 0.5 - 1e-5, 2.0]), REFERENCE)
    assert apart.loss == pytest.approx(3e-6)
    assert apart.norm == pytest.approx(2e-5)


@pytest.mark.parametrize(
    ("loss", "norm", "tolerable"),
    [
        (0.9 * LOSS_TOLERANCE, 0.9 * NORM_TOLERANCE, True),
        (1.1 * LOSS_TOLERANCE, 0.0, False),
        (0.0, -1.1 * NORM_TOLERANCE, False),
        (math.nan, 0.0, False),
        (0.0, math.nan, False),
        (math.inf, 0.0, False),
    ],
)
def test_both_have_to_be_within_tolerance_at_every_step(loss: float, norm: float, tolerable: bool) -> None:
    told = Told([5.0, 4.0 + loss, 3.0], [10.0 * (1 + norm), 0.5, 2.0])
    assert differences(told, REFERENCE).tolerable is tolerable
