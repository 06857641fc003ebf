"""Faults on purpose fall where they were asked for, once, and are real."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch
import torch.distributed as dist
from plan_configs import config
from ranks import run_ranks
from run_dirs import validator

from harness.config import Faults, Watchdog, Workload
from harness.plan.benchmark import plan_benchmark
from harness.plan.faults import check_faults, drawn
from harness.study.point import identity
from harness.training.faults import Faulty, fill_memory, poison, with_faults


def faulty(kind: str, tmp_path: Path, attempt: int = 0, rank: int = 1, **more: Any) -> Any:
    """The observer that a rank of two has, around one that heeds nothing; with `happened`, the steps of the fault."""
    chosen = dataclasses.replace(config(gpus_per_node=2), faults=Faults(kind=kind, **more), steps=50, warmup=5)
    (tmp_path / "attempts" / str(attempt)).mkdir(parents=True, exist_ok=True)

    class Heedless:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

    return with_faults(chosen, Heedless(), None, rank, tmp_path, attempt)


def steps_of(observer: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """On which of 50 steps something happens; nothing does."""
    found: list[int] = []
    for step in range(1, 51):
        monkeypatch.setattr(observer, "happen", lambda step=step: found.append(step))
        observer.data_ready(step)
        observer.step_done(step, 0.0, None, None)
    return found


def test_a_fault_happens_on_its_rank_and_once_in_a_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not isinstance(faulty("kill", tmp_path, rank=0), Faulty)
    assert steps_of(faulty("kill", tmp_path, step=7), monkeypatch) == [7]
    [line] = (tmp_path / "attempts" / "0" / "faults.jsonl").read_text().splitlines()
    told = json.loads(line)
    validator().validate(told)
    assert [told[key] for key in ("kind", "fault", "rank", "step", "attempt")] == ["fault", "kill", 1, 7, 0]
    assert steps_of(faulty("kill", tmp_path, attempt=1, step=7), monkeypatch) == []


def test_an_attempt_that_did_not_come_so_far_leaves_the_fault_to_the_next(tmp_path, monkeypatch) -> None:
    faulty("hang", tmp_path, step=7)
    assert steps_of(faulty("hang", tmp_path, attempt=1, step=7), monkeypatch) == [7]


def test_without_a_step_it_is_the_first_measured_one_and_slow_goes_on(tmp_path, monkeypatch) -> None:
    assert steps_of(faulty("oom", tmp_path), monkeypatch) == [6]
    slow = tmp_path / "slow"
    assert steps_of(faulty("slow", slow), monkeypatch) == list(range(6, 51))
    assert steps_of(faulty("slow", slow, attempt=1), monkeypatch) == list(range(6, 51))


def test_a_rate_draws_other_steps_in_every_attempt_and_as_many_as_it_says(tmp_path, monkeypatch) -> None:
    chosen = dataclasses.replace(config(), faults=Faults(kind="kill", rate=20.0))
    some = [[step for step in range(1, 2001) if drawn(chosen, attempt, step)] for attempt in (0, 0, 1)]
    assert some[0] == some[1] != some[2]
    assert all(2000 / 20 * 0.7 < len(steps) < 2000 / 20 * 1.3 for steps in some)
    often = faulty("hang", tmp_path, rate=1.0)
    assert steps_of(often, monkeypatch) == list(range(1, 51))


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"kind": "kill", "rank": 2}, "faults.rank=2: must be a rank of this point; its 2 ranks are 0 to 1"),
        ({"kind": "kill", "step": 51}, "faults.step=51: must be at most steps=50"),
        ({"kind": "kill", "step": 5, "rate": 9.0}, "faults.rate=9.0: faults.step=5 is there too; give one of the two"),
        ({"kind": "none", "step": 5}, "faults.step=5: no fault is asked for; say faults=kill, for example"),
        ({"kind": "nan", "seconds": 5.0}, "faults.seconds=5.0: is of faults=slow; faults=nan takes no time"),
        (
            {"kind": "wandb_down"},
            "faults=wandb_down: record.wandb=offline asks no server; say record.wandb=online",
        ),
        (
            {"kind": "wandb_down", "step": 5},
            "faults.step=5: faults=wandb_down is of the whole point; leave it out",
        ),
    ],
)
def test_mistakes_are_one_sentence(asked: dict[str, Any], sentence: str) -> None:
    chosen = dataclasses.replace(config(gpus_per_node=2), faults=Faults(**asked), steps=50)
    with pytest.raises(ValueError) as raised:
        check_faults(chosen)
    assert str(raised.value) == sentence


def test_a_fault_is_other_work_and_a_limit_is_not() -> None:
    plain = config()
    assert identity(dataclasses.replace(plain, faults=Faults(kind="kill"))) != identity(plain)
    assert identity(dataclasses.replace(plain, watchdog=Watchdog(step_s=1.0))) == identity(plain)


def test_a_host_has_less_memory_than_is_asked_for() -> None:
    with pytest.raises(RuntimeError, match="can't allocate memory: you tried to allocate 1152921504606846976 bytes"):
        fill_memory(torch.device("cpu"))


def poisoned(kind: str, degrees: dict[str, int]) -> list[tuple[float, float]]:
    """The loss and the gradient norm of a step that one rank spoils."""
    microbatches = 2 if degrees else 1
    trained = tiny.build(kind, torch.device("cpu"), microbatches=microbatches, degrees=degrees)
    batches = tiny.data(*trained.coordinates, microbatches, torch.device("cpu"))
    told = []
    for step in (1, 2):
        undo = poison(trained.parts[-1]) if step == 2 and dist.get_rank() == 1 else None
        loss = trained.forward_backward(batches.batch(step))
        dist.all_reduce(loss)
        told.append((loss.item(), trained.update(1e-3).item()))
        if undo is not None:
            undo()
    return told


@pytest.mark.parametrize(
    ("kind", "degrees"), [("ddp", {}), ("fsdp", {}), ("fsdp", {"pp": 2}), ("zero1", {}), ("zero3", {})]
)
def test_numbers_that_one_rank_spoils_reach_the_loss_and_the_norm_of_all(kind: str, degrees: dict[str, int]) -> None:
    for before, after in run_ranks(2, poisoned, kind, degrees):
        assert all(map(math.isfinite, before))
        assert not any(map(math.isfinite, after))


def test_collectives_alone_have_no_step_to_fall_on() -> None:
    chosen = dataclasses.replace(
        config(gpus_per_node=2), workload=Workload(kind="collectives"), faults=Faults(kind="kill")
    )
    with pytest.raises(
        ValueError, match="faults=kill: falls on a step of training, which workload=collectives has not"
    ):
        plan_benchmark(chosen, False, None)
