"""gloo's collectives of a step, from a window of PyTorch's profiler around it."""

from collections.abc import Mapping
from math import prod
from typing import Any

from torch.profiler import ProfilerActivity, profile

from harness.recorder.operations import Operation, StepOperations

ISSUED = {
    "c10d::allreduce_": "all_reduce",
    "c10d::_allgather_base_": "all_gather",
    "c10d::allgather_": "all_gather",
    "c10d::_reduce_scatter_base_": "reduce_scatter",
    "c10d::reduce_scatter_": "reduce_scatter",
    "c10d::alltoall_base_": "all_to_all",
    "c10d::alltoall_": "all_to_all",
    "c10d::broadcast_": "broadcast",
    "c10d::send": "send_recv",
    "c10d::recv_": "send_recv",
}
"""What was asked for. gloo's own spans name what it ran: a reduce-scatter runs as an all-reduce."""


class GlooSampler:
    """Profiles one step. The profiler slows that step down, which is why it stands outside the window."""

    source = "profiler"

    def __init__(self, group: str, group_size: int) -> None:
        self.group, self.group_size = group, group_size
        self.profiler: profile | None = None

    def before_sampled_step(self, step: int) -> StepOperations | None:
        self.profiler = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
        self.profiler.start()
        return None

    def after_sampled_step(self, step: int) -> StepOperations | None:
        assert self.profiler is not None and self.profiler.profiler is not None
        self.profiler.stop()
        results = self.profiler.profiler.kineto_results
        assert results is not None
        events = sorted(results.events(), key=lambda event: event.start_ns())
        self.profiler = None
        issued = [event for event in events if event.name() in ISSUED]
        spans = [event for event in events if event.name().startswith("gloo:")]
        # gloo's threads take operations from one queue in the order in which they were issued
        operations = [
            Operation(
                op=ISSUED[asked.name()],
                group=self.group,
                group_size=self.group_size,
                bytes=self._bytes(ISSUED[asked.name()], span),
                start=span.start_ns() / 1e9,
                duration=span.duration_ns() / 1e9,
            )
            for asked, span in zip(issued, spans, strict=False)
        ]
        return StepOperations(step, operations, partial=len(issued) != len(spans))

    def step_issued(self, step: int, began: int) -> None:
        pass

    def _bytes(self, op: str, span: Any) -> int:
        """S of the busbw convention: the span's tensor, which for an all-gather is one rank's part."""
        shapes, types = span.shapes(), span.dtypes()
        own = sum(prod(shape) * WIDTHS.get(kind, 0) for shape, kind in zip(shapes, types, strict=False))
        return own * self.group_size if op == "all_gather" else own


WIDTHS: Mapping[str, int] = {
    "float": 4,
    "double": 8,
    "c10::BFloat16": 2,
    "c10::Half": 2,
    "int": 4,
    "long int": 8,
    "long": 8,
    "unsigned char": 1,
    "signed char": 1,
    "bool": 1,
}
"""Bytes of one element by the name the profiler gives its type."""
