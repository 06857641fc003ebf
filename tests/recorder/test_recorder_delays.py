"""On gloo ranks: who is late by a known time is named, and the others' waiting is that time."""

import functools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import jsonschema
import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from recorded_training import recorded, records, samples
from run_dirs import validator
from torch.nn.parallel import DistributedDataParallel

from harness.analysis.stragglers import Arrivals, arrivals
from harness.models.transformer import Block
from harness.parallel.strategy import Strategy
from harness.recorder import exchange
from harness.recorder.exchange import Exchange
from harness.recorder.operations import Operation, StepOperations
from harness.recorder.sample import PARTS, Window
from harness.recorder.samples import Samples

DELAY_S = 0.15
"""Long against what the ranks of a busy machine keep each other waiting."""


def sleeps(late: int, seconds: float, trained: Strategy) -> None:
    """Make one rank sleep in each backward pass, before its first block's."""
    if dist.get_rank() == late:
        block = next(module for module in trained.model.modules() if isinstance(module, Block))
        block.register_full_backward_pre_hook(lambda *_: time.sleep(seconds))


@pytest.fixture(scope="module")
def delayed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Arrivals]]:
    """A run's folder, and who came last in it; the same run is made once for all tests."""

    @functools.cache
    def run(ranks: int, kind: str, late: int | None, degree: str | None = None) -> tuple[Path, Arrivals]:
        folder = tmp_path_factory.mktemp("delayed")
        return folder, delay(folder, ranks, kind, late, **({"degrees": {degree: 2}} if degree else {}))

    return run


def delay(folder: Path, ranks: int, kind: str, late: int | None, **how) -> Arrivals:
    """Who came last in a run with every third step sampled, one of whose ranks is late."""
    spoil = None if late is None else partial(sleeps, late, DELAY_S)
    # a late rank sleeps in each microbatch
    microbatches = how.get("degrees", {}).get("pp", 1)
    run_ranks(ranks, recorded, kind, str(folder), 0.0, 1e-3, microbatches, how, 3, spoil)
    steps = {(0, record["step"]): record["duration_s"] for record in records(folder, "step")}
    return arrivals(samples(folder), steps)


def waited(folder: Path, late: int) -> list[float]:
    """Median over sampled steps of what each other rank waited for the late one."""
    told: dict[int, list[float]] = {}
    for record in samples(folder):
        if record["rank"] != late:
            found = {waited["rank"]: waited["wait_s"] for waited in record["waited_for"]}
            told.setdefault(record["rank"], []).append(found.get(late, 0.0))
    return [median(found) for found in told.values()]


@pytest.mark.parametrize(
    ("ranks", "kind", "degree"),
    [
        (2, "ddp", None),
        pytest.param(2, "fsdp", None, marks=pytest.mark.slow),
        (2, "fsdp", "tp"),
        pytest.param(4, "ddp", None, marks=pytest.mark.slow),
    ],
    ids=["ddp on 2", "fsdp on 2", "tp on 2", "ddp on 4"],
)
def test_a_rank_that_is_late_is_named_with_how_late_it_is(delayed, ranks, kind, degree):
    found = delayed(ranks, kind, 1, degree)[1].straggler
    assert found is not None
    assert found.rank == 1
    assert found.caused_s == pytest.approx(DELAY_S, rel=0.1)


def test_every_other_rank_waits_as_long_as_one_is_late(delayed):
    folder, _ = delayed(2, "ddp", 1, None)
    assert waited(folder, 1) == pytest.approx([DELAY_S], rel=0.1)


def test_of_groups_that_wait_for_each_other_the_one_rank_that_is_late_is_named(delayed):
    """Ranks 0 and 1 share layers, and so do 2 and 3; 0 and 2, 1 and 3 share parameters."""
    _, found = delayed(4, "fsdp", 3, "tp")
    assert found.straggler is not None
    assert found.straggler.rank == 3


@pytest.mark.parametrize(
    ("ranks", "kind", "degree"),
    [
        (2, "ddp", None),
        (2, "fsdp", None),
        (2, "fsdp", "tp"),
        pytest.param(4, "fsdp", None, marks=pytest.mark.slow),
        (2, "ddp", "pp"),
    ],
    ids=["ddp on 2", "fsdp on 2", "tp on 2", "fsdp on 4", "pp on 2"],
)
def test_with_nobody_late_nobody_is_named(delayed, ranks, kind, degree):
    """The stages of a pipeline end one after another, for which none of them is to blame."""
    assert delayed(ranks, kind, None, degree)[1].straggler is None


def test_records_say_who_came_last_and_how_long_it_was_waited_for(delayed):
    """In the last of ddp's all-reduces; of two ranks one waits, and the median is half of that."""
    folder, found = delayed(2, "ddp", 0, None)
    assert found.last_rank == 0
    told = records(folder, "collectives")
    assert len(told) == 6
    for record in told:
        assert (record["last"], record["partial"]) == ({"rank": 0, "share": 1.0}, False)
        moved = record["groups"]["dp"]["all_reduce"]
        assert moved["transfer_s"] + moved["wait_s"] == pytest.approx(moved["seconds"])
    assert median(record["groups"]["dp"]["all_reduce"]["wait_s"] for record in told) == pytest.approx(
        DELAY_S / 2, rel=0.1
    )
    exposed = records(folder, "exposure")
    assert median(record["wait_s"] for record in exposed) == pytest.approx(DELAY_S / 2, rel=0.1)
    assert median(record["exposed_wait_s"] for record in exposed) == pytest.approx(DELAY_S / 2, rel=0.1)


@pytest.mark.parametrize(("degree", "stages"), [(None, False), ("pp", True)])
def test_every_ranks_parts_tile_its_step_and_pipelines_alone_have_a_bubble(delayed, degree, stages):
    folder, _ = delayed(2, "ddp", None, degree)
    told = samples(folder)
    assert len(told) == 12
    for record in [*told, *records(folder, "exposure")]:
        jsonschema.validate(record, validator().schema)
        assert (record["bubble_s"] is not None) == stages
    for record in told:
        assert sum(record[name] or 0.0 for name in PARTS) == pytest.approx(record["step_s"])
        assert record["compute_s"] > 0
        if stages:
            assert record["bubble_s"] > 0


class Written:
    """In place of a file: what was written."""

    def __init__(self):
        self.records = []

    def write(self, kind, **record):
        self.records.append(record | {"kind": kind})


def differing() -> tuple[bool, int, list[bool]]:
    """Of three ranks two share a group, and one of these has an all-reduce in it that the other has not.

    Whether the rank's sample is partial, how many operations it has split, which records are partial.
    """
    node, writer = Written(), Written()
    rank = dist.get_rank()
    pair = dist.new_group([0, 1], group_desc="pair")
    labels = {dist.group.WORLD.group_name: ("dp", 3)}
    if rank < 2:
        labels[pair.group_name] = ("tp", 2)
    kept = Samples(Exchange(torch.device("cpu")), labels, 8, rank, writer if rank == 0 else None, node)
    same = Operation("all_reduce", "dp", 3, 1 << 20, 0.0, 0.5)
    more = Operation("all_reduce", "tp", 2, 1 << 20, 1.0, 0.5)
    kept.add(StepOperations(1, [same, more] if rank == 0 else [same], partial=False), Window(0, 2.0))
    kept.finish()
    (own,) = node.records
    return own["partial"], own["operations"], [record["partial"] for record in writer.records]


def test_ranks_of_one_group_that_saw_different_operations_are_told_as_partial():
    """In their own group alone: the other one is split, on the rank outside without a doubt."""
    assert run_ranks(3, differing) == [(True, 1, [True]), (True, 1, []), (False, 1, [])]


def first_two(limit: int) -> list[list[float]]:
    exchange.GATHERED = limit
    rows = Exchange(torch.device("cpu")).gather(torch.tensor([float(dist.get_rank())])).result()
    return rows.tolist()


def test_rows_come_from_the_first_ranks_alone():
    assert run_ranks(3, first_two, 2) == [[[0.0], [1.0]], [[0.0], [1.0]], []]
    assert run_ranks(3, first_two, 3) == [[[0.0], [1.0], [2.0]]] * 3


def by_ddp(folder: str) -> float:
    """Seconds of communication in a step that DDP itself saw no computation beside, mean over all steps."""
    own = []

    def watch(trained: Strategy) -> None:
        (model,) = trained.parts
        assert isinstance(model, DistributedDataParallel)
        # of every iteration, not of the first ones alone; it tells averages so far
        model._set_ddp_runtime_logging_sample_rate(1)
        model.register_forward_pre_hook(lambda *_: own.append(dict(model._get_ddp_logging_data())))
        sleeps(1, DELAY_S, trained)

    recorded("ddp", folder, every=3, spoil=watch)
    last = own[-1]
    exposed = last["avg_backward_comm_time"] - last["avg_backward_compute_comm_overlap_time"]
    return exposed / 1e9


def test_exposed_communication_is_what_ddp_itself_tells(tmp_path):
    """Means of all steps against the median of sampled ones, on the rank that waits: within 10 %."""
    expected = run_ranks(2, by_ddp, str(tmp_path))[0]
    told = [record for record in samples(tmp_path) if record["rank"] == 0]
    exposed = median(record["exposed_transfer_s"] + record["exposed_wait_s"] for record in told)
    assert exposed == pytest.approx(expected, rel=0.1)
