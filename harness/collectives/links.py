"""What lies between hosts: an all-reduce over all of them, then pairs of them in turn.

Started as a point's ranks are, with one rank a host; the first writes what was found. Each pair sends both ways at
once, in rounds of a tournament, so that a host is seen with several others and a slow one is not its partners' fault.
"""

import argparse
import json
import os
import socket
import statistics
import time
from dataclasses import dataclass
from operator import sub
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.elastic.multiprocessing.errors import record

from harness.plan.busbw import busbw

ALL_REDUCE_BYTES = 8 * 2**20
PAIR_BYTES = 4 * 2**20
TIMES = 5
ROUNDS = 8


@dataclass(frozen=True)
class Found:
    """What one rank tells: its host, the clock there when all were at the same place, and whom it met how fast."""

    host: str
    clock: list[float]
    met: list[tuple[int, float]]


@record
def main() -> None:
    parser = argparse.ArgumentParser(prog="harness.collectives.links", description="What lies between hosts.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hosts", type=int, required=True)
    arguments = parser.parse_args()
    world, host = int(os.environ["WORLD_SIZE"]), os.environ.get("SLURMD_NODENAME", socket.gethostname())
    if world != arguments.hosts:
        raise RuntimeError(f"WORLD_SIZE is {world}, where {arguments.hosts} hosts were to meet")
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    cuda = device.type == "cuda"
    dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)
    reduced = all_reduce(device)
    found: list[Found | None] = [None] * world
    dist.all_gather_object(found, Found(host, clock(device), pairs(device)))
    if dist.get_rank() == 0:
        write(arguments.folder / "links.json", reduced, [one for one in found if one is not None])
    dist.destroy_process_group()


def write(path: Path, reduced: float, found: list[Found]) -> None:
    """The ranks' findings, as one document."""
    hosts, first = [one.host for one in found], found[0].clock
    document = {
        "hosts": hosts,
        "clocks_s": [statistics.median(map(sub, one.clock, first)) for one in found],
        "all_reduce": {
            "bytes": ALL_REDUCE_BYTES,
            "duration_s": reduced,
            "busbw": busbw("all_reduce", ALL_REDUCE_BYTES, reduced, len(hosts)),
        },
        "pairs": [
            {"hosts": [hosts[rank], hosts[other]], "bytes_per_s": speed}
            for rank, one in enumerate(found)
            for other, speed in one.met
            if rank < other
        ],
    }
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(document) + "\n")
    draft.rename(path)


def clock(device: torch.device) -> list[float]:
    """What this host's clock shows, some times, when all ranks have just passed a barrier."""
    shown = []
    for _ in range(TIMES):
        dist.barrier()
        wait(device)
        shown.append(time.time())
    return shown


def all_reduce(device: torch.device) -> float:
    """Seconds of an all-reduce over all hosts: the median of some, after one that opens connections."""
    numbers = torch.ones(ALL_REDUCE_BYTES // 4, device=device)
    took = []
    for _ in range(1 + TIMES):
        dist.barrier()
        wait(device)
        begin = time.perf_counter()
        dist.all_reduce(numbers)
        wait(device)
        took.append(time.perf_counter() - begin)
    return statistics.median(took[1:])


def pairs(device: torch.device) -> list[tuple[int, float]]:
    """The other ranks that this one has met, and the most bytes per second that went each way between them."""
    rank, world = dist.get_rank(), dist.get_world_size()
    out, back = (torch.ones(PAIR_BYTES // 4, device=device) for _ in range(2))
    met = []
    for number in range(min(ROUNDS, world - 1 + world % 2)):
        other = partner(rank, number, world)
        if other is not None:
            met.append((other, PAIR_BYTES / min(exchange(out, back, other, device) for _ in range(TIMES))))
    return met


def partner(rank: int, number: int, world: int) -> int | None:
    """Whom a rank meets in a round of a round-robin tournament; of an odd world one rank rests in each.

    The circle method: the last one stays where it is and the others go round.
    """
    last = world - 1 + world % 2
    if rank == last:
        other = number * (last + 1) // 2 % last
    else:
        other = (number - rank) % last
        if other == rank:
            other = last
    return other if other < world else None


def exchange(out: Tensor, back: Tensor, other: int, device: torch.device) -> float:
    """Seconds that it takes to send and receive; both begin when they have found each other."""
    for sent, got in ((out[:1], back[:1]), (out, back)):
        wait(device)
        begin = time.perf_counter()
        for work in dist.batch_isend_irecv([dist.P2POp(dist.isend, sent, other), dist.P2POp(dist.irecv, got, other)]):
            work.wait()
        wait(device)
    return time.perf_counter() - begin


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
