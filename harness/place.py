"""Where torchrun has put this process, and the group of all ranks."""

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d


@dataclass(frozen=True)
class Place:
    """Which rank this process is, on which node, with which device."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    nodes: int
    device_type: str

    @classmethod
    def told(cls, environment: Mapping[str, str], device_type: str) -> Self:
        """This process's place, as torchrun's variables tell it."""
        return cls(
            rank=int(environment["RANK"]),
            world_size=int(environment["WORLD_SIZE"]),
            local_rank=int(environment["LOCAL_RANK"]),
            local_world_size=int(environment["LOCAL_WORLD_SIZE"]),
            nodes=int(environment["GROUP_WORLD_SIZE"]),
            device_type=device_type,
        )

    @property
    def cuda(self) -> bool:
        return self.device_type == "cuda"

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", self.local_rank) if self.cuda else torch.device("cpu")

    @property
    def node(self) -> int:
        return self.rank // self.local_world_size


def join(place: Place, patience: timedelta | None = None) -> None:
    """Take the place's device and meet the other ranks; `patience` is how long this and any collective may take."""
    if place.cuda:
        torch.cuda.set_device(place.device)
    if patience is not None:
        # what groups have that are made later, by the mesh and by libraries; the first one's is not handed on
        distributed_c10d.default_pg_timeout = patience
        distributed_c10d.default_pg_nccl_timeout = patience  # type: ignore[attr-defined]  # an import of its own
    dist.init_process_group(
        "nccl" if place.cuda else "gloo", timeout=patience, device_id=place.device if place.cuda else None
    )


def leave() -> None:
    """Part from the other ranks, when nothing is left that trains."""
    gc.unfreeze()
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()
