"""What a point is planned against: a known GPU, one that is in no table, or this machine's memory."""

from pathlib import Path

import pytest

from harness.study import planning
from harness.study.collect import collect
from harness.study.conf import options
from harness.study.planning import planned
from harness.study.point import Point
from harness.study.preview import expected
from launch.devices import Gpu, Machine

GIB = 2**30


def plan_on(machine: Machine, *words: str):
    [config] = collect(["root=/tmp/never", *words], False, lambda: len(machine.gpus))
    return planned(Point(config), machine, 1)


def test_a_gpu_in_no_table_has_its_memory_and_no_estimate_of_time() -> None:
    machine = Machine((Gpu("NVIDIA Nonesuch", 24 * GIB),), "1.0", 8, 64 * GIB)
    small = plan_on(machine, "model=125m", "seq_len=512")
    assert small.plan is not None
    assert small.plan.seconds is None
    assert "the device's 24.0 GiB" in str(plan_on(machine, "model=8b").impossible)


def test_cpu_ranks_share_the_machines_memory() -> None:
    machine = Machine((), None, 8, 64 * GIB)
    assert "the 1.0 GiB that this machine's memory leaves for each of its 64 ranks" in str(
        plan_on(machine, "gpus_per_node=64", "model=350m").impossible
    )


def test_a_known_gpu_has_an_estimate_of_time() -> None:
    machine = Machine((Gpu("NVIDIA H200", 140 * GIB),), "1.0", 8, 64 * GIB)
    seconds = plan_on(machine, "model=1b", "precision=bf16").possible.seconds
    assert seconds is not None
    assert seconds > 60


def test_a_named_machine_has_as_many_gpus_a_host_as_it_usually_has() -> None:
    laptop = Machine((), None, 2, 8 * GIB)
    words = ("model=70b", "parallel=fsdp", "parallel.tp=8", "nodes=16", "hardware=h100_sxm", "launcher=dry")
    made = plan_on(laptop, *words)
    assert (made.possible.world_size, made.possible.data_parallel, made.possible.accumulation) == (128, 16, 8)
    assert made.possible.warnings == []
    assert plan_on(laptop, *words, "gpus_per_node=4", "nodes=64", "precision=bf16").possible.warnings


def test_the_line_of_a_plan_tells_arrangement_microbatches_and_traffic() -> None:
    machine = Machine((), None, 8, 64 * GIB)
    made = plan_on(machine, "parallel=fsdp_tp_pp", "gpus_per_node=8")
    line = expected(made, machine)
    assert "8 CPU processes, dp 2 × tp 2 × pp 2, 4 microbatches, 16,384 tokens a step" in line
    # tokens of one microbatch, halved by tp, sent four times
    assert f"{4 * 2048 * 128 * 4 / 2 / 1e9:.2g} GB pp" in line
    copies = plan_on(machine, "parallel=hsdp", "gpus_per_node=8")
    assert "replicas 2 × shard 4, 16,384 tokens" in expected(copies, machine)
    alone = plan_on(machine, "parallel=fsdp", "gpus_per_node=8")
    assert "8 CPU processes, 16,384 tokens a step" in expected(alone, machine)


def test_float8_is_for_gpus_that_have_it_and_asks_for_its_package_only_here(monkeypatch) -> None:
    monkeypatch.setattr(planning, "find_spec", lambda name: None)
    words = ("model=1b", "parallel=fsdp", "precision=float8")
    here = Machine((Gpu("NVIDIA H200", 140 * GIB),), "1.0", 8, 64 * GIB)
    assert "needs the package torchao" in str(plan_on(here, *words).impossible)
    elsewhere = ("hardware=h200", "launcher=dry", "gpus_per_node=1")
    assert plan_on(Machine((), None, 8, 64 * GIB), *words, *elsewhere).possible
    unknown = Machine((Gpu("NVIDIA Nonesuch", 140 * GIB),), "1.0", 8, 64 * GIB)
    assert "NVIDIA Nonesuch is not" in str(plan_on(unknown, *words).impossible)


def test_ranks_are_bound_to_cores_near_gpus_only_where_they_have_gpus() -> None:
    laptop, host = Machine((), None, 2, 64 * GIB), Machine((Gpu("NVIDIA H200", 140 * GIB),), "1.0", 8, 64 * GIB)
    assert str(plan_on(laptop, "launcher.numa=node").impossible).startswith("launcher.numa=node: ")
    assert "launcher.numa=node" in str(plan_on(laptop, "launcher=dry", "launcher.numa=node").impossible)
    assert plan_on(host, "launcher.numa=node").possible
    assert plan_on(laptop, "launcher=dry", "launcher.numa=node", "hardware=h200").possible


def test_a_jobs_binding_is_judged_on_its_own_hosts() -> None:
    laptop = Machine((), None, 2, 64 * GIB)
    assert plan_on(laptop, "launcher=sbatch", "launcher.numa=node").possible


@pytest.mark.parametrize("name", options("parallel"))
def test_every_preset_plans_on_a_host_of_four(name: str) -> None:
    assert plan_on(Machine((), None, 8, 64 * GIB), f"parallel={name}", "model=tiny_moe", "gpus_per_node=4").possible


def test_nothing_is_written_by_planning() -> None:
    assert not Path("/tmp/never").exists()
