"""What a benchmark of collectives will do, what names it, and what of a configuration it has no use for."""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from plan_configs import config, model

from harness.config import Config, Nccl, Optimizer, Workload
from harness.fields import check_fields
from harness.plan.benchmark import ASSUMED_START, GIB, BenchmarkPlan, called, plan_benchmark, size_text, sizes
from harness.study.point import Point, identity, spread

KIB, MIB = 2**10, 2**20
DOCS = Path(__file__).parents[2] / "docs"


def benchmark(**changes) -> Config:
    workload = Workload("collectives", "collectives", **changes.pop("workload", {}))
    return config(workload=workload, gpus_per_node=changes.pop("gpus_per_node", 2), **changes)


def planned(asked: Config) -> BenchmarkPlan:
    """Its plan on CPU processes, as a command comes to it."""
    check_fields(asked)
    return plan_benchmark(asked, False, 2 * GIB)


def test_sizes_are_powers_of_two_up_to_4_gib_on_gpus_and_16_mib_on_cpus() -> None:
    on_gpus = sizes(benchmark(), "cuda")
    assert (on_gpus[0], on_gpus[-1], len(on_gpus)) == (KIB, 4 * GIB, 23)
    assert all(second == 2 * first for first, second in pairwise(on_gpus))
    assert sizes(benchmark(), "cpu")[-1] == 16 * MIB
    assert sizes(benchmark(workload={"min_bytes": 64, "max_bytes": 64}), "cpu") == [64]


def test_a_rank_has_an_equal_part_of_what_is_called_in_whole_16_bytes() -> None:
    assert called("all_reduce", KIB, 3) == KIB
    assert called("all_gather", KIB, 3) == 3 * 336
    assert called("reduce_scatter", KIB, 8) == KIB
    assert called("all_to_all", KIB, 128) == 0


def test_a_figure_is_made_of_each_operation_and_size_and_of_small_ones_on_gpus_in_a_graph_too() -> None:
    on_gpus = plan_benchmark(benchmark(), True, None)
    assert on_gpus.entries == 6 * (23 + 15)
    assert on_gpus.seconds and on_gpus.gpu_hours == pytest.approx(on_gpus.seconds * 2 / 3600)
    on_cpus = plan_benchmark(benchmark(workload={"op": "all_gather", "max_bytes": 2 * KIB}), False, None)
    assert (on_cpus.operations, on_cpus.entries, on_cpus.seconds) == (("all_gather",), 2, None)


@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_the_whole_takes_as_long_as_the_documentation_says(ranks: int) -> None:
    planned = plan_benchmark(benchmark(gpus_per_node=ranks), True, None)
    [told] = re.findall(r"planned as about (\d+) s", (DOCS / "collectives.md").read_text())
    assert planned.seconds == pytest.approx(ASSUMED_START + float(told))


def test_memory_holds_what_an_operation_reads_and_writes() -> None:
    def buffers(op: str, ranks: int = 4) -> int:
        asked = {"op": op, "max_bytes": 8 * GIB}
        return plan_benchmark(benchmark(workload=asked, gpus_per_node=ranks), True, None).memory - 2 * GIB

    assert buffers("all_reduce") == buffers("broadcast") == 8 * GIB
    assert buffers("all_gather") == buffers("reduce_scatter") == 10 * GIB
    assert buffers("all_to_all") == buffers("send_recv") == buffers("all") == 16 * GIB


@pytest.mark.parametrize(
    ("workload", "ranks", "sentence"),
    [
        ({"min_bytes": 2048, "max_bytes": 1024}, 2, "workload.min_bytes=2048: must be at most workload.max_bytes=1024"),
        ({"min_bytes": 1000}, 2, "workload.min_bytes=1000: must be a power of two, such as 512"),
        ({"max_bytes": 3 * MIB}, 2, "workload.max_bytes=3145728: must be a power of two, such as 2097152"),
        ({"min_bytes": 32 * MIB}, 2, "the largest on CPU processes unless max_bytes says more"),
        ({"min_bytes": 8}, 2, "workload.min_bytes=8: must be at least 16"),
        ({"op": "allreduce"}, 2, "did you mean 'all_reduce'?"),
        ({}, 1, "gpus_per_node=1: workload=collectives needs at least 2 ranks"),
        ({"op": "all_gather", "min_bytes": 16, "max_bytes": 16}, 2, "must be at least 32 for all_gather"),
        ({"max_bytes": 2 * GIB}, 2, "needs about 4.2 GiB on a rank, more than this machine's memory"),
    ],
)
def test_what_cannot_run_is_refused_in_one_sentence(workload, ranks, sentence) -> None:
    asked = benchmark(workload=workload, gpus_per_node=ranks)
    with pytest.raises(ValueError) as refused:
        planned(asked)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_slug_tells_the_benchmark_from_training_at_a_glance() -> None:
    made = Point(benchmark(nccl=Nccl("ring", {"NCCL_ALGO": "ring"}), workload={"op": "all_reduce"})).slug
    assert made.rpartition("-")[0] == "collectives-all_reduce-n1x2-ring-r0"


def test_what_only_training_has_makes_no_other_benchmark_and_the_other_way_round() -> None:
    plain = benchmark()
    changed = replace(plain, model=model("8b"), steps=7, seq_len=1, seed=3, optimizer=Optimizer(lr=1.0), compile=True)
    assert identity(plain) == identity(changed)
    assert identity(plain) != identity(benchmark(workload={"op": "all_reduce"}))
    assert identity(plain) != identity(replace(plain, gpus_per_node=4))
    assert identity(config()) == identity(config(workload=Workload(op="all_reduce", max_bytes=64)))


def test_slugs_of_training_points_are_what_they_were_before_there_were_workloads() -> None:
    assert Point(config()).slug == "tiny-ddp-n1x1-default-r0-88862b"


def test_a_sweep_over_training_and_collectives_has_each_benchmark_once() -> None:
    trained = [config(kind=kind, gpus_per_node=2) for kind in ("ddp", "fsdp")]
    timed = [replace(one, workload=Workload("collectives", "collectives")) for one in trained]
    names = [point.slug.rpartition("-")[0] for point in spread([*trained, *timed])]
    assert names == ["tiny-ddp-n1x2-default-r0", "tiny-fsdp-n1x2-default-r0", "collectives-all-n1x2-default-r0"]
    with pytest.raises(ValueError, match="only nodes, gpus_per_node, nccl, workload make a point different work"):
        spread(timed)


def test_a_size_reads_as_a_person_says_it() -> None:
    assert [size_text(size) for size in (64, KIB, 336 * 3, 64 * KIB, 3 * MIB // 2, 4 * GIB, 2**40)] == [
        "64 bytes",
        "1 KiB",
        "1008 bytes",
        "64 KiB",
        "1.5 MiB",
        "4 GiB",
        "1024 GiB",
    ]
