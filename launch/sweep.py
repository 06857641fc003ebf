"""What is left of points on hosts of an allocation, and its end. Started by srun, one task a host."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from launch.allocation import Host
from launch.environment import own
from launch.local import end_marked, markers, told
from launch.srun import for_some, step

SWEEP_S = 20.0
# of a job that Slurm itself ends, with all its processes
ENDING = re.compile(rb"Job/step already completing|Invalid job id|Job has expired")
# of a host that was cut off
WHOLE = re.compile(rb"\{.*\}$")


@dataclass(frozen=True)
class Answer:
    """What a host says when it is swept, if it does: the markers of its processes, and those that did not end."""

    host: str
    came: bool
    markers: Sequence[str] = ()
    left: Sequence[str] = ()


def sweep(hosts: Sequence[Host], chosen: Sequence[str] = ()) -> list[Answer]:
    """Kill what carries one of the chosen markers on these hosts; what each answers.

    Never in a container, whose processes these are too, and beside whatever else runs there.
    """
    program = [sys.executable, "-m", "launch.sweep", *chosen]
    try:
        done = subprocess.run(
            step(hosts, program, ["--overlap"]),
            env=for_some(own()),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SWEEP_S,
        )
        if ENDING.search(done.stderr):
            return [Answer(host.name, True) for host in hosts]
        said = done.stdout
    except subprocess.TimeoutExpired as late:
        said = late.stdout or b""
    answers = {(answer := json.loads(line))["number"]: answer for line in said.splitlines() if WHOLE.match(line)}
    return [
        Answer(host.name, True, answer["markers"], [f"{process} on {host.name}" for process in told(answer["left"])])
        if (answer := answers.get(number))
        else Answer(host.name, False)
        for number, host in enumerate(hosts)
    ]


if __name__ == "__main__":
    unended = [pid for marker in sys.argv[1:] for pid in end_marked(marker)]
    answer = {"number": int(os.environ["SLURM_NODEID"]), "left": unended, "markers": sorted(markers())}
    sys.stdout.write(json.dumps(answer) + "\n")
