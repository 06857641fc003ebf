"""The Slurm allocation that this process is in: its hosts, where they are reached, and how long it has left."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from datetime import datetime

LIVE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "RESIZING", "SUSPENDED"}
LIVE |= {"REQUEUE_HOLD", "SPECIAL_EXIT", "SIGNALING", "STAGE_OUT", "STOPPED"}
PREFIX = re.compile(r"^(\w+: )?((error|fatal|allocation failure): )?")
ADDRESS = re.compile(r"^NodeName=(\S+).*? NodeAddr=(\S+)", re.MULTILINE)
# as sinfo abbreviates; an asterisk is for a host that does not answer
AWAY = re.compile(r"down|fail|.*\*$")
DURATION = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)")


@dataclass(frozen=True)
class Host:
    """A host by its name in Slurm and the address under which others reach it."""

    name: str
    address: str


@dataclass(frozen=True)
class Allocation:
    """Hosts that a job has, in Slurm's order."""

    job: str
    hosts: tuple[Host, ...]

    def up(self) -> "Allocation":
        """The same without hosts that Slurm knows as down or out of reach; with all where it cannot say."""
        names = ",".join(host.name for host in self.hosts)
        try:
            told = ask("sinfo", "--noheader", "--Node", f"--nodes={names}", "--format=%N %t")
        except ValueError:
            return self
        gone = {name for name, state in map(str.split, told.splitlines()) if AWAY.match(state)}
        return replace(self, hosts=tuple(host for host in self.hosts if host.name not in gone) or self.hosts)

    def queued_s(self) -> float | None:
        """Seconds from the job's submission to its start; None where Slurm cannot say now."""
        try:
            told = ask("squeue", "--noheader", f"--jobs={self.job}", "--format=%V %S")
            submitted, started = map(datetime.fromisoformat, told.split())
        except ValueError:
            return None
        return (started - submitted).total_seconds()

    def left_s(self) -> float | None:
        """Seconds until the job's time is over; None where it has no end, or Slurm cannot say now."""
        try:
            return seconds(ask("squeue", "--noheader", f"--jobs={self.job}", "--Format=TimeLeft"))
        except ValueError:
            return None


def allocation() -> Allocation:
    """This process's allocation. ValueError, one sentence, outside of one, or for a host without an address."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        raise ValueError("launcher=srun: must run inside a Slurm allocation; start it by salloc or sbatch")
    nodelist = os.environ["SLURM_JOB_NODELIST"]
    names = ask("scontrol", "show", "hostnames", nodelist).split()
    known = dict(ADDRESS.findall(ask("scontrol", "show", "node", "--oneliner", nodelist)))
    for name in names:
        if known.get(name, "(null)") == "(null)":
            raise ValueError(f"{name}: Slurm knows no NodeAddr of it; set one in slurm.conf, where others can reach it")
    return Allocation(job, tuple(Host(name, known[name]) for name in names))


def ask(command: str, *words: str) -> str:
    """What a Slurm command prints. ValueError, one sentence, where there is no Slurm or it refuses."""
    if shutil.which(command) is None:
        raise ValueError(f"{command}: not in PATH; this must run where Slurm's commands are")
    done = subprocess.run([command, *words], capture_output=True, text=True)
    if done.returncode:
        lines = [PREFIX.sub("", line) for line in done.stderr.splitlines() if line.strip()]
        raise ValueError(f"{command}: {'; '.join(lines) or f'exit code {done.returncode}'}")
    return done.stdout.strip()


def seconds(left: str) -> float | None:
    """Seconds of a duration as Slurm writes it, [days-]hours:minutes:seconds; None for one without an end."""
    found = DURATION.fullmatch(left.strip())
    if found is None:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + rest)


def runs(job: str) -> bool:
    """Whether Slurm counts a job as running, not as one that it is ending. ValueError where it cannot be asked."""
    return ask("squeue", "--noheader", f"--jobs={job}", "--format=%T") == "RUNNING"


def requeue(job: str) -> None:
    """Have Slurm end a job, and start it anew when there are hosts. ValueError, one sentence, where it refuses."""
    ask("scontrol", "requeue", job)


def job_of(name: str, comment: str) -> str | None:
    """This person's job of that name and comment that waits or runs, if there is one."""
    told = ask("squeue", "--noheader", "--me", f"--name={name}", "--states=all", "--format=%i %T %k")
    for line in told.splitlines():
        job, state, said = line.split(" ", 2)
        if state in LIVE and said == comment:
            return job
    return None


def waiting(jobs: list[str]) -> set[str]:
    """Which of these jobs wait or run. ValueError, one sentence, where Slurm cannot be asked."""
    if not jobs:
        return set()
    try:
        told = ask("squeue", "--noheader", "--states=all", "--format=%i %T", f"--jobs={','.join(jobs)}")
    except ValueError as error:
        # squeue leaves out a job that Slurm has forgotten, but refuses where it is the only one.
        if len(jobs) > 1 or "Invalid job id specified" not in str(error):
            raise
        return set()
    states = dict(line.split() for line in told.splitlines())
    return {job for job, state in states.items() if state in LIVE}
