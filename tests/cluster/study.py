"""`make cluster-study`: slurm/scale.sh over one, two and four separate hosts of a real Slurm on this machine."""

import shutil
import sys
import tempfile
from pathlib import Path

from lab import SCALE, Cluster, missing

from harness.analysis.read import Point, Record, read_study
from harness.bench.judge import Check, judge

STUDY, RANKS_PER_HOST, SCALES = "cluster", 2, (1, 2, 4)
WORDS = ("model=tiny", f"gpus_per_node={RANKS_PER_HOST}", "seq_len=128", "steps=30", "record.wandb=disabled")


def scale(cluster: Cluster, root: Path, *words: str, name: str = STUDY, nodes: int = 4, **variables: str) -> str:
    """Submit scale.sh as a person does, and wait for its end; its output."""
    root.mkdir(parents=True, exist_ok=True)
    asked = (f"study={name}", f"root={root}", *WORDS, *words)
    job = cluster.submit(f"--nodes={nodes}", f"--output={root}/%j.log", str(SCALE), *asked, cwd=root, **variables)
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
    points = list(read_study(root / STUDY))
    checks = [number("points that ended ok", sum(point.status["status"] == "ok" for point in points), len(SCALES))]
    for point in points:
        hosts = started(point)["hosts"]
        checks.append(number(f"{point.slug}: hosts", len(set(hosts)), point.config.nodes))
    return judge("cluster-study", checks, [point.path for point in points])


def started(point: Point) -> Record:
    """A point's `start` record."""
    return next(record for record in point.events[0] if record["kind"] == "start")


def number(name: str, value: int, wanted: int) -> Check:
    return Check(name, value, value, value, wanted, at_least=True)


if __name__ == "__main__":
    sys.exit(main())
