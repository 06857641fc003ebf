"""One rank of a launch that is timed: the worker's own, or with --bare the same training with nothing attached.

Started by torchrun: `torchrun --nproc-per-node=2 -m harness.bench.rank RUN_DIR`; rank 0 writes RUN_DIR/stamps.json.
"""

import argparse
import json
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from harness.bench.stopwatch import Stopwatch
from harness.parallel.mesh import Mesh
from harness.place import Place, join, leave
from harness.recorder.clock import CudaClock, HostClock
from harness.stored import stored_config
from harness.training.between import Between
from harness.training.point import arranged, build, open_data, settle, train_point
from harness.training.stop import Stop
from harness.worker import here, run


@record
def main() -> None:
    parser = argparse.ArgumentParser(prog="harness.bench.rank", description="One rank of a launch that is timed.")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--bare", action="store_true")
    arguments = parser.parse_args()
    place, environment = here(arguments.device)
    if arguments.bare:
        seconds = bare(arguments.run_dir, place)
    else:
        seconds = recorded(arguments.run_dir, arguments.attempt, place, environment)
    if place.rank == 0:
        variables = sorted(name for name in environment if name.startswith(("NCCL_", "TORCH_")))
        stamps = {"seconds": seconds, "variables": variables}
        (arguments.run_dir / "stamps.json").write_text(json.dumps(stamps) + "\n")
    leave()


def recorded(run_dir: Path, attempt: int, place: Place, environment: dict[str, str]) -> list[float]:
    """Seconds of each step of the point as every point is trained."""
    stopwatch = stopwatch_of(place)
    run(run_dir, attempt, place, environment, Stop(), stopwatch.around)
    return stopwatch.seconds()


def bare(run_dir: Path, place: Place) -> list[float]:
    """Seconds of each step of the same point with nothing else attached."""
    config, stopwatch = stored_config(run_dir), stopwatch_of(place)
    join(place)
    trained = build(config, Mesh(place.device_type, arranged(config)), place.device)
    data = open_data(config, trained, place.device)
    settle()
    train_point(config, trained, data, stopwatch, Between(config.steps))
    return stopwatch.seconds()


def stopwatch_of(place: Place) -> Stopwatch:
    return Stopwatch(CudaClock() if place.device_type == "cuda" else HostClock())


if __name__ == "__main__":
    main()
