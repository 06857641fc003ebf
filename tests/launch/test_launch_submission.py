"""A study of jobs from the command line to the ranks' step, with stand-ins for Slurm's commands."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from study_command import QUICK, Command

from harness.study import lease
from launch.environment import SOURCE

SBATCH = """\
#!/bin/bash
case "$*" in *--test-only*) exit 0 ;; esac
if [ -s "$CALLS" ] && [ "$(wc -l < "$CALLS")" -ge "${MOST_JOBS:-99}" ]; then
    echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2
    exit 1
fi
[ -z "$INTERRUPTED" ] || kill -INT "$PPID"
printf '%s\\n' "$*" >> "$CALLS"
wc -l < "$CALLS"
"""
SQUEUE = """\
#!/bin/bash
case "$*" in
    *--Format=TimeLeft*) echo 1:00:00 ;;
esac
"""
SCONTROL = """\
#!/bin/bash
case "$*" in
    *hostnames*) hostname ;;
    *) echo "NodeName=$(hostname) NodeAddr=127.0.0.1" ;;
esac
"""
SRUN = """\
#!/bin/bash
while [[ $1 == --* ]]; do shift; done
case "$*" in
    *launch.probe*|*launch.sweep*) SLURM_NODEID=0 exec "$@" ;;
esac
exit 3
"""


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """`harness` where Slurm's commands are stand-ins; sbatch notes its words and starts nothing."""
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    for name, text in {"sbatch": SBATCH, "squeue": SQUEUE, "scontrol": SCONTROL, "srun": SRUN}.items():
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    given = {"PATH": f"{stubs}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls"), "CUDA_VISIBLE_DEVICES": ""}
    return Command(tmp_path, {"PYTHONPATH": str(SOURCE), **given})


def statuses(command: Command) -> list[str]:
    found = command.folder.glob("studies/default/points/*/status.json")
    return sorted(json.loads(path.read_text())["status"] for path in found)


def calls(command: Command) -> list[str]:
    path = Path(command.environment["CALLS"])
    return path.read_text().splitlines() if path.exists() else []


def submitted(call: str) -> Path:
    """The run directory of the point that a call of sbatch submits."""
    return Path(call.split()[-1]).parent


def after(call: str) -> str | None:
    """The job that a call of sbatch lets its job wait for."""
    return next((word.rpartition(":")[2] for word in call.split() if word.startswith("--dependency=afterany:")), None)


def test_a_chain_goes_on_over_points_that_need_no_job(command: Command) -> None:
    words = ("run", "-m", "launcher=sbatch", "launcher.chain=true", "seed=0,1,2", *QUICK)
    ended = command(*words)
    assert ended.returncode == 0, ended.stderr
    first = calls(command)
    assert [after(call) for call in first] == [None, "1", "2"]
    done = submitted(first[1]) / "status.json"
    done.write_text(json.dumps({**json.loads(done.read_text()), "status": "ok"}))
    ended = command(*words)
    assert ended.returncode == 0, ended.stderr
    again = calls(command)[3:]
    assert [submitted(call) for call in again] == [submitted(first[0]), submitted(first[2])]
    assert [after(call) for call in again] == [None, "4"]


def test_what_slurm_refuses_in_the_middle_stays_pending_and_what_is_queued_stays_queued(command: Command) -> None:
    command.environment["MOST_JOBS"] = "2"
    ended = command("run", "-m", "launcher=sbatch", "seed=0,1,2", *QUICK)
    assert ended.returncode == 1
    assert "not submitted, sbatch: QOSMaxSubmitJobPerUserLimit" in ended.stdout
    assert ended.stdout.endswith("3 points: 2 queued, 1 pending\n")
    assert statuses(command) == ["pending", "queued", "queued"]
    command.environment["MOST_JOBS"] = "9"
    assert command("run", "-m", "launcher=sbatch", "seed=0,1,2", *QUICK).returncode == 0
    assert statuses(command) == ["queued"] * 3


def test_ctrl_c_ends_a_submission_after_the_job_that_is_being_submitted(command: Command) -> None:
    command.environment["INTERRUPTED"] = "1"
    ended = command("run", "-m", "launcher=sbatch", "seed=0,1,2", *QUICK)
    assert ended.returncode == 130
    assert ended.stdout.endswith("3 points: 1 queued, 2 not started\n")
    assert len(calls(command)) == 1
    assert statuses(command) == ["pending", "pending", "queued"]


def test_a_point_whose_job_has_died_is_waited_for(command: Command) -> None:
    """The job held it from another host, and nobody there can let it go."""
    assert command("run", "launcher=sbatch", *QUICK).returncode == 0
    run_dir = submitted(calls(command)[0])
    held = {**lease.ourselves(), "host": "node3", "boot": "another", "job": "65"}
    (run_dir / "lease.json").write_text(json.dumps(held))
    again = command.start("run", "launcher=sbatch", *QUICK)
    assert again.stdout is not None
    while "job 65 has ended without letting it go" not in again.stdout.readline():
        assert again.poll() is None
    os.utime(run_dir / "lease.json", (0, 0))
    out, _ = again.communicate(timeout=20)
    assert (again.returncode, len(calls(command))) == (0, 2)
    assert "queued as job 2" in out


def test_a_point_that_ran_out_of_memory_is_not_submitted_again_unless_asked(command: Command) -> None:
    assert command("run", "launcher=sbatch", *QUICK).returncode == 0
    told = submitted(calls(command)[0]) / "status.json"
    told.write_text(json.dumps({**json.loads(told.read_text()), "status": "oom"}))
    assert "skipped, oom already (rerun=true runs it again)" in command("run", "launcher=sbatch", *QUICK).stdout
    assert len(calls(command)) == 1
    assert command("run", "launcher=sbatch", "rerun=true", *QUICK).returncode == 0
    assert len(calls(command)) == 2


def test_an_option_that_no_job_can_have_is_one_sentence_and_no_job(command: Command) -> None:
    ended = command("run", "-m", "launcher=sbatch", "seed=0,1", 'launcher.account="two\nlines"', *QUICK)
    assert (ended.returncode, calls(command)) == (2, [])
    assert ended.stderr.startswith("harness: launcher.account='two\\nlines': must be without line breaks")
    assert ended.stderr.count("\n") == 1


def ran(command: Command, *words: str) -> dict[str, Any]:
    """Submit a point, run its job's script, and what the job has started."""
    ended = command("run", "launcher=sbatch", "preflight=false", *QUICK, *words)
    assert ended.returncode == 0, ended.stderr
    run_dir = submitted(calls(command)[0])
    job = {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "here"}
    subprocess.run(
        ["bash", str(run_dir / "job.sh")],
        env={**os.environ, **command.environment, **job},
        cwd="/",
        capture_output=True,
        timeout=100,
    )
    return json.loads((run_dir / "attempts" / "0" / "launch.json").read_text())


def test_a_jobs_ranks_run_in_its_container(command: Command) -> None:
    words = ran(command, "launcher.container_image=/images/x.sqsh", "launcher.container_mounts=/data:/data")["command"]
    study = command.folder / "studies" / "default"
    [mounts] = [word for word in words if word.startswith("--container-mounts=")]
    assert "--container-image=/images/x.sqsh" in words
    assert mounts.endswith(f"{study}:{study},{command.folder}:{command.folder},/data:/data")
    assert "python3" in words


def test_a_jobs_ranks_run_on_its_hosts_without_one(command: Command) -> None:
    assert not any("container" in word.partition("=")[0] for word in ran(command)["command"])
