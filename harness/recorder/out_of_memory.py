"""What was on a GPU when its memory ran out."""

import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import torch


def snapshot_when_full(path: Path) -> None:
    """From now on write the allocator's blocks to `path` where an allocation fails, as pickle.

    It costs nothing until then, for no history is recorded: the snapshot tells what was held, not by which line of
    code. Nothing happens with a torch that has no such observer, which is not part of its public interface.
    """
    attach: Callable[[Callable[..., None]], None] | None
    attach = getattr(torch._C, "_cuda_attach_out_of_memory_observer", None)
    if attach is not None:
        attach(lambda *_: write_snapshot(path))


def write_snapshot(path: Path) -> None:
    """Write what the allocator holds, the first time that it is asked to; an error here must not hide the one there."""
    if path.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".draft")
        draft.write_bytes(pickle.dumps(torch.cuda.memory._snapshot()))
        draft.rename(path)
    except Exception as error:
        sys.stderr.write(f"no snapshot of the GPU's memory: {error}\n")
