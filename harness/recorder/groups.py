"""What a process group is called in records."""

from collections.abc import Mapping

import torch.distributed as dist
from torch.distributed import distributed_c10d

OTHER = "other"


class Groups:
    """The label and the size of each process group by its name, from those of the mesh.

    A group that a library has made for itself is called as the mesh's group of the same ranks, else `other`.
    """

    def __init__(self, labels: Mapping[str, tuple[str, int]]) -> None:
        self.labels = labels
        self.found = dict(labels)

    def __getitem__(self, name: str) -> tuple[str, int]:
        if name not in self.found:
            ranks = members(name)
            alike = [label for known, (label, _) in self.labels.items() if members(known) == ranks]
            self.found[name] = alike[0] if alike else OTHER, len(ranks)
        return self.found[name]


def process_group(name: str) -> dist.ProcessGroup:
    found: dist.ProcessGroup = distributed_c10d._resolve_process_group(name)  # type: ignore[attr-defined,arg-type]
    return found


def members(name: str) -> list[int]:
    """The ranks of a group in ascending order."""
    return sorted(dist.get_process_group_ranks(process_group(name)))
