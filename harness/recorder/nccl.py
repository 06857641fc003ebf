"""NCCL's collectives of a step, from PyTorch's flight recorder with timing on."""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

import torch

from harness.plan.window import STEPS_BACK
from harness.recorder.flight import Entry, entries, exchanges, given, operation, uneven
from harness.recorder.groups import Groups
from harness.recorder.operations import Operation, StepOperations

NAMES = {
    "nccl:all_reduce": "all_reduce",
    "nccl:allreduce_coalesced": "all_reduce",
    "nccl:all_gather": "all_gather",
    "nccl:all_gather_single": "all_gather",
    "nccl:_all_gather_base": "all_gather",
    "nccl:all_gather_into_tensor_coalesced": "all_gather",
    "nccl:reduce_scatter": "reduce_scatter",
    "nccl:reduce_scatter_single": "reduce_scatter",
    "nccl:_reduce_scatter_base": "reduce_scatter",
    "nccl:reduce_scatter_tensor_coalesced": "reduce_scatter",
    "nccl:all_to_all": "all_to_all",
    "nccl:all_to_all_single": "all_to_all",
    "nccl:all_to_all_v_single": "all_to_all",
    "nccl:broadcast": "broadcast",
    "nccl:_broadcast_oop": "broadcast",
    "nccl:reduce": "reduce",
    "nccl:_reduce_oop": "reduce",
    "nccl:send": "send_recv",
}
"""By the first word of an entry's name: "nccl:send 0->1". What a rank receives another one has sent."""

PATIENCE_S = 0.3
"""How long to wait for durations: they come from the watchdog's thread, up to 100 ms after a collective has ended."""


class FlightRecorderSampler:
    """Reads the recorder's ring before a sampled step, about one that lies far enough back to be timed.

    The recorder is always on, so the step it tells of is an ordinary one; the sampled step is the one that
    the dump, which holds the interpreter for some 20 ms, may disturb.
    """

    def __init__(self, labels: Mapping[str, tuple[str, int]]) -> None:
        self.groups = Groups(labels)
        self.issued: deque[tuple[int, int, int]] = deque(maxlen=STEPS_BACK)

    def step_issued(self, step: int, began: int) -> None:
        """Note when the host issued a step: from `began`, in nanoseconds since the epoch, until now."""
        self.issued.append((step, began, time.time_ns()))

    def before_sampled_step(self, step: int) -> StepOperations | None:
        # DDP rebuilds its buckets after the first step
        if step - STEPS_BACK < 2:
            return None
        told, begin, end = self.issued[0]
        assert told == step - STEPS_BACK
        patience = time.monotonic() + PATIENCE_S
        while True:
            ring = dump()
            own = [entry for entry in ring if begin <= entry["time_created_ns"] < end]
            operations = list(read(own, self.groups))
            # point-to-point operations may never get a duration
            timed = all(o.duration is not None for o in operations if o.op != "send_recv")
            if timed or time.monotonic() > patience:
                break
            time.sleep(PATIENCE_S / 10)
        # a ring that has wrapped round has lost the oldest entries of the step
        whole = bool(ring) and ring[0]["time_created_ns"] < begin and gapless(own)
        return StepOperations(told, operations, partial=not (timed and whole), source="flight_recorder")


def read(issued: Sequence[Entry], groups: Groups) -> Iterator[Operation]:
    """The operations of a step's entries.

    Those of a batch have no durations of their own: an entry at its end has that of all. The largest one carries it,
    so that it counts once.
    """
    known = [(op, entry) for entry in issued if (op := NAMES.get(entry["profiling_name"].split(" ")[0]))]
    spread = uneven([entry for op, entry in known if op == "all_to_all"])
    ends = batches(issued)
    carriers: dict[tuple[str, bool, int], Entry] = {}
    for _, entry in known:
        number = sequence(entry)
        if number in ends and (number not in carriers or given(entry) > given(carriers[number])):
            carriers[number] = entry
    for op, entry in known:
        number = sequence(entry)
        batched = number in ends
        duration = seconds(ends[number] if batched else entry)
        if batched and entry is not carriers[number]:
            duration = 0.0
        spreads = op == "all_to_all" and exchanges(entry) in spread
        yield operation(op, [entry], groups, None, duration, batched=batched, uneven=spreads)


def seconds(entry: Entry) -> float | None:
    milliseconds = entry.get("duration_ms")
    return None if milliseconds is None else milliseconds / 1e3


def batches(issued: Sequence[Entry]) -> dict[tuple[str, bool, int], Entry]:
    """By `sequence`, the entries at the ends of batches.

    An end comes after its members in their group, and need not say as they do whether it is point-to-point.
    """
    ends: dict[tuple[str, bool, int], Entry] = {}
    last: dict[str, Entry] = {}
    for entry in issued:
        group = entry["process_group"][0]
        if ends_batch(entry) and group in last:
            ends[sequence(last[group])] = entry
        last[group] = entry
    return ends


def ends_batch(entry: Entry) -> bool:
    """Whether this entry stands for a whole batch: "nccl:coalesced", with no tensors of its own."""
    return entry["profiling_name"].endswith("coalesced") and not entry["input_sizes"]


def sequence(entry: Entry) -> tuple[str, bool, int]:
    """The group and the number in it that the operations of one batch share."""
    number = entry["p2p_seq_id" if entry["is_p2p"] else "collective_seq_id"]
    return entry["process_group"][0], entry["is_p2p"], number


def gapless(own: Sequence[Entry]) -> bool:
    """Whether the recorder kept every entry between the first and the last of these."""
    return not own or own[-1]["record_id"] - own[0]["record_id"] == len(own) - 1


def dump() -> list[Entry]:
    """NCCL's entries, oldest first, without stacks."""
    return entries(
        torch._C._distributed_c10d._dump_nccl_trace(  # type: ignore[attr-defined]  # in CUDA builds only
            includeCollectives=True, includeStackTraces=False, onlyActive=False
        )
    )
