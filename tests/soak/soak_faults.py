"""What is done to a point under way. Each returns what became of its attempt where no controller says how it ended."""

import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from soak_point import Underway
from wandb_stub import Stub

WITH_CONTROLLER = "killed with its controller"


@dataclass
class Soak:
    """A point, what its faults are drawn from, and what stands around it."""

    point: Underway
    draw: random.Random
    ranks: int
    server: Stub | None = None

    def any_rank(self) -> int:
        return self.draw.randrange(self.ranks)


def kill_rank(soak: Soak, attempt: int) -> None:
    soak.point.rank(soak.any_rank()).kill()
    soak.point.wait_for_end(attempt)


def kill_rank_in_a_checkpoint(soak: Soak, attempt: int) -> None:
    """SIGKILL while a checkpoint is only a draft."""
    drafts = soak.point.run_dir / "checkpoints"
    victim = soak.point.rank(soak.any_rank())
    soak.point.wait(lambda: list(drafts.glob(".step-*")))
    victim.kill()
    soak.point.wait_for_end(attempt)


def kill_agent(soak: Soak, attempt: int) -> None:
    soak.point.agent().kill()
    soak.point.wait_for_end(attempt)


def stop_rank(soak: Soak, attempt: int) -> None:
    """SIGSTOP: a rank that is there and never comes on, nor hears that it should end."""
    soak.point.rank(soak.any_rank()).suspend()
    soak.point.wait_for_end(attempt)


def hang(soak: Soak, attempt: int) -> None:
    """`faults=hang`: the rank does it itself."""
    soak.point.wait(lambda: (soak.point.folder(attempt) / "faults.jsonl").exists())
    soak.point.wait_for_end(attempt)


def tear_record(soak: Soak, attempt: int) -> None:
    """The rank that records is killed, and of its last record only the first half is there."""
    soak.point.rank(0).kill()
    soak.point.wait_for_end(attempt)
    path = soak.point.folder(attempt) / "events.jsonl"
    whole = path.read_bytes().removesuffix(b"\n")
    last = len(whole) - (whole.rfind(b"\n") + 1)
    with open(path, "r+b") as file:
        file.truncate(len(whole) - last // 2)


def fill_disk(soak: Soak, attempt: int) -> None:
    """Another file takes all the room that there is, for a while."""
    filler = soak.point.command.folder / "filler"
    with suppress(OSError), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    soak.point.wait_for_end(attempt)
    time.sleep(soak.draw.uniform(0, 2))
    filler.unlink()


def kill_controller(soak: Soak, attempt: int) -> str:
    """Its ranks train on until the next controller ends them."""
    soak.point.controller.kill()
    return again(soak)


def kill_all(soak: Soak, attempt: int) -> str:
    """All at once, as where a host loses power."""
    for process in (soak.point.controller, *soak.point.processes()):
        process.kill()
    return again(soak)


def kill_controller_between_attempts(soak: Soak, attempt: int) -> None:
    kill_rank(soak, attempt)
    soak.point.controller.kill()
    again(soak)


def again(soak: Soak) -> str:
    """Somebody gives the same command again, a little later."""
    soak.point.finish()
    time.sleep(soak.draw.uniform(0, 1))
    soak.point.run()
    return WITH_CONTROLLER


def lose_wandb(soak: Soak, attempt: int) -> str:
    """W&B's server hangs up until its client has tried twice; the point trains on, and is disturbed further."""
    server, mirror = soak.server, soak.point.run_dir / "mirror.json"
    assert server is not None
    soak.point.wait(lambda: mirror.exists() and '"mode_used": "online"' in mirror.read_text())
    server.hang_up(2)
    return "went on without W&B's server"


FAULTS: dict[str, Callable[[Soak, int], str | None]] = {
    "SIGKILL of a rank": kill_rank,
    "SIGKILL of a rank in a checkpoint": kill_rank_in_a_checkpoint,
    "SIGKILL of torchrun": kill_agent,
    "SIGKILL of the controller": kill_controller,
    "SIGKILL of the controller between attempts": kill_controller_between_attempts,
    "SIGKILL of everything": kill_all,
    "SIGSTOP of a rank": stop_rank,
    "faults=hang": hang,
    "torn record": tear_record,
    "full disk": fill_disk,
    "W&B outage": lose_wandb,
}


def drawn_steps(draw: random.Random, kinds: tuple[str, ...], steps: int) -> list[int]:
    """A step for each fault, in order and apart from each other, none in the first or last of equal parts."""
    part = steps // (len(kinds) + 1)
    return [part * number + draw.randint(part // 2, part - 1) for number in range(1, len(kinds) + 1)]


def injected(soak: Soak, kinds: tuple[str, ...], steps: list[int]) -> list[dict[str, Any]]:
    """Do all of it, one after the other, to the point's end; what was done, when, and to which attempt."""
    told: list[dict[str, Any]] = []
    after = -1
    for kind, step in zip(kinds, steps, strict=True):
        attempt = soak.point.wait_for_step(step, after)
        done = {"fault": kind, "drawn_step": step, "time": time.time(), "attempt": attempt}
        done |= {"step": soak.point.step(attempt)}
        outcome = FAULTS[kind](soak, attempt)
        told.append(done | {"attempt_ended": outcome or soak.point.ends[attempt]})
        print(f"{time.strftime('%H:%M:%S')} {told[-1]}", flush=True)
        after = attempt if outcome is None or outcome == WITH_CONTROLLER else after
    return told
