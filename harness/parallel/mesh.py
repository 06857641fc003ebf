"""The mesh of ranks that the strategies share, and the process groups along it."""

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


@dataclass(frozen=True)
class Degrees:
    """How the ranks are arranged: their product is the number of ranks, save ep, which shares shard x cp.

    replicas: copies of the model; shard: ranks that share one copy and train on different data; cp: ranks that
    share sequences; tp: ranks that share layers; pp: stages; ep: ranks that share the experts, a multiple of cp.
    """

    replicas: int = 1
    shard: int = 1
    cp: int = 1
    tp: int = 1
    pp: int = 1
    ep: int = 1

    @property
    def world_size(self) -> int:
        return self.replicas * self.shard * self.cp * self.tp * self.pp


class Mesh:
    """All ranks in the order pp, replicate, shard, cp, tp, so that tensor parallelism has neighbours.

    The shard dimension is two, `outer` and `inner`: inner x cp are the ranks over which experts are spread. Only
    dimensions that are longer than one exist, and `outer`, so that there is always a mesh for gradients.
    """

    def __init__(self, device_type: str, degrees: Degrees) -> None:
        assert degrees.world_size == dist.get_world_size(), (degrees, dist.get_world_size())
        assert degrees.ep == 1 or degrees.ep % degrees.cp == 0, degrees
        self.degrees = degrees
        inner = degrees.ep // degrees.cp if degrees.ep > 1 else 1
        lengths = {
            "pp": degrees.pp,
            "replicate": degrees.replicas,
            "outer": degrees.shard // inner,
            "inner": inner,
            "cp": degrees.cp,
            "tp": degrees.tp,
        }
        lengths = {name: length for name, length in lengths.items() if length > 1 or name == "outer"}
        # else torch takes the group of all ranks for one as long: its traffic would wait for that of the gradients
        own: dict[int | str, Any] = {name: dist.get_backend() for name in lengths if name != "outer"}
        self.root = init_device_mesh(
            device_type, tuple(lengths.values()), mesh_dim_names=tuple(lengths), backend_override=own
        )
        self.flattened: dict[tuple[str, ...], DeviceMesh] = {}
        # all groups are made here, on every rank in the same order
        self.fsdp = self._along("fsdp", ("outer", "inner", "cp"))
        self.everyone = self._along("gradients", ("replicate", "outer", "inner", "cp"))
        self.expert_fsdp = self._along("expert_fsdp", ("outer",))
        self.ep = self._along("experts", ("inner", "cp")) if degrees.ep > 1 else None
        self.stage = self._along("stage", ("replicate", "outer", "inner", "cp", "tp"))
        self.tp, self.cp, self.pp = (self._named(name) for name in ("tp", "cp", "pp"))
        self.replicate = self._named("replicate")

    def _names(self) -> tuple[str, ...]:
        return self.root.mesh_dim_names or ()

    def _named(self, name: str) -> DeviceMesh | None:
        return self.root[name] if name in self._names() else None

    def _along(self, label: str, names: tuple[str, ...]) -> DeviceMesh:
        """One dimension out of those of `names` that exist."""
        kept = tuple(name for name in names if name in self._names())
        if len(kept) == 1:
            return self.root[kept[0]]
        if kept not in self.flattened:
            backend = dist.get_backend() if label == "experts" else None
            self.flattened[kept] = self.root[kept]._flatten(label, backend)
        return self.flattened[kept]

    def sharded(self, experts: bool = False) -> DeviceMesh:
        """The mesh for fully_shard: the ranks that share a copy, and with copies a dimension of them before it."""
        shard = self.expert_fsdp if experts else self.fsdp
        return shard if self.replicate is None else DeviceMesh._concatenate([self.replicate, shard])

    @property
    def data(self) -> tuple[int, int]:
        """Which part of the data this rank trains on, of how many."""
        index, count = 0, 1
        for name in ("replicate", "outer", "inner"):
            if (along := self._named(name)) is not None:
                index = index * along.size() + along.get_local_rank()
                count *= along.size()
        return index, count

    @property
    def shape(self) -> dict[str, int]:
        """The degrees longer than one, by their names in records; the ranks of one copy as `shard`, else `dp`."""
        named = {
            "pp": self.degrees.pp,
            "replicate": self.degrees.replicas,
            "shard" if self.degrees.replicas > 1 else "dp": self.degrees.shard,
            "cp": self.degrees.cp,
            "tp": self.degrees.tp,
            "ep": self.degrees.ep,
        }
        return {name: length for name, length in named.items() if length > 1 or name == "dp"}

    @cached_property
    def labels(self) -> dict[str, tuple[str, int]]:
        """The label and the size of every process group, by the group's name; later ones win where they are one group.

        dp is where gradients meet: with hsdp dp_shard and dp_replicate, for experts edp.
        """
        shards = "dp_shard" if self.replicate is not None else "dp"
        meshes = [
            ("stage", self.stage),
            ("edp", self.expert_fsdp),
            ("ep", self.ep),
            ("tp", self.tp),
            ("cp", self.cp),
            ("pp", self.pp),
            ("dp_replicate", self.replicate),
            ("dp", self.everyone),
            (shards, self.fsdp),
        ]
        found: dict[str, tuple[str, int]] = {}
        if dist.group.WORLD is not None:
            found[dist.group.WORLD.group_name] = ("world", dist.get_world_size())
        for label, mesh in meshes:
            if mesh is not None:
                found[mesh.get_group().group_name] = (label, prod(mesh.shape))
        return found
