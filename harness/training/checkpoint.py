"""Checkpoints of an attempt: written by all ranks together, there whole or not at all, taken up by the next one."""

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.staging import BlockingAsyncStager

from harness.config import Checkpoint
from harness.parallel.state import State
from harness.parallel.storage import Unusable
from harness.parallel.strategy import Strategy
from harness.training import manifest, random_states

Tell = Callable[..., None]
"""Writes a record of a kind, by its fields, on the first rank."""

FULL = 2**20
"""Bytes that are free on a disk at most on which a write has failed for want of room."""


class Checkpoints:
    """The checkpoints in a folder. With mode=async a rank copies its share to the host and trains on.

    What is written in the background meets in a gloo group of its own, so that training's collectives neither wait for
    it nor come out of order.
    """

    def __init__(
        self, folder: Path, chosen: Checkpoint, trained: Strategy, tell: Tell, of: Mapping[str, Any], steps: int
    ) -> None:
        """of: what the shape of the state follows from, by name. steps: of the point in all."""
        self.folder, self.chosen, self.trained, self.tell = folder, chosen, trained, tell
        self.of, self.steps = of, steps
        self.device, self.rank, self.ranks = trained.device, dist.get_rank(), dist.get_world_size()
        self.behind = chosen.mode == "async"
        self.group = dist.new_group(backend="gloo") if self.behind else None
        pinned = self.behind and self.device.type == "cuda"
        # into pinned memory a copy is as fast as the bus; it is found now, for that takes longer than any copy
        self.stager = BlockingAsyncStager(cache_staged_state_dict=pinned)
        if pinned:
            self.stager.stage(trained.share())
        self.writing: Future[None] | None = None
        self.error: OSError | None = None

    def restore(self) -> int:
        """Take up the newest checkpoint that is not damaged; the step it stands after, 0 where there is none.

        RuntimeError where one was found damaged as it was loaded, in part perhaps, and no other takes its place.
        """
        if self.rank == 0:
            manifest.remove_drafts(self.folder)
        mixed = False
        for path in self._from_first(manifest.whole(self.folder) if self.rank == 0 else None):
            damage = self._damage(path)
            if damage is None:
                try:
                    self.trained.load(path)
                except Unusable as error:
                    damage, mixed = str(error), True
                else:
                    random_states.restore(path / self._random_states(), self.device)
                    return manifest.step_of(path)
            if self.rank == 0:
                manifest.set_aside(path)
                self.tell("warning", message=f"checkpoints/{path.name} is damaged and passed over: {damage}")
        if mixed:
            raise RuntimeError(f"{self.folder}: no checkpoint could be loaded; started again, the point begins anew")
        return 0

    def write(self, step: int) -> float:
        """Write the checkpoint of a step, or begin to; the seconds that training has waited for that.

        A failure is in `error` then, of one in the background once it is known; no other is begun after it.
        """
        if self.device.type == "cuda":  # what the device has still to train is no part of it
            torch.cuda.synchronize(self.device)
        began = time.perf_counter()
        self.wait()
        if self.error is not None:
            return time.perf_counter() - began
        share, states = self.trained.share(), random_states.taken(self.device)
        if not self.behind:
            try:
                self._write(step, share, states, began, None)
            except OSError as error:
                self.error = error
            return time.perf_counter() - began
        copied = self.stager.stage(share)
        assert isinstance(copied, dict)
        stall_s = time.perf_counter() - began
        self.writing = in_a_thread(lambda: self._write(step, copied, states, began, stall_s))
        return stall_s

    @property
    def failing(self) -> bool:
        """Whether this rank knows that a write has failed."""
        if self.writing is not None and self.writing.done():
            self.wait()
        return self.error is not None

    def wait(self) -> None:
        """Until nothing is being written."""
        if self.writing is not None:
            writing, self.writing = self.writing, None
            error = writing.exception()
            if error is not None and not isinstance(error, OSError):
                raise error
            self.error = error

    def _write(self, step: int, share: State, states: dict[str, Any], began: float, stall_s: float | None) -> None:
        """Write and commit, and tell of it; OSError on all ranks where one of them could not."""
        made, problem = manifest.draft(self.folder, step), None
        files: dict[str, manifest.Listed] = {}
        try:
            made.mkdir(parents=True, exist_ok=True)
            torch.save(states, made / self._random_states())
        except (OSError, RuntimeError) as error:  # torch's own writer raises the latter
            problem = error
        self._agree(made, problem)
        try:
            own = [made / self._random_states(), *self.trained.save(made, share, self.group)]
            files = {str(path.relative_to(made)): manifest.listed(path) for path in own}
        except OSError as error:
            problem = error
        everyone = self._agree(made, problem, files)
        if self.rank == 0:
            files = {name: listed for others in everyone for name, listed in others.items()}
            try:
                manifest.commit(made, self.ranks, files, self.chosen.keep, self.of)
            except OSError as error:
                problem = error
        self._agree(made, problem)
        write_s = time.perf_counter() - began
        self.tell(
            "checkpoint",
            step=step,
            mode=self.chosen.mode,
            stall_s=write_s if stall_s is None else stall_s,
            write_s=write_s,
            bytes=sum(listed["bytes"] for listed in files.values()),
        )

    def _agree(self, made: Path, problem: Exception | None, own: Any = None) -> list[Any]:
        """What every rank has; OSError, the same on all, where one of them has a problem. Its draft is gone then."""
        told = f"rank {self.rank}: {reason(problem, self.folder)}" if problem else None
        everyone: list[Any] = [None] * self.ranks
        dist.all_gather_object(everyone, (told, own), group=self.group)
        found = next((told for told, _ in everyone if told), None)
        if found is None:
            return [own for _, own in everyone]
        if self.rank == 0:
            manifest.drop(made)
        raise OSError(
            f"{self.folder}: the checkpoint of step {manifest.step_of(made)} could not be written ({found}); the "
            "point goes on from the one before when there is room"
        )

    def _damage(self, path: Path) -> str | None:
        """What is wrong with a checkpoint, or None; ranks read its files in shares."""
        files, damage = self._from_first(self._read(path) if self.rank == 0 else None)
        if damage is None:
            everyone: list[Any] = [None] * self.ranks
            mine = sorted(files)[self.rank :: self.ranks]
            dist.all_gather_object(everyone, manifest.damage(path, files, mine) or self._foreign(path, mine))
            damage = next(filter(None, everyone), None)
        return damage

    def _read(self, path: Path) -> tuple[dict[str, manifest.Listed], str | None]:
        """The files that a checkpoint should have, or why its manifest is none that this point can go on from."""
        files, damage = manifest.read(path)
        return files, damage or manifest.misfit(path, self.of, self.steps)

    def _foreign(self, path: Path, names: Sequence[str]) -> str | None:
        """Which of some whole files of a checkpoint holds what no strategy writes, or None."""
        for name in names:
            try:
                self.trained.check(path / name)
            except Exception as error:  # a pickle that is none of ours can fail in any way
                return f"{name} holds more than tensors and plain values ({type(error).__name__})"
        return None

    def _from_first(self, value: Any) -> Any:
        """What the first rank has."""
        told = [value]
        dist.broadcast_object_list(told)
        return told[0]

    def _random_states(self) -> str:
        return f"random-{self.rank:05d}.pt"


def reason(problem: Exception, folder: Path) -> str:
    """Why a write has failed, in words. torch's writer tells of a full disk only where in its code it saw it."""
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    if shutil.disk_usage(folder).free < FULL:
        return os.strerror(errno.ENOSPC)
    return "a file could not be written whole" if "enforce fail" in str(problem) else str(problem)


def in_a_thread(work: Callable[[], None]) -> "Future[None]":
    """Begin the work in a thread that ends with the process: what will come of it."""
    done: Future[None] = Future()

    def run() -> None:
        try:
            work()
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="checkpoint-writer", daemon=True).start()
    return done
