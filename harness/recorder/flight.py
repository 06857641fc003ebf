"""What PyTorch's flight recorder keeps of a collective: which group, which tensors, when it was issued."""

import pickle
from collections.abc import Sequence
from math import prod
from typing import Any

from harness.recorder.groups import Groups
from harness.recorder.operations import Operation

Entry = dict[str, Any]

WIDTHS = {
    "Float": 4,
    "Double": 8,
    "BFloat16": 2,
    "Half": 2,
    "Float8_e4m3fn": 1,
    "Float8_e5m2": 1,
    "Long": 8,
    "Int": 4,
    "Short": 2,
    "Char": 1,
    "Byte": 1,
    "Bool": 1,
}
"""Bytes of one element by the name the flight recorder gives its type."""


def entries(raw: bytes) -> list[Entry]:
    """The entries of a dump, oldest first."""
    # written by this process's own PyTorch a moment ago: nothing foreign is unpickled
    found: list[Entry] = pickle.loads(raw).get("entries", [])  # noqa: S301
    return sorted(found, key=lambda entry: int(entry["record_id"]))


def elements(sizes: Sequence[Sequence[int]]) -> int:
    return sum(prod(shape) for shape in sizes)


def given(entry: Entry) -> int:
    """Bytes of the tensors that this rank put into a collective."""
    return sum(
        prod(shape) * WIDTHS[kind] for shape, kind in zip(entry["input_sizes"], entry["input_dtypes"], strict=True)
    )


def exchanges(entry: Entry) -> tuple[str, tuple[str, ...]]:
    """What tells the all-to-alls of a step apart: the group and the types of their elements.

    Counts and the tokens they announce go through one group, and only tokens are uneven.
    """
    return entry["process_group"][0], tuple(entry["input_dtypes"])


def uneven(all_to_alls: Sequence[Entry]) -> set[tuple[str, tuple[str, ...]]]:
    """The `exchanges` in which this rank once got more or less than it gave: their sizes are other ones every time."""
    return {
        exchanges(entry) for entry in all_to_alls if elements(entry["input_sizes"]) != elements(entry["output_sizes"])
    }


def operation(
    op: str, parts: Sequence[Entry], groups: Groups, start: float | None, duration: float | None, **more: bool
) -> Operation:
    """One operation out of the entries that it is made of, S by nccl-tests' convention.

    The inputs are the whole buffer, save that of an all-gather, which is one rank's part of the full tensor. An
    all-to-all counts all that the rank puts in, its own part with it.
    """
    label, size = groups[parts[0]["process_group"][0]]
    own = sum(given(part) for part in parts)
    return Operation(op, label, size, own * size if op == "all_gather" else own, start, duration, **more)
