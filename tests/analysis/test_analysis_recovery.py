"""Real steps on gloo ranks: a delay put into them is found in its part of the breakdown, and there alone."""

import json
import shutil
import time
from functools import partial
from pathlib import Path

import pytest
import tiny_training as tiny
import torch.distributed as dist
from ranks import run_ranks
from recorded_training import recorded
from run_dirs import EPOCH, add_point, make_config, make_start, make_study, record

from harness.analysis.breakdown import Breakdown, breakdowns
from harness.analysis.efficiency import curves
from harness.analysis.points import points
from harness.analysis.read import read_study
from harness.models.transformer import Block
from harness.parallel.strategy import Strategy

DATA_S, LATE_S = 0.1, 0.15
"""Long against what the ranks of a busy machine keep each other waiting."""

FLOOR_S = 0.1 * LATE_S
"""What a part may move beside a tenth of its clean value: a tenth of a delay, so that none takes the blame for another.
A whole step without delays takes some 20 ms, and parts of it move by a few."""


def sleeps(seconds: float, trained: Strategy) -> None:
    """Make rank 1 sleep in each backward pass, before its first block's."""
    if dist.get_rank() == 1:
        block = next(module for module in trained.model.modules() if isinstance(module, Block))
        block.register_full_backward_pre_hook(lambda *_: time.sleep(seconds))


def add(study: Path, ranks: int, data_s: float = 0.0, late_s: float = 0.0) -> None:
    """A point that really trained, every few steps sampled."""
    config = make_config(gpus=ranks, scaling="strong", global_batch=tiny.SEQUENCES)
    folder = study.parent / f"{study.name}-{ranks}"
    folder.mkdir()
    spoil = partial(sleeps, late_s) if late_s else None
    run_ranks(ranks, recorded, "ddp", str(folder), data_s, 1e-3, 1, {}, 3, spoil)
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    begun = min(event["start"] for event in events if event["kind"] == "step")
    start = make_start(config, begun, tokens_per_step=tiny.SEQUENCES * tiny.SEQ)
    ended = {"start": begun - 1, "end": events[-1]["time"], "exit_code": 0}
    launch = record("launch", EPOCH, command=["python"], host="host0", position=0, queue_s=None, **ended)
    path = add_point(study, config, [(launch, [start, *events])])
    shutil.copytree(folder / "nodes", path / "attempts" / "0" / "nodes")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with one rank alone, which every other grows from."""
    study = make_study(tmp_path_factory.mktemp("recovery"), "base")
    add(study, 1)
    return study


def broken_down(base: Path, name: str, **delays: float) -> Breakdown:
    study = base.parent / name
    shutil.copytree(base, study)
    add(study, 2, **delays)
    rows = points(read_study(study)).to_dicts()
    _, found = breakdowns(rows, curves(rows))
    assert found.unknown == []
    return found


@pytest.fixture(scope="module")
def clean(base: Path) -> dict[str, float]:
    return lost(broken_down(base, "clean"))


def lost(found: Breakdown) -> dict[str, float]:
    return {part.name: part.lost_s.value for part in found.parts if part.lost_s is not None}


@pytest.mark.parametrize(
    ("data_s", "late_s"),
    [
        pytest.param(DATA_S, LATE_S, id="both"),
        pytest.param(DATA_S, 0.0, id="data", marks=pytest.mark.slow),
        pytest.param(0.0, LATE_S, id="a slow rank", marks=pytest.mark.slow),
    ],
)
def test_a_delay_is_found_in_its_part_and_no_other_moves(base, clean, data_s, late_s):
    found = lost(broken_down(base, f"delayed-{data_s}-{late_s}", data_s=data_s, late_s=late_s))
    injected = {"data": data_s, "wait": late_s}
    for name, seconds in found.items():
        if put_in := injected.get(name):
            assert seconds - clean[name] == pytest.approx(put_in, rel=0.1), (name, found, clean)
        else:
            assert seconds == pytest.approx(clean[name], rel=0.1, abs=FLOOR_S), (name, found, clean)
