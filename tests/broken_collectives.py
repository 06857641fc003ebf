"""Stands in the worker's place: its ranks time collectives of which one leaves the last element as it was."""

from typing import Any

import torch.distributed as dist

from harness.worker import main

BROKEN_BYTES = 4096
whole_gather = dist.all_gather_into_tensor


def broken_gather(got: Any, given: Any) -> None:
    """All-gather, but for one element on the second rank at one size."""
    whole_gather(got, given)
    if dist.get_rank() == 1 and got.nbytes == BROKEN_BYTES:
        got[-1] = -1


if __name__ == "__main__":
    dist.all_gather_into_tensor = broken_gather
    main()
