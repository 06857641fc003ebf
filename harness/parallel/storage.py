"""Tensors in torch's distributed checkpoint, of which nothing but tensors is ever loaded."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata, TensorStorageMetadata

from harness.parallel.members import MEMBER_OF, member_of
from harness.parallel.state import State

METADATA = {
    "pathlib": {"PosixPath"},
    "pathlib._local": {"PosixPath"},
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
}
"""What torch writes its metadata with, by module, beside the types of elements; anything else is refused."""


class Unusable(RuntimeError):
    """A checkpoint whose files are whole and can't be loaded; the tensors may have taken up some of it."""


def save(folder: Path, share: State, group: dist.ProcessGroup | None) -> list[Path]:
    """Write this rank's share of the state; its own files, or OSError where they could not be written.

    Where others could not write theirs, none: what there is of it is no checkpoint.
    """
    rank = dist.get_rank()
    try:
        with warnings.catch_warnings():
            # of a rank alone, for which no group is needed
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            state_dict_saver.save(share, storage_writer=FileSystemWriter(folder), process_group=group)
    except CheckpointException as error:
        if rank not in error.failures:
            return []
        cause, _ = error.failures[rank]
        raise (cause if isinstance(cause, OSError) else OSError(str(cause))) from error
    return [*sorted(folder.glob(f"__{rank}_*")), *([folder / ".metadata"] if rank == 0 else [])]


def load(folder: Path, state: State) -> None:
    """Copy what a folder holds into the tensors of the same names. Unusable on every rank where one of them can't."""
    try:
        state_dict_loader.load(state, storage_reader=Reader(folder))
    except CheckpointException as error:
        rank, (cause, _) = min(error.failures.items())
        said, _, _ = str(cause).strip().partition("\n")
        raise Unusable(f"rank {rank} could not load it ({type(cause).__name__}: {said})") from error


def check(path: Path) -> None:
    """Raise for a file of a checkpoint that asks for any type but tensors and plain values; no tensor is read."""
    if path.name == ".metadata":
        Reader(path.parent).read_metadata()
    elif path.suffix == ".pt":
        torch.load(path, map_location="cpu", mmap=True, weights_only=True)


class Reader(FileSystemReader):
    """torch's reader, which would unpickle whatever the metadata names."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        with open(Path(self.path) / ".metadata", "rb") as file:
            metadata = Plain(file).load()
        for name, stored in metadata.state_dict_metadata.items():
            if not isinstance(stored, TensorStorageMetadata):
                raise pickle.UnpicklingError(f"{self.path}: {name} is no tensor")
        return metadata


class Plain(pickle.Unpickler):
    """Unpickles torch's descriptions of tensors and where they lie, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if name in METADATA.get(module, ()):
            return super().find_class(module, name)
        if f"{module}.{name}" == MEMBER_OF:
            return member_of(_MEM_FORMAT_ENCODING)
        if module == "torch" and isinstance(kind := getattr(torch, name, None), torch.dtype):
            return kind
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a checkpoint's metadata")
