"""`make cluster-study`: slurm/scale.sh over one, two and four separate hosts of a real Slurm on this machine."""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lab import SOURCE, Cluster, missing

from harness.analysis.read import Point, Record, read_study
from harness.bench.judge import Check, judge

STUDY, RANKS_PER_HOST, SCALES = "cluster", 2, (1, 2, 4)
WORDS = ("model=tiny", f"gpus_per_node={RANKS_PER_HOST}", "seq_len=128", "steps=30", "record.wandb=disabled")


def scale(cluster: Cluster, root: Path, *words: str, name: str = STUDY, nodes: int = 4, **variables: str) -> str:
    """Submit scale.sh as a person does, and wait for its end; its output."""
    root.mkdir(parents=True, exist_ok=True)
    asked = (f"study={name}", f"root={root}", *WORDS, *words)
    words = (f"--nodes={nodes}", f"--output={root}/%j.log", "slurm/scale.sh", *asked)
    job = cluster.submit(*words, cwd=SOURCE, **variables)
    cluster.wait([job])
    return (root / f"{job}.log").read_text()


def main() -> int:
    if reason := missing():
        sys.stderr.write(f"make cluster-study: {reason}\n")
        return 2
    root = Path("studies").resolve()
    shutil.rmtree(root / STUDY, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with Cluster(Path(folder)) as cluster:
            sys.stdout.write(scale(cluster, root))
            first = cluster.address("node1")
    # a machine with GPUs may lack polars; there only the tests are run
    from harness.analysis.points import points as table

    study = read_study(root / STUDY)
    points = list(study)
    met = [point for point in points if started(point)["master_addr"] == first]
    followed = [point for point in points if started(point)["hosts"] == point.provenance["hosts"]]
    efficiencies = table(study)["efficiency"].drop_nulls()
    checks = [
        number("points that ended ok", sum(point.status["status"] == "ok" for point in points), len(SCALES)),
        number("points whose ranks met at the first host's address", len(met), len(SCALES)),
        number("points whose ranks follow their hosts", len(followed), len(SCALES)),
        number("points with an efficiency", len(efficiencies), len(SCALES)),
        *(number(f"{point.slug}: hosts", len(set(point.provenance["hosts"])), point.config.nodes) for point in points),
    ]
    return judge("cluster-study", checks, [point.path for point in points])


def shaped(cluster: Cluster, root: Path, rate: str, *words: str, nodes: int) -> Record:
    """The preflight of a point on so many hosts whose links have that rate; all that was said where it has none."""
    cluster.shaped("all", rate)
    try:
        said = scale(cluster, root, *words, name=f"shaped-{rate}", nodes=nodes, NODES=str(nodes))
    finally:
        cluster.shaped("all", "off")
    (point,) = read_study(root / f"shaped-{rate}")
    path = point.path / "preflight.json"
    assert path.exists(), said
    found: Record = json.loads(path.read_text())
    return found


def started(point: Point) -> Record:
    """A point's `start` record."""
    return next(record for record in point.events[0] if record["kind"] == "start")


def until(found: Callable[[], Path | None], timeout_s: float = 120.0) -> Path:
    """The first true answer."""
    end = time.monotonic() + timeout_s
    while not (answer := found()):
        assert time.monotonic() < end
        time.sleep(0.2)
    return answer


def running(study: Path) -> Path | None:
    """The run directory of the point whose steps are being recorded."""
    for path in study.glob("points/*/status.json"):
        events = path.parent / "attempts" / "0" / "events.jsonl"
        if json.loads(path.read_text())["status"] == "running" and events.exists() and '"step"' in events.read_text():
            return path.parent
    return None


def number(name: str, value: int, wanted: int) -> Check:
    return Check(name, value, value, value, wanted, at_least=True)


if __name__ == "__main__":
    sys.exit(main())
