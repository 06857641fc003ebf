"""A real Slurm of separate hosts on this machine, as hosts.sh makes it: for tests, and for `make cluster-study`."""

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

HOSTS = Path(__file__).with_name("hosts.sh")
SOURCE = Path(__file__).resolve().parents[2]
SCALE = SOURCE / "slurm" / "scale.sh"
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "tc")
PACKAGES = "slurmctld slurmd slurm-client munge iproute2"


def missing() -> str | None:
    """Why no cluster can be started here."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    lacking = [name for name in NEEDED if shutil.which(name, path=path) is None]
    if os.geteuid() != 0:
        return "namespaces of separate hosts need root"
    return f"needs {', '.join(lacking)}; on Debian: apt-get install {PACKAGES}" if lacking else None


class Cluster:
    """Hosts node1, node2 … under one Slurm controller, until the end of `with`; with `gpus` each has one."""

    def __init__(
        self, folder: Path, hosts: int = 4, name: str = "ht", net: str = "10.78.0", gpus: bool = False
    ) -> None:
        self.hosts, self.net = hosts, net
        # only what a person's own shell would have, and nothing of a cluster that this may run on
        foreign = ("SLURM",) if gpus else ("SLURM", "NCCL_")
        self.variables = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        self.variables |= {"LABGPUS": "1"} if gpus else {}
        self.variables |= {"LAB": str(folder / "lab"), "LABNS": name, "LABNET": net}
        self.variables["PYTHONPATH"] = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH"))))

    def __enter__(self) -> Self:
        for number in ("ctl", *(f"node{number}" for number in range(1, self.hosts + 1))):
            # of a cluster that was killed; its folder is another
            left = f"{self.variables['LABNS']}-{number}"
            subprocess.run(["ip", "netns", "del", left], capture_output=True)
        self.run("up", str(self.hosts))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run("down", check=False)

    def run(self, *words: str, check: bool = True, cwd: Path | None = None, **variables: str) -> str:
        """What a command of hosts.sh prints."""
        done = subprocess.run(
            ["bash", str(HOSTS), *words], env={**self.variables, **variables}, cwd=cwd, capture_output=True, text=True
        )
        assert not check or done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def slurm(self, *words: str, check: bool = True, cwd: Path | None = None, **variables: str) -> str:
        """What a command prints that a person starts on the cluster's login node."""
        return self.run("exec", *words, check=check, cwd=cwd, **variables)

    def address(self, host: str) -> str:
        return f"{self.net}.{host.removeprefix('node')}"

    def submit(self, *words: str, cwd: Path, **variables: str) -> str:
        """The number of a submitted job."""
        return self.slurm("sbatch", "--parsable", *words, cwd=cwd, **variables)

    def wait(self, jobs: Sequence[str], timeout_s: float = 280.0) -> None:
        """Until none of the jobs is left; `sbatch --wait` asks ever less often."""
        until = time.monotonic() + timeout_s
        while self.slurm("squeue", "-h", "-t", "PD,R,CG,CF", "-j", ",".join(jobs), check=False):
            assert time.monotonic() < until, f"jobs {', '.join(jobs)} are still there: {self.slurm('squeue')}"
            time.sleep(0.2)

    def shaped(self, host: str, rate: str) -> None:
        """Limit a host's link, or those of all, as tc writes rates; `off` takes the limit away."""
        self.run("shape", host, rate)
