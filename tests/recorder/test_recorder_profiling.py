"""Ranges around a strategy's work, which must change nothing in it; and profilers that run between marks of steps."""

from collections.abc import Sequence

import pytest
import tiny_training as tiny
import torch
from ranks import run_ranks

from harness.recorder.graphs import graphs
from harness.recorder.out_of_memory import write_snapshot
from harness.recorder.ranges import mark

STRATEGIES = {
    "ddp": ("ddp", 1, {}),
    "fsdp": ("fsdp", 2, {}),
    "fsdp_full_checkpointing": ("fsdp", 2, {"checkpointing": "full"}),
    "zero1": ("zero1", 2, {}),
    "pp": ("fsdp", 4, {"degrees": {"pp": 2}}),
    "pp_interleaved": ("ddp", 4, {"degrees": {"pp": 2}, "schedule": "interleaved", "virtual_stages": 2}),
    "pp_zero_bubble": ("fsdp", 4, {"degrees": {"pp": 2}, "schedule": "zero_bubble", "virtual_stages": 2}),
}


class Noted:
    """Ranges as they open and close: the paths of names of those that were open."""

    def __init__(self) -> None:
        self.open: list[str] = []
        self.paths: list[str] = []

    def push(self, name: str) -> None:
        self.open.append(name)
        self.paths.append("/".join(self.open))

    def pop(self) -> None:
        self.open.pop()


def trained(kind: str, accumulation: int, how: dict, marked: bool) -> tuple[list[tuple[float, float]], list[list[str]]]:
    """This rank's losses and gradient norms of three steps, and the ranges that each of them opened."""
    device = torch.device("cpu")
    strategy = tiny.build(kind, device, microbatches=accumulation, **how)
    ranges = Noted()
    if marked:
        mark(strategy, ranges)
    batches = tiny.data(*strategy.coordinates, accumulation, device)
    told, opened = [], []
    for step in range(1, 4):
        loss = strategy.forward_backward(batches.batch(step))
        told.append((loss.item(), strategy.update(tiny.LR).item()))
        assert ranges.open == [], "every range is closed again"
        opened.append(ranges.paths)
        ranges.paths = []
    return told, opened


def forms(paths: Sequence[str]) -> dict[str, int]:
    return {path: paths.count(path) for path in dict.fromkeys(paths)}


@pytest.mark.parametrize("name", STRATEGIES)
def test_ranges_tell_forward_backward_and_optimizer_and_change_no_loss(name: str) -> None:
    kind, accumulation, how = STRATEGIES[name]
    plain, with_ranges = (run_ranks(2, trained, kind, accumulation, how, marked) for marked in (False, True))
    assert [told for told, _ in with_ranges] == [told for told, _ in plain]
    stages = how.get("virtual_stages", 1)
    for rank, (_, steps) in enumerate(with_ranges):
        last = "pp" not in name or rank == 1
        # zero_bubble takes weight gradients apart: a backward pass is two, but for stages that it does not pay for
        backwards = accumulation * stages
        for opened in steps:
            told = forms(opened)
            assert told["forward"] == accumulation * stages
            assert told.get("loss", 0) == (accumulation if last else 0)
            if name == "pp_zero_bubble":
                assert backwards <= told["backward"] <= 2 * backwards
            else:
                assert told["backward"] == backwards
            assert told["optimizer"] == 1
            assert set(told) <= {"forward", "loss", "backward", "optimizer"}, "none inside another"


def compiled(marked: bool) -> tuple[list[tuple[float, float]], dict]:
    told, _ = trained("ddp", 1, {"compile": True}, marked)
    return told, graphs()


@pytest.mark.slow
def test_ranges_break_no_compiled_graph() -> None:
    [(plain, built)], [(told, rebuilt)] = (run_ranks(1, compiled, marked) for marked in (False, True))
    assert told == plain
    assert rebuilt == built
    assert rebuilt["graph_breaks"] == 0


def test_a_snapshot_that_cannot_be_written_hides_no_error(tmp_path, capsys) -> None:
    (tmp_path / "profile").write_text("in the way")
    write_snapshot(tmp_path / "profile" / "oom.rank0.pickle")
    assert "no snapshot of the GPU's memory" in capsys.readouterr().err
