"""What only one rank knows, all heed after the same step, and what was trained is on record."""

import os
import resource
import signal
from functools import partial
from pathlib import Path

import torch.distributed as dist
from ranks import run_ranks
from recorded_training import STEPS, recorded, records
from run_dirs import validator

from harness.config import Checkpoint
from harness.training.between import Between
from harness.training.checkpoint import Checkpoints
from harness.training.interval import Interval
from harness.training.stop import Stop


def eventful(folder: str, chosen: Checkpoint, happens, step: int) -> tuple[list[int], str | None]:
    """Train with checkpoints; on rank 1 something `happens` after a step. The steps written here, and what failed."""
    steps: list[int] = []

    class Watched(Checkpoints):
        def write(self, step):
            steps.append(step)
            return super().write(step)

    class Eventful(Between):
        def ends_after(self, now):
            if now == step and dist.get_rank() == 1:
                happens()
            return super().ends_after(now)

    def between(trained, recorder):
        checkpoints = Watched(Path(folder) / "checkpoints", chosen, trained, recorder.write, {}, STEPS)
        writing = checkpoints, Interval(chosen, 2, 3)
        return Eventful(STEPS, Stop(), recorder.pause, recorder.write, writing)

    try:
        recorded("fsdp", folder, between=between)
    except OSError as error:
        return steps, str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return steps, None


def valid(folder: Path, kind: str) -> list[dict]:
    found = records(folder, kind)
    for record in found:
        validator().validate(record)
    return found


def test_auto_writes_after_the_same_steps_on_all_ranks(tmp_path: Path) -> None:
    # a failure every 2 ms: the next checkpoint is due as soon as ranks talk again
    chosen = Checkpoint("auto", "auto", keep=9, failure_hours=1e-6)
    (first, failed), (second, _) = run_ranks(2, eventful, str(tmp_path), chosen, lambda: None, 0)
    assert first == second and failed is None
    assert len(first) >= 2 and first[0] > 3
    assert [record["step"] for record in valid(tmp_path, "checkpoint")] == first
    assert len(valid(tmp_path, "end")) == 1


def told_to_end() -> None:
    os.kill(os.getpid(), signal.SIGUSR2)


def test_a_signal_to_one_rank_ends_all_after_the_same_step(tmp_path: Path) -> None:
    chosen = Checkpoint("seconds", "seconds", 1000.0)
    (first, failed), (second, _) = run_ranks(2, eventful, str(tmp_path), chosen, told_to_end, 7)
    assert failed is None
    assert first == second == [record["step"] for record in valid(tmp_path, "preempted")]
    assert 7 <= first[0] < STEPS
    assert [record["step"] for record in valid(tmp_path, "step")] == list(range(1, first[0] + 1))
    assert valid(tmp_path, "end") == []


def test_a_full_disk_ends_all_after_the_same_step_with_their_records(tmp_path: Path) -> None:
    for mode in ("sync", "async"):
        folder = tmp_path / mode
        folder.mkdir()
        chosen = Checkpoint("steps", "steps", 4, mode)
        happens = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        (first, failed), (second, failed_too) = run_ranks(2, eventful, str(folder), chosen, happens, 6)
        assert first == second and failed == failed_too
        assert str(folder) in failed and "step 8" in failed
        assert [record["step"] for record in valid(folder, "checkpoint")] == [4]
        last = [record["step"] for record in valid(folder, "step")]
        assert last == list(range(1, len(last) + 1)) and 8 <= len(last) < STEPS
        assert valid(folder, "end") == valid(folder, "preempted") == []
