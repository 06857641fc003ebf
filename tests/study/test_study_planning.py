"""What a point is planned against: a known GPU, one that is in no table, or this machine's memory."""

from pathlib import Path

from harness.study.collect import collect
from harness.study.planning import planned
from harness.study.point import Point
from launch.devices import Gpu, Machine

GIB = 2**30


def plan_on(machine: Machine, *words: str):
    [config] = collect(["root=/tmp/never", *words], False, lambda: len(machine.gpus))
    return planned(Point(config), machine)


def test_a_gpu_in_no_table_has_its_memory_and_no_estimate_of_time() -> None:
    machine = Machine((Gpu("NVIDIA Nonesuch", 24 * GIB),), "1.0", 8, 64 * GIB)
    small = plan_on(machine, "model=125m", "seq_len=512")
    assert small.plan is not None
    assert small.plan.seconds is None
    assert "the device's 24.0 GiB" in str(plan_on(machine, "model=8b").impossible)


def test_cpu_ranks_share_the_machines_memory() -> None:
    machine = Machine((), None, 8, 64 * GIB)
    assert plan_on(machine, "gpus_per_node=4").possible.memory_limit == 16 * GIB


def test_a_known_gpu_has_an_estimate_of_time() -> None:
    machine = Machine((Gpu("NVIDIA H200", 140 * GIB),), "1.0", 8, 64 * GIB)
    seconds = plan_on(machine, "model=1b", "precision=bf16").possible.seconds
    assert seconds is not None
    assert seconds > 60


def test_nothing_is_written_by_planning() -> None:
    assert not Path("/tmp/never").exists()
