"""What is looked at before a point starts on several hosts: the hosts themselves, and what lies between them."""

import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.files import read_json, write_json
from harness.plan.profiling import TOOLS, profiled_ranks
from harness.study.attempt import Deadline, wait
from harness.study.interruption import Interruption
from harness.study.lease import Lease
from harness.study.outcome import LAUNCHER_LOG, Outcome, outcome
from harness.study.planning import Planned
from harness.study.point import Point
from launch import probe
from launch.allocation import Host
from launch.devices import Machine
from launch.environment import build
from launch.launchers import Launcher, Srun
from launch.torchrun import Ranks

LINKS = "harness.collectives.links"
LINKS_S = 120.0
IMPORT_S = 900.0  # of an image on hosts that have none yet, as launch.node waits for it
CLOCK_S = 1.0
FEWEST_TO_COMPARE = 3
"""Of two hosts that are slow together nobody can say which one is."""


def look(points: Sequence[Point], launcher: Srun, study_dir: Path) -> tuple[Machine, list[dict[str, Any]]]:
    """What the first host of an allocation has, and what each says on which the points will run.

    ValueError, one sentence, where there are too few, where one does not answer, does not see the study's folder, has
    another clock or other GPUs than the first, fewer than a point wants, or not its profiler. Nothing of
    the study is written before. With preflight=false only the first is asked, and not compared.
    """
    most, config = max(point.config.nodes for point in points), points[0].config
    hosts = launcher.allocation.hosts
    if most > len(hosts):
        raise ValueError(f"nodes={most}: must be at most {len(hosts)}, the hosts of this allocation")
    # those too on which a point may be started again
    most = len(hosts) if config.launcher.max_restarts else most
    hosts = hosts[: most if config.preflight else 1]
    mark = nearest_folder(study_dir) / f".harness-{uuid.uuid4().hex}"
    try:
        mark.touch()
    except OSError as error:
        raise ValueError(f"root={study_dir.parent}: cannot be written ({error.strerror})") from error
    try:
        answers = probe.ask(hosts, mark)
    finally:
        mark.unlink(missing_ok=True)
    differences(hosts, answers, mark.parent)
    first = answers.seen[0].machine
    check_gpus(points, hosts[0].name, len(first.gpus))
    check_profilers(points, hosts, answers.seen)
    return first, [
        {
            "name": host.name,
            "address": host.address,
            "gpus": [gpu.name for gpu in seen.machine.gpus],
            "driver": seen.machine.driver,
        }
        for host, seen in zip(hosts, answers.seen, strict=True)
    ]


def check_gpus(points: Sequence[Point], host: str, gpus: int) -> None:
    """Raise ValueError for a point that wants more GPUs than each host has."""
    for config in (point.config for point in points):
        if gpus and config.gpus_per_node > gpus:
            raise ValueError(f"gpus_per_node={config.gpus_per_node}: {host} shows {gpus} GPUs")
        if not gpus and config.hardware.name != "auto":
            raise ValueError(f"hardware={config.hardware.name}: {host} shows no GPU; ask Slurm for some, as by --gres")


def check_profilers(points: Sequence[Point], hosts: Sequence[Host], seen: Sequence[probe.Seen]) -> None:
    """Raise ValueError for a point whose profiler a host lacks on which it would run; an image may have its own."""
    for config in (point.config for point in points):
        if config.profile.kind not in TOOLS or config.launcher.container_image:
            continue
        of_ranks = {rank // config.gpus_per_node for rank in profiled_ranks(config)}
        for number, (host, there) in enumerate(zip(hosts, seen, strict=True)):
            if number in of_ranks and config.profile.kind not in there.profilers:
                tool = config.profile.kind
                raise ValueError(
                    f"profile={tool}: there is no {tool} on the PATH of {host.name}; add its folder to PATH"
                )


def nearest_folder(path: Path) -> Path:
    """The folder itself, or the nearest one above it that there is."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def differences(hosts: Sequence[Host], answers: probe.Answers, folder: Path) -> None:
    """Raise ValueError for the first host that is not as the others are."""
    numbers = [seen.number for seen in answers.seen]
    if numbers != list(range(len(hosts))):
        missing = [host.name for number, host in enumerate(hosts) if number not in numbers]
        raise ValueError(f"{', '.join(missing) or 'srun'}: gave no answer; see whether slurmd runs there")
    first = answers.seen[0]
    for host, seen in zip(hosts, answers.seen, strict=True):
        if not seen.sees:
            raise ValueError(f"{host.name}: does not see {folder}; choose a root= that all hosts share")
        if not answers.asked - CLOCK_S <= seen.time <= answers.answered + CLOCK_S:
            off = seen.time - (answers.asked if seen.time < answers.asked else answers.answered)
            raise ValueError(f"{host.name}: {wrong_clock(off)}")
        if (seen.machine.gpus, seen.machine.driver) != (first.machine.gpus, first.machine.driver):
            raise ValueError(
                f"{host.name}: has {described(seen)}, {hosts[0].name} has {described(first)}; take hosts that are alike"
            )


def wrong_clock(off: float) -> str:
    return f"its clock is {off:+.1f} s off; set it, or times of hosts cannot be compared"


def described(seen: probe.Seen) -> str:
    names = [gpu.name for gpu in seen.machine.gpus]
    told = " and ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names)) or "no GPU"
    return f"{told} (driver {seen.machine.driver})" if seen.machine.driver else told


@dataclass
class Links:
    """What lies between the first hosts of the allocation, measured once for each number of them and NCCL setting."""

    hosts: list[dict[str, Any]]
    known: dict[str, dict[str, Any]] = field(default_factory=dict)

    def check(
        self,
        planned: Planned,
        nodes: int,
        launcher: Launcher,
        held: Lease,
        interruption: Interruption,
        say: Callable[[str], None],
    ) -> Outcome | None:
        """Write the point's preflight.json and name slow hosts; an outcome where the hosts cannot talk.

        It lies before the attempt and its wall-clock.
        """
        config, run_dir = planned.point.config, planned.point.run_dir
        if nodes == 1 or not config.preflight:
            return None
        names = launcher.hosts[:nodes]
        key = f"{names} {sorted(config.nccl.env.items())} {config.nccl.ambient}"
        if key not in self.known:
            found = measure(planned, nodes, len(self.hosts[0]["gpus"]), launcher, held, interruption)
            if isinstance(found, Outcome):
                return found
            self.known[key] = {"hosts": [host for host in self.hosts if host["name"] in names], **found}
        record = self.known[key]
        write_json(run_dir / "preflight.json", {"schema": 1, "kind": "preflight", **record})
        for host in record["slow"]:
            share = record["bandwidth"][host] / statistics.median(record["bandwidth"].values())
            say(f"warning: {host} is slow: at best {share:.1%} of what hosts usually reach with each other")
        return None


def measure(
    planned: Planned, nodes: int, gpus: int, launcher: Launcher, held: Lease, interruption: Interruption
) -> dict[str, Any] | Outcome:
    """An all-reduce over a point's hosts, of `gpus` GPUs each, and pairs of them in turn, or how that failed."""
    config, run_dir = planned.point.config, planned.point.run_dir
    folder, begin = run_dir / "preflight", time.time()
    log = folder / "logs" / LAUNCHER_LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    clear = config.nccl.ambient == "clear"
    environment = build(config.nccl.env, clear, run_dir, log.parent, gpus, calls_per_step=0)
    program = [LINKS, str(folder), f"--hosts={nodes}"]
    ranks = Ranks(program, f"{run_dir.name}-preflight", nodes, 1)
    command = launcher.command(ranks, folder, environment)
    most = LINKS_S + (IMPORT_S if config.launcher.container_image else 0)
    with launcher.start(command, environment, log, nodes) as tree:
        cut = wait(tree, Deadline.after(most), held, interruption, lambda: None)
    if cut is not None:
        late = f"preflight: the hosts did not find each other within {most:.0f} s"
        return Outcome(cut.status, late if cut.status == "timeout" else cut.reason)
    exit_code = tree.poll()
    assert exit_code is not None
    if exit_code:
        failed = outcome(folder, exit_code, launcher.hosts[:nodes], 1)
        return Outcome(failed.status, f"preflight: {failed.reason}", failed.rank, failed.host)
    found = read_json(folder / "links.json")
    assert found is not None
    named = launcher.hosts[:nodes]
    if found["hosts"] != list(named):
        return Outcome(
            "failed", f"preflight: ranks are on {', '.join(found['hosts'])}, not on {', '.join(named)} in turn"
        )
    clocks = dict(zip(named, found["clocks_s"], strict=True))
    for host, off in clocks.items():
        if abs(off) > CLOCK_S:
            return Outcome("failed", f"preflight: {host}: {wrong_clock(off)}", host=host)
    bandwidth = fastest(found["pairs"])
    return {
        "time": begin,
        "duration_s": time.time() - begin,
        "world_size": nodes,
        "clocks_s": clocks,
        "all_reduce": found["all_reduce"],
        "pairs": found["pairs"],
        "bandwidth": bandwidth,
        "slow": slow(bandwidth),
    }


def fastest(pairs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The most bytes per second that each host reached with another."""
    found: dict[str, float] = {}
    for pair in pairs:
        for host in pair["hosts"]:
            found[host] = max(found.get(host, 0.0), pair["bytes_per_s"])
    return found


def slow(bandwidth: dict[str, float]) -> list[str]:
    """Hosts that reach less than half of the median with whomever they meet; of two nobody can say which one it is."""
    if len(bandwidth) < FEWEST_TO_COMPARE:
        return []
    usual = statistics.median(bandwidth.values())
    return [host for host, best in bandwidth.items() if best < usual / 2]
