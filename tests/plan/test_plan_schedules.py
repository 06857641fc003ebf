"""The order of passes is that of torch's schedules, and so are the microbatches that they refuse."""

from dataclasses import dataclass

import pytest
from torch.distributed.pipelining import schedules as torchs

from harness.plan.schedules import ROUNDED, in_flight, passes, rounds

KINDS = {
    "1f1b": torchs.Schedule1F1B,
    "gpipe": torchs.ScheduleGPipe,
    "interleaved": torchs.ScheduleInterleaved1F1B,
    "zero_bubble": torchs.ScheduleInterleavedZeroBubble,
}
NAMES = {
    torchs.FORWARD: "forward",
    torchs.FULL_BACKWARD: "backward",
    torchs.BACKWARD_INPUT: "backward",
    torchs.BACKWARD_WEIGHT: "weights",
}


@dataclass
class Stage:
    """What torch's schedules ask a stage when they are built."""

    stage_index: int
    num_stages: int
    group_size: int
    group_rank: int = 0
    is_first: bool = True
    is_last: bool = False
    has_backward: bool = False
    submod: None = None
    group: None = None
    device: str = "cpu"


def order(schedule: str, ranks: int, virtual_stages: int, microbatches: int) -> dict[int, list[tuple[str, int]]]:
    """torch's order of passes for every rank; its ValueError where it takes no such number of microbatches."""
    stages = [Stage(rank, ranks * virtual_stages, ranks) for rank in range(0, ranks * virtual_stages, ranks)]
    if schedule in ROUNDED:
        actions = KINDS[schedule](stages, microbatches).pipeline_order
    else:
        actions = KINDS[schedule](stages[0], microbatches)._get_pipeline_order()
    return {
        rank: [
            (NAMES[action.computation_type], action.stage_index // ranks)
            for action in own
            if action is not None and action.computation_type in NAMES
        ]
        for rank, own in actions.items()
    }


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize(
    ("schedule", "virtual_stages"),
    [("1f1b", 1), ("gpipe", 1), ("interleaved", 2), ("interleaved", 3), ("zero_bubble", 2), ("zero_bubble", 3)],
)
def test_passes_come_in_torchs_order(schedule: str, virtual_stages: int, ranks: int) -> None:
    for microbatches in range(1, 13):
        refused = schedule == "1f1b" and microbatches < ranks
        refused |= schedule in ROUNDED and microbatches % rounds(microbatches, ranks) > 0
        if refused:
            with pytest.raises(ValueError, match="icrobatches"):
                order(schedule, ranks, virtual_stages, microbatches)
            continue
        for rank, wanted in order(schedule, ranks, virtual_stages, microbatches).items():
            assert list(passes(schedule, rank, ranks, virtual_stages, microbatches)) == wanted


def test_gpipe_holds_all_microbatches_and_1f1b_as_many_as_stages_follow() -> None:
    assert in_flight("gpipe", 1, 4, 1, 16) == [16]
    assert [in_flight("1f1b", rank, 4, 1, 16) for rank in range(4)] == [[4], [3], [2], [1]]
    # 4 for each stage but the last, 2 for each rank behind, and the one that runs (arXiv:2104.04473, section 2.2)
    assert sum(in_flight("interleaved", 0, 4, 2, 16)) == 4 + 2 * 3 + 1
