"""From words to configurations, with the real Hydra and the repository's conf/."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from study_command import Command

from harness.config import Config, Data, Model, Nccl, Parallel, Precision
from harness.study.collect import collect, doubled
from harness.study.order import ordered
from harness.study.point import Point, identity, spread


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path, {})


def some(*words: str, multirun: bool = False, gpus: Callable[[], int] = lambda: 0) -> list[Config]:
    return collect(list(words), multirun, gpus)


def one(*words: str) -> Config:
    [config] = some(*words)
    return config


def test_without_words_it_is_one_point_of_defaults() -> None:
    config = one()
    assert (config.model.name, config.parallel.name, config.steps) == ("tiny", "ddp", 50)


@pytest.mark.parametrize(
    "word",
    [
        "nccl.env.NCCL_DEBUG=INFO",
        "+nccl.env.NCCL_DEBUG=INFO",
        "++nccl.env.NCCL_DEBUG=INFO",
        "nccl.env={NCCL_DEBUG:INFO}",
    ],
)
def test_an_nccl_variable_needs_no_plus(word: str) -> None:
    assert one(word).nccl.env == {"NCCL_DEBUG": "INFO"}


def test_a_preset_and_a_variable_add_up_and_the_variable_wins() -> None:
    preset = one("nccl=ring").nccl.env
    assert one("nccl=ring", "nccl.env.NCCL_ALGO=allreduce:tree").nccl.env == {**preset, "NCCL_ALGO": "allreduce:tree"}
    assert "NCCL_ALGO" not in one("nccl=ring", "~nccl.env.NCCL_ALGO").nccl.env


def test_a_quoted_value_keeps_its_commas_and_signs() -> None:
    config = one('nccl.env.NCCL_IB_HCA="=mlx5_0:1,mlx5_1:1"')
    assert config.nccl.env == {"NCCL_IB_HCA": "=mlx5_0:1,mlx5_1:1"}


def test_a_sweep_is_every_combination() -> None:
    found = some("parallel=ddp,fsdp", "gpus_per_node=1,2", "nccl=default,ring", multirun=True)
    combinations = {(config.parallel.name, config.gpus_per_node, config.nccl.name) for config in found}
    assert len(found) == len(combinations) == 8


def test_hydra_sweeps_nodes_and_ranges() -> None:
    assert [config.nodes for config in some("nodes=range(1,4)", multirun=True)] == [1, 2, 3]


@pytest.mark.parametrize(("limit", "sweep"), [(1, "1"), (2, "1,2"), (4, "1,2,4"), (6, "1,2,4,6"), (8, "1,2,4,8")])
def test_doubling_reaches_all_there_are(limit: int, sweep: str) -> None:
    assert doubled(limit) == sweep


def test_the_demo_doubles_to_the_visible_gpus_and_to_two_processes_without() -> None:
    scales = [(config.parallel.name, config.gpus_per_node) for config in some("experiment=demo", multirun=True)]
    assert scales == [("ddp", 1), ("ddp", 2), ("fsdp", 1), ("fsdp", 2)]
    assert len(some("experiment=demo", multirun=True, gpus=lambda: 8)) == 8


def test_the_command_line_wins_over_an_experiment() -> None:
    [config] = some("experiment=demo", "parallel=fsdp", "gpus_per_node=2", "steps=20", multirun=True)
    assert (config.parallel.name, config.gpus_per_node, config.steps) == ("fsdp", 2, 20)
    assert (config.study, config.optimizer.lr, config.seq_len) == ("demo", 3e-3, 256)


def test_the_nccl_experiment_compares_environments() -> None:
    found = some("experiment=nccl", multirun=True, gpus=lambda: 4)
    assert {config.nccl.name for config in found} == {"default", "ring", "tree"}
    assert {(config.model.name, config.parallel.name, config.precision.name) for config in found} == {
        ("1b", "fsdp", "bf16")
    }


def test_a_slug_names_the_fields_in_their_order() -> None:
    point = Point(one("model=1b", "parallel=fsdp", "nodes=2", "gpus_per_node=8", "nccl=ring"))
    assert point.slug.rpartition("-")[0] == "1b-fsdp-n2x8-ring-r0"
    assert len(point.slug.rpartition("-")[2]) == 6


@pytest.mark.parametrize(
    "word",
    [
        "study=other",
        "root=/x",
        "launcher=dry",
        "launcher.timeout_s=9",
        "record.wandb=disabled",
        "hardware=h200",
        "rerun=true",
        "repeats=5",
    ],
)
def test_what_does_not_change_the_work_does_not_change_the_slug(word: str) -> None:
    assert Point(one("gpus_per_node=1", word)).slug == Point(one()).slug


def test_a_sweep_over_both_workloads_has_each_piece_of_work_once() -> None:
    """What is swept for the benchmark is nothing to training, and the other way round."""
    swept = ("workload=training,collectives", "workload.op=all_reduce,all_gather", "parallel=ddp,fsdp")
    points = spread(some(*swept, "gpus_per_node=2", multirun=True))
    assert sorted("-".join(point.slug.split("-")[:2]) for point in points) == [
        "collectives-all_gather",
        "collectives-all_reduce",
        "tiny-ddp",
        "tiny-fsdp",
    ]
    with pytest.raises(ValueError, match="twice in this sweep"):
        spread(some("workload=training,collectives", "profile=none,torch", "gpus_per_node=2", multirun=True))


def test_a_named_machine_brings_the_gpus_of_its_hosts_unless_they_are_given() -> None:
    assert [one(word).gpus_per_node for word in ("hardware=h200", "hardware=gb200", "hardware=l40s")] == [8, 4, 1]
    assert one("hardware=h200", "gpus_per_node=2").gpus_per_node == 2
    assert one("hardware=h200", "parallel=tp").parallel.tp == 8


@pytest.mark.parametrize(
    "word", ["seed=1", "steps=51", "optimizer.lr=1e-3", "nccl.env.NCCL_DEBUG=WARN", "precision=bf16", "compile=true"]
)
def test_what_changes_the_work_changes_the_hash(word: str) -> None:
    assert identity(one(word)) != identity(one())


def test_a_hash_once_given_stays() -> None:
    # Written down: adding a field with its default must not move it, or every study there is would be run again.
    config = Config(
        model=Model("tiny", 128, 4, 4, 2, 32, 384, 256),
        parallel=Parallel("ddp", "ddp"),
        precision=Precision("fp32", "fp32"),
        data=Data("bytes", "bytes"),
        nccl=Nccl("default"),
    )
    assert identity(config)[:6] == "d12973"


@pytest.mark.parametrize("name", ["x; touch pwned", "../../up", "a/b", "$(id)", "n" * 400, "-m", "ü"])
def test_a_slug_is_a_safe_folder_name_whatever_the_model_is_called(name: str) -> None:
    slug = Point(one(f'model.name="{name}"')).slug
    assert set(slug) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
    assert len(slug) < 200
    assert "pwned;" not in slug


def test_repeats_run_in_rounds_shuffled_by_the_seed() -> None:
    points = spread(some("gpus_per_node=1,2,3,4,5,6", "repeats=3", multirun=True))
    order = ordered(points, seed=0)
    assert [point.config.repeat for point in order] == [0] * 6 + [1] * 6 + [2] * 6
    rounds = [[point.config.gpus_per_node for point in order[i : i + 6]] for i in (0, 6, 12)]
    assert all(sorted(scales) == [1, 2, 3, 4, 5, 6] for scales in rounds)
    assert len({tuple(scales) for scales in rounds}) > 1
    assert order == ordered(points, seed=0)
    assert order != ordered(points, seed=1)


def test_a_hundred_points_are_collected_planned_and_shown_within_half_a_minute(command: Command) -> None:
    sweep = ("seed=range(0,25)", "parallel=ddp,fsdp", "gpus_per_node=1,2", "launcher=dry")
    start = time.monotonic()
    ended = command("run", "-m", *sweep)
    assert ended.returncode == 0, ended.stderr
    assert time.monotonic() - start < 30
    assert ended.stdout.count("-m harness.worker") == 100
    assert command.files() == []


def test_the_controller_never_imports_torch(command: Command) -> None:
    asked = (
        "import sys; from harness.cli import main; sys.argv[1:] = ['run', 'launcher=dry']; main();"
        "sys.exit(any(name in sys.modules for name in ('torch', 'wandb', 'deepspeed', 'polars', 'plotly')))"
    )
    assert subprocess.run([sys.executable, "-c", asked], cwd=command.folder, capture_output=True).returncode == 0
