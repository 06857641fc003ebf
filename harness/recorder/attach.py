"""What watches a point's training on one rank, as its configuration asks for it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from harness.config import Config
from harness.place import Place
from harness.plan.batch import tokens_per_step
from harness.plan.collectives import calls_per_step
from harness.plan.profiling import profiled_ranks, profiled_steps
from harness.recorder.clock import CudaClock, HostClock
from harness.recorder.cuda import CudaSampler
from harness.recorder.exchange import Exchange
from harness.recorder.files import Files
from harness.recorder.gloo import GlooSampler
from harness.recorder.profiling import CapturedByTool, Profiled, Ranged
from harness.recorder.ranges import NvtxRanges, Ranges, TorchRanges, mark
from harness.recorder.recorder import Recorder
from harness.recorder.samples import Samples
from harness.recorder.surroundings import device_uuids
from harness.recorder.telemetry import Telemetry
from harness.recorder.torch_profile import TorchTrace


def recorder_of(config: Config, place: Place, labels: Mapping[str, tuple[str, int]], files: Files) -> Recorder:
    """The point's recorder; `labels` are those of the mesh's groups."""
    exchange = Exchange(place.device)
    return Recorder(
        clock=CudaClock() if place.cuda else HostClock(),
        sampler=CudaSampler(labels) if place.cuda else GlooSampler(labels),
        exchange=exchange,
        samples=Samples(exchange, labels, calls_per_step(config), place.rank, files.events, files.node),
        writer=files.events,
        device=place.device,
        warmup=config.warmup,
        steps=config.steps,
        sample_every=config.record.sample_every,
        tokens_per_step=tokens_per_step(config),
        compiled=config.compile,
        profiled=profiled_steps(config),
        progress=files.progress,
    )


@contextmanager
def devices_watched(config: Config, place: Place, files: Files) -> Iterator[None]:
    """Have the first rank of each node write down what the node's devices say of themselves."""
    if place.local_rank != 0:
        yield
        return
    uuids = device_uuids(place.local_world_size) if place.cuda else []
    telemetry = Telemetry(files.node, files.host, place.node, uuids, place.rank, config.record.telemetry_s)
    try:
        yield
    finally:
        telemetry.stop()


def ranges_of(config: Config, rank: int) -> Ranges | None:
    """The ranges that the point's profiler shows; None on a rank that is not profiled."""
    if rank not in profiled_ranks(config):
        return None
    return TorchRanges() if config.profile.kind == "torch" else NvtxRanges()


def observer_of(
    config: Config, recorder: Recorder, trained: Any, ranges: Ranges | None, place: Place, files: Files
) -> Recorder | Profiled | Ranged:
    """What looks on as a strategy (harness.parallel.strategy) trains: the recorder, around it the point's profiler."""
    steps = recorder.profiled
    if not steps:
        return recorder
    if ranges is None:
        return Profiled(recorder, None, steps)
    mark(trained, ranges)
    if config.profile.kind == "torch":
        trace = TorchTrace(files.folder / "profile" / f"rank{place.rank}.trace.json.gz", place.cuda)
        return Ranged(Profiled(recorder, trace, steps), ranges, config.steps)
    return Ranged(Profiled(recorder, CapturedByTool(), steps), ranges, config.steps)
