"""A point as a job of Slurm: the script that runs it, and its submission."""

import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.allocation import ask
from launch.environment import SOURCE, import_path

JOB = "harness.study.job"
SITE = SOURCE / "slurm" / "site.sh"
CHOSEN = ("time", "partition", "account", "qos", "constraint", "gres", "segment", "switches")


def options(
    launcher: Mapping[str, Any], name: str, nodes: int, ranks_per_node: int, on_gpus: bool, run_dir: Path
) -> list[str]:
    """sbatch's words for a point's job, by the fields of harness.config.Launcher.

    on_gpus: whether to ask for a GPU for each rank; hosts may have none.
    """
    chosen = {key: one_line(f"launcher.{key}", str(launcher[key])) for key in CHOSEN if launcher[key]}
    if on_gpus and "gres" not in chosen:
        chosen["gpus-per-node"] = str(ranks_per_node)
    if lead := launcher["signal_lead_s"]:
        # to the batch shell alone, which has become the controller and ends its point in order
        chosen["signal"] = f"B:TERM@{lead}"
    # a % of the folder's own is no pattern of Slurm's
    output = f"{str(run_dir).replace('%', '%%')}/job-%j.log"
    words = {"job-name": name, "comment": run_dir, "nodes": nodes, "ntasks-per-node": 1, **chosen}
    # a job that runs again leaves what it has said
    words |= {"output": output, "open-mode": "append"}
    return [
        *(f"--{key}={value}" for key, value in words.items()),
        # whole hosts are not all of their memory; of a part, a core for each rank is the least
        *(["--exclusive", "--mem=0"] if launcher["exclusive"] else [f"--cpus-per-task={ranks_per_node}"]),
        "--requeue" if launcher["requeue"] else "--no-requeue",
        # a host that is lost ends the step that it is in, and the point is started again on others
        *(["--no-kill"] if launcher["max_restarts"] else []),
    ]


def script(run_dir: Path) -> str:
    """What the job runs: the point's controller, which reads all that was asked for in the run directory.

    ValueError, one sentence, for what no line of a script can hold.
    """
    site = quoted("source", str(SITE))
    lines = [
        "#!/bin/bash",
        f"# Runs the point {run_dir.name} on the hosts of its job.",
        "set -eo pipefail",
        f"if [ -f {site} ]; then",
        "    trap 'echo \"harness: slurm/site.sh ended with exit code $?\" >&2' EXIT",
        f"    . {site}",
        "    trap - EXIT",
        "fi",
        f"cd {quoted('folder', str(Path.cwd()))}",
        f"export PYTHONPATH={quoted('PYTHONPATH', import_path())}",
        f"exec {quoted('python', sys.executable)} -m {JOB} {quoted('root', str(run_dir))}",
    ]
    return "\n".join(lines) + "\n"


def quoted(field: str, value: str) -> str:
    """A value as one word of the script."""
    return shlex.quote(one_line(field, value))


def one_line(field: str, value: str) -> str:
    """The value itself. ValueError where it has a line break or a NUL."""
    if re.search(r"[\n\r\0]", value):
        raise ValueError(f"{field}={value!r}: must be without line breaks and NUL, as words of a job script are")
    return value


def command(path: Path, words: list[str], after: str | None) -> list[str]:
    """sbatch of a script. after: a job that has to end before, however it does."""
    waits = [f"--dependency=afterany:{after}"] if after else []
    return ["sbatch", "--parsable", *words, *waits, str(path)]


def check(words: list[str]) -> None:
    """Ask whether Slurm would take a job with these options. ValueError, one sentence, where it would not."""
    try:
        ask("sbatch", "--test-only", *words, "--wrap=true")
    except ValueError as error:
        if shutil.which("sbatch") is None:
            raise
        asked = [
            word for word in words if not word.startswith(("--job-name", "--comment", "--ntasks", "--output", "--no-"))
        ]
        raise ValueError(f"{error}; asked for {shlex.join(asked)}, and sinfo tells what there is") from None


def submit(words: list[str]) -> str:
    """Submit a script; the job's number. ValueError, one sentence, where Slurm refuses."""
    return ask(*words).partition(";")[0]
