"""Checkpoints hold members of enumerations, which Python 3.11.0 to 3.11.3 pickles as `getattr(enumeration, name)`."""

import io
import pickle
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.runtime.zero.config import ZeroStageEnum
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata

from harness.parallel.storage import Plain
from harness.parallel.zero_files import load_plain


class Asked:
    """Pickles as `getattr(of, name)`."""

    def __init__(self, of: Any, name: str) -> None:
        self.asked = of, name

    def __reduce__(self) -> tuple[Any, tuple[Any, str]]:
        return getattr, self.asked


def metadata(of: Any, name: str, folder: Path) -> Any:
    return Plain(io.BytesIO(pickle.dumps(Asked(of, name)))).load()


def deepspeeds(of: Any, name: str, folder: Path) -> Any:
    torch.save(Asked(of, name), folder / "state.pt")
    return load_plain(folder / "state.pt")


@pytest.mark.parametrize(
    ("read", "member"), [(metadata, _MEM_FORMAT_ENCODING.TORCH_CONTIGUOUS_FORMAT), (deepspeeds, ZeroStageEnum.weights)]
)
def test_a_member_is_read(read: Any, member: Enum, tmp_path: Path) -> None:
    assert read(type(member), member.name, tmp_path) is member


@pytest.mark.parametrize(
    ("read", "of", "name"),
    [
        (metadata, _MEM_FORMAT_ENCODING, "__init_subclass__"),
        (metadata, Metadata, "__init__"),
        (deepspeeds, ZeroStageEnum, "__class__"),
        (deepspeeds, torch.Size, "count"),
    ],
)
def test_nothing_else_of_it_is(read: Any, of: Any, name: str, tmp_path: Path) -> None:
    with pytest.raises(pickle.UnpicklingError, match="no member of"):
        read(of, name, tmp_path)
