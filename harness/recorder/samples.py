"""Accounts of sampled steps on their way: to the ranks of each group, to the first rank, into the records."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from harness.recorder.events import EventWriter
from harness.recorder.exchange import Exchange, Pending
from harness.recorder.operations import StepOperations
from harness.recorder.sample import Sample, Window, pipelined
from harness.recorder.waits import packed, split, synchronising


@dataclass
class Compared:
    """An account whose groups' shortest times are on their way, by the label of the group."""

    told: StepOperations
    window: Window | None
    smallest: dict[str, Pending]


class Samples:
    """Takes every account two stages further, one a call of `advance`, which all ranks make at the same steps.

    A stage later the numbers have come home, so that nobody waits for them. Every group of the mesh takes part in
    every account, also where it has no operation, and all ranks go through their groups in one order.
    """

    def __init__(
        self,
        exchange: Exchange,
        labels: Mapping[str, tuple[str, int]],
        capacity: int,
        rank: int,
        writer: EventWriter | None,
        node: EventWriter,
    ) -> None:
        """labels: of the mesh's groups by their names; capacity: operations of a step and group, equal on all ranks."""
        self.exchange, self.capacity, self.rank = exchange, capacity, rank
        self.writer, self.node = writer, node
        self.groups = sorted((label, name) for name, (label, size) in labels.items() if size > 1)
        self.pipeline = pipelined(labels)
        self.compared: list[Compared] = []
        self.gathered: list[tuple[Sample, Pending]] = []

    def add(self, told: StepOperations, window: Window | None) -> None:
        """Send off an account of this rank's."""
        smallest = {
            label: self.exchange.smallest(
                torch.tensor(packed(synchronising(told.operations, label), self.rank, self.capacity)), name
            )
            for label, name in self.groups
        }
        self.compared.append(Compared(told, window, smallest))

    def advance(self) -> None:
        """Write what has been gathered, gather what has been compared."""
        for sample, rows in self.gathered:
            self._write(sample, rows)
        self.gathered = []
        for account in self.compared:
            smallest = {label: pending.result().tolist() for label, pending in account.smallest.items()}
            shares = split(account.told.operations, smallest)
            sample = Sample(self.rank, account.told, shares, self.pipeline, account.window)
            # without a window nobody knows what overlapped
            if account.window is not None:
                self.node.write("sample", **sample.line())
            self.gathered.append((sample, self.exchange.gather(sample.row())))
        self.compared = []

    def finish(self) -> None:
        """Write everything that is still on its way."""
        while self.compared or self.gathered:
            self.advance()

    def _write(self, sample: Sample, rows: Pending) -> None:
        if self.writer is None:
            return
        told = rows.result()
        # of NCCL's operations the flight recorder tells, about a step that no window was around
        if sample.told.source != "kineto":
            self.writer.write("collectives", **sample.collectives(told))
        if sample.told.timeline is not None:
            self.writer.write("exposure", **sample.exposure(told))
