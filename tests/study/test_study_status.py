"""How a study of Slurm's jobs stands, told once and followed.

Slurm itself is not here: a `squeue` that stands first in PATH answers as its file `answer` says and notes what it was
asked. Run directories and the command are real.
"""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from run_dirs import make_study, validator
from study_command import Command, wait_for

from harness.study import lease, overview
from harness.study.rundir import read_status, write_status

SQUEUE = """\
#!/bin/sh
printf '%s\\n' "$*" >> "${0%/*}/asked"
. "${0%/*}/answer"
"""
FORGOTTEN = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
SILENT = "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1"

LOOK_S = 0.5
OFTEN = [
    sys.executable,
    "-c",
    "import sys, harness.study.overview as o; from harness.cli import main; "
    f"assert o.LOOK_S > {LOOK_S}; o.LOOK_S = {LOOK_S}; sys.exit(main())",
    "watch",
    "s",
]
"""`harness watch s`, which looks more often than for a person."""


class Slurm:
    """The `squeue` that stands in for Slurm's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "squeue").write_text(SQUEUE)
        (folder / "squeue").chmod(0o755)

    def answers(self, script: str) -> None:
        """Answer from now on by running this."""
        (self.folder / "draft").write_text(f"{script}\n")
        os.replace(self.folder / "draft", self.folder / "answer")

    def knows(self, **states: str) -> None:
        """Answer with these jobs: job17="PENDING"."""
        self.answers("\n".join(f"echo {job.removeprefix('job')} {state}" for job, state in states.items()) or ":")

    def asked(self) -> list[str]:
        path = self.folder / "asked"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return make_study(tmp_path / "studies", "s")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    slurm = Slurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{slurm.folder}:{os.environ['PATH']}")
    return slurm


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path, {})


def add(study: Path, slug: str, status: str, job: str | None = None, **values: str) -> Path:
    """A point that stands as its controller or its submission has left it."""
    run_dir = study / "points" / slug
    run_dir.mkdir()
    write_status(run_dir, status, job=job, **values)
    return run_dir


def line(shown: str, slug: str) -> str:
    """What is said of a point, without the space between."""
    [found] = [line.split() for line in shown.splitlines() if line.startswith(f"  {slug} ")]
    return " ".join(found[1:])


def documented(command: Command) -> dict[str, dict]:
    """The points of the document, which the schema allows."""
    document = json.loads(command("status", "s", "--json").stdout)
    validator().validate(document)
    assert document["warnings"] == []
    return {point["slug"]: point for point in document["points"]}


def test_a_point_has_its_job_and_the_host_of_its_failure(command: Command, study: Path, slurm: Slurm) -> None:
    slurm.knows(job17="PENDING")
    add(study, "a", "queued", job="17")
    add(study, "b", "failed", job="16", reason="rank 3: ended with SIGKILL", host="node1")
    add(study, "c", "ok")
    points = documented(command)
    assert [(point["job"], point["host"], point["lost"]) for point in points.values()] == [
        ("17", None, False),
        ("16", "node1", False),
        (None, None, False),
    ]
    shown = command("status", "s").stdout
    assert [line(shown, slug) for slug in points] == [
        "queued (job 17)",
        "failed (job 16): rank 3: ended with SIGKILL",
        "ok",
    ]


def test_a_running_point_has_its_job_beside_who_holds_it(command: Command, study: Path) -> None:
    held = lease.acquire(add(study, "a", "running", job="17"))
    assert held is not None
    with held:
        assert line(command("status", "s").stdout, "a").startswith(f"running (job 17, process {os.getpid()} on ")
    assert line(command("status", "s").stdout, "a") == "running (job 17, its controller has disappeared)"


def test_a_queued_point_whose_job_has_ended_is_lost_and_names_its_log(
    command: Command, study: Path, slurm: Slurm
) -> None:
    slurm.knows(job17="PENDING", job18="CANCELLED", job20="RUNNING")
    paths = [add(study, f"p{job}", "queued", job=str(job)) for job in (17, 18, 19, 20)]
    (paths[1] / "job-18.log").write_text("harness: no such host\n")
    assert [slug for slug, point in documented(command).items() if point["lost"]] == ["p18", "p19"]
    shown = command("status", "s").stdout
    assert shown.startswith("study s: 4 queued\n")
    assert line(shown, "p17") == "queued (job 17)"
    assert line(shown, "p18") == f"queued (job 18 has ended without starting it, see {paths[1]}/job-18.log)"


def test_slurm_is_asked_once_for_all_queued_jobs(command: Command, study: Path, slurm: Slurm) -> None:
    slurm.knows(job17="PENDING", job18="PENDING")
    for slug, status, job in (("a", "queued", "17"), ("b", "queued", "18"), ("c", "ok", "16")):
        add(study, slug, status, job)
    command("status", "s")
    [words] = slurm.asked()
    assert words.endswith("--jobs=17,18")


def test_slurm_is_not_asked_without_queued_points(command: Command, study: Path, slurm: Slurm) -> None:
    slurm.answers(SILENT)
    for slug, status in (("a", "ok"), ("b", "running"), ("c", "pending")):
        add(study, slug, status, job="17")
    assert "Slurm" not in command("status", "s").stdout
    assert slurm.asked() == []


def test_the_only_queued_job_is_lost_where_slurm_has_forgotten_it(command: Command, study: Path, slurm: Slurm) -> None:
    """The stand-in fails as squeue does for a single job that it does not know."""
    slurm.answers(FORGOTTEN)
    add(study, "a", "queued", job="17")
    assert documented(command)["a"]["lost"]


def test_where_slurm_fails_a_queued_point_stays_queued_and_a_line_says_why(
    command: Command, study: Path, slurm: Slurm
) -> None:
    slurm.answers(SILENT)
    add(study, "a", "queued", job="17")
    ended = command("status", "s")
    assert ended.returncode == 0
    assert line(ended.stdout, "a") == "queued (job 17)"
    last = ended.stdout.splitlines()[-1]
    assert last.startswith("Slurm could not be asked whether queued points still wait: squeue: ")
    assert last.endswith("Unable to contact slurm controller (connect failure)")


def test_several_jobs_are_not_lost_where_one_is_refused(command: Command, study: Path, slurm: Slurm) -> None:
    slurm.answers(FORGOTTEN)
    for job in ("17", "18"):
        add(study, f"p{job}", "queued", job)
    assert command("status", "s").stdout.splitlines()[-1].startswith("Slurm could not be asked")


def test_where_slurms_commands_are_not_there_a_queued_point_stays_queued(command: Command, study: Path) -> None:
    command.environment["PATH"] = str(study)
    add(study, "a", "queued", job="17")
    document = json.loads(command("status", "s", "--json").stdout)
    validator().validate(document)
    assert not document["points"][0]["lost"]
    [warning] = document["warnings"]
    assert warning.startswith("Slurm could not be asked whether queued points still wait: squeue: not in PATH")


def test_a_point_that_ends_while_slurm_is_asked_is_not_lost(command: Command, study: Path, slurm: Slurm) -> None:
    """The stand-in ends the point before it answers that the job is over."""
    run_dir = add(study, "a", "queued", job="17")
    write_status(slurm.folder, "ok", job="17")
    slurm.answers(f"cp '{slurm.folder}/status.json' '{run_dir}'")
    point = documented(command)["a"]
    assert (point["status"], point["lost"]) == ("ok", False)


def test_a_point_that_ends_while_it_is_looked_at_is_not_lost(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = add(study, "a", "running", job="17")
    monkeypatch.setattr(overview, "holder", lambda _: write_status(run_dir, "ok", job="17"))
    [point] = overview.overview(study)["points"]
    assert (point["status"], point["lost"]) == ("ok", False)


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def read_on(process: subprocess.Popen[str], passing: str) -> str:
    """The next line but for one of the moment between a point's lease and the status that goes with it."""
    line = read_line(process)
    return read_line(process) if line.startswith(passing) else line


def watching_often(command: Command) -> subprocess.Popen[str]:
    return subprocess.Popen(
        OFTEN,
        cwd=command.folder,
        env=command.variables(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_watching_appends_what_changed_and_ends_with_the_last_point(
    command: Command, study: Path, slurm: Slurm
) -> None:
    slurm.knows(job17="PENDING", job18="PENDING")
    one, _ = (add(study, f"p{job}", "queued", job=str(job)) for job in (17, 18))
    watching = watching_often(command)
    assert [read_line(watching) for _ in range(3)] == [
        "study s: 2 queued",
        "  p17  queued (job 17)",
        "  p18  queued (job 18)",
    ]
    looks = len(slurm.asked())
    wait_for(lambda: len(slurm.asked()) >= looks + 2)  # nothing new is to be seen meanwhile
    held = lease.acquire(one)
    assert held is not None
    with held:
        write_status(one, "running", job="17")
        slurm.knows(job17="RUNNING", job18="PENDING")
        assert read_on(watching, "  p17  queued (job 17, process ") == "study s: 1 running, 1 queued"
        assert read_line(watching).startswith(f"  p17  running (job 17, process {os.getpid()} on ")
        write_status(one, "ok", job="17")
    assert [read_line(watching) for _ in range(2)] == ["study s: 1 ok, 1 queued", "  p17  ok (job 17)"]
    assert watching.poll() is None
    slurm.knows(job17="COMPLETED", job18="CANCELLED")
    out, err = watching.communicate(timeout=20)
    assert out == "  p18  queued (job 18 has ended without starting it)\n"
    assert (watching.returncode, err) == (0, "")


def test_watching_goes_on_for_a_pending_point_and_for_one_that_is_held(command: Command, study: Path) -> None:
    run_dir = add(study, "a", "pending")
    watching = watching_often(command)
    assert [read_line(watching) for _ in range(2)] == ["study s: 1 pending", "  a  pending"]
    time.sleep(1.5 * LOOK_S)  # between two looks, so that none sees it held and not yet running
    assert watching.poll() is None
    held = lease.acquire(run_dir)
    assert held is not None
    write_status(run_dir, "running")
    assert read_on(watching, "  a  pending (process ") == "study s: 1 running"
    assert read_line(watching).startswith(f"  a  running (process {os.getpid()} on ")
    time.sleep(2 * LOOK_S)
    assert watching.poll() is None
    held.release()
    out, _ = watching.communicate(timeout=20)
    assert (watching.returncode, out) == (0, "  a  running (its controller has disappeared)\n")


def test_watching_goes_on_where_slurm_cannot_be_asked(command: Command, study: Path, slurm: Slurm) -> None:
    slurm.answers(SILENT)
    add(study, "a", "queued", job="17")
    watching = watching_often(command)
    wait_for(lambda: len(slurm.asked()) >= 2)
    assert watching.poll() is None
    slurm.answers(FORGOTTEN)
    out, _ = watching.communicate(timeout=20)
    assert (watching.returncode, out.count("Slurm could not be asked")) == (0, 1)


def test_ctrl_c_ends_watching_without_a_traceback(command: Command, study: Path, slurm: Slurm) -> None:
    slurm.knows(job17="PENDING")
    add(study, "a", "queued", job="17")
    watching = watching_often(command)
    wait_for(lambda: len(slurm.asked()) >= 2)
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=20)
    assert (watching.returncode, out, err) == (130, "study s: 1 queued\n  a  queued (job 17)\n", "")


@contextmanager
def watched(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Somebody watches on a real pseudo-terminal: the process, and where to read what it shows."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    with subprocess.Popen(OFTEN, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as it:
        os.close(theirs)
        yield it, ours
    os.close(ours)


def drawn(terminal: int) -> str:
    """All that the terminal has been shown, once its program has ended."""
    seen = b""
    with suppress(OSError):  # which is how a pseudo-terminal says that nobody is left
        while chunk := os.read(terminal, 65536):
            seen += chunk
    return seen.decode()


def test_a_terminal_is_drawn_anew_in_place(tmp_path: Path, study: Path, slurm: Slurm) -> None:
    slurm.knows(job17="PENDING")
    run_dir = add(study, "a[bold]", "queued", job="17")
    with watched(tmp_path) as (process, shown):
        wait_for(lambda: len(slurm.asked()) >= 3)
        write_status(run_dir, "ok", job="17")
        before, after = drawn(shown).split("study s: 1 ok", 1)
    assert before.count("  a[bold]  queued (job 17)") == 1, "drawn only when it changes"
    assert re.search(r"\x1b\[1A(\x1b\[2K)?$", before), "the cursor goes back up before it is drawn anew"
    assert "  a[bold]  ok (job 17)" in after
    assert process.returncode == 0


def test_ctrl_c_on_a_terminal_gives_the_cursor_back(tmp_path: Path, study: Path, slurm: Slurm) -> None:
    slurm.knows(job17="PENDING")
    add(study, "a", "queued", job="17")
    with watched(tmp_path) as (process, shown):
        wait_for(lambda: len(slurm.asked()) >= 2)
        process.send_signal(signal.SIGINT)
        seen = drawn(shown)
    assert process.returncode == 130
    assert "Traceback" not in seen
    assert seen.endswith("\x1b[?25h")


def test_watching_says_why_it_ends_before_pending_points_ran(command: Command, study: Path) -> None:
    add(study, "a", "ok")
    for slug in ("b", "c"):
        run_dir = add(study, slug, "pending")
        (run_dir / "status.json").write_text(json.dumps(read_status(run_dir) | {"time": 1.0}))
    (study / "points/a/status.json").write_text(json.dumps(read_status(study / "points/a") | {"time": 1.0}))
    out, _ = command.start("watch", "s").communicate(timeout=20)
    assert out.splitlines()[-1] == (
        "2 pending: nobody runs this study any more; the command that began it goes on with what is left"
    )


def test_a_point_that_has_just_ended_names_no_process(command: Command, study: Path) -> None:
    held = lease.acquire(add(study, "a", "ok"))
    assert held is not None
    with held:
        assert line(command("status", "s").stdout, "a") == "ok"
