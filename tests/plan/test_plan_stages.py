"""Blocks are shared out over stages as evenly as they go, and stages over ranks in turns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.plan.stages import layers_of, stages_of

models = st.integers(1, 64).flatmap(lambda stages: st.tuples(st.integers(stages, 200), st.just(stages)))


@given(models)
def test_every_block_is_on_one_stage_and_their_order_is_kept(model):
    layers, stages = model
    shares = layers_of(layers, stages)
    assert len(shares) == stages
    assert [index for share in shares for index in share] == list(range(layers))


@given(models)
def test_stages_differ_by_one_block_at_most(model):
    sizes = [len(share) for share in layers_of(*model)]
    assert max(sizes) - min(sizes) <= 1
    assert sizes[-1] == min(sizes)


@pytest.mark.parametrize(
    ("layers", "stages", "sizes"),
    [(8, 4, [2, 2, 2, 2]), (5, 2, [3, 2]), (6, 4, [1, 2, 2, 1]), (7, 4, [2, 2, 2, 1]), (9, 4, [2, 3, 2, 2])],
)
def test_what_is_left_over_goes_to_the_middle_first_and_to_the_last_stage_never(layers, stages, sizes):
    assert [len(share) for share in layers_of(layers, stages)] == sizes


def test_ranks_take_stages_in_turns():
    assert [list(stages_of(rank, 2, 2)) for rank in range(2)] == [[0, 2], [1, 3]]
