"""What any number of ranks has written with DeepSpeed, put together a parameter at a time.

DeepSpeed by itself gives each rank what it had; its converter to other numbers of ranks writes every parameter anew.
"""

from collections.abc import Iterator, Mapping
from math import ceil, prod
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address
from torch import Tensor

from harness.parallel.members import MEMBER_OF, member_of

MASTER = "fp32"
MOMENTS = ("exp_avg", "exp_avg_sq")


def load_plain(path: str | Path, **how: Any) -> Any:
    """A file's tensors, plain values and three plain types of DeepSpeed's; another type is refused."""
    members = (member_of(ZeroStageEnum), MEMBER_OF)
    with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address, members]):
        return torch.load(path, weights_only=True, **how)


def optimizer_files(folder: Path) -> list[Path]:
    """One for each rank that wrote, in their order."""
    return sorted(folder.glob("*_optim_states.pt"), key=rank_of)


def rank_of(path: Path) -> int:
    """The rank that writes a file: what names none is the first's."""
    _, named, rest = path.name.partition("zero_pp_rank_")
    return int(rest.split("_")[0]) if named else 0


class Whole:
    """The state that a folder holds; its files are mapped, so that a rank reads of them what it takes."""

    def __init__(self, folder: Path) -> None:
        self.ranks = [self._mapped(path)["optimizer_state_dict"] for path in optimizer_files(folder)]
        model = self._mapped(min(folder.glob("*model_states.pt"), key=rank_of))
        self.shapes: list[Mapping[str, torch.Size]] = model["param_shapes"]
        self.module: Mapping[str, Tensor] = model["module"]
        # stage 3 splits each parameter, the others all of a group's in a row
        self.split_each = "fp32_flat_groups" in self.ranks[0]

    @property
    def step(self) -> Tensor:
        """How many steps the optimizer has taken."""
        count: Tensor = self._optimizer(self.ranks[0])["state"][0]["step"]
        return count

    def parameters(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """By name, the elements of each parameter's master and of its moments."""
        for group, shapes in enumerate(self.shapes):
            offset = 0
            for name, shape in shapes.items():
                elements = prod(shape)
                held = ceil(elements / len(self.ranks))
                yield (
                    name,
                    {
                        kind: torch.cat(list(self._pieces(kind, group, name, offset, held)))[:elements]
                        for kind in (MASTER, *MOMENTS)
                    },
                )
                offset += held

    def _pieces(self, kind: str, group: int, name: str, offset: int, held: int) -> Iterator[Tensor]:
        """What each rank had of a parameter."""
        for rank in self.ranks:
            flat = self._flat(rank, kind, group)
            if self.split_each:
                yield flat.narrow(0, offset, held)
            elif (place := rank["param_slice_mappings"][group].get(name)) is not None:
                yield flat.narrow(0, place.start, place.numel)

    def _flat(self, rank: dict[str, Any], kind: str, group: int) -> Tensor:
        """A rank's part of a group, in a row."""
        if kind == MASTER:
            masters: list[Tensor] = rank["fp32_flat_groups" if self.split_each else "single_partition_of_fp32_groups"]
            return masters[group]
        moments: dict[str, Tensor] = self._optimizer(rank)["state"][group]
        return moments[kind]

    def _optimizer(self, rank: dict[str, Any]) -> Any:
        return rank["optimizer_state_dict" if self.split_each else "base_optimizer_state"]

    @staticmethod
    def _mapped(path: Path) -> Any:
        return load_plain(path, map_location="cpu", mmap=True)
