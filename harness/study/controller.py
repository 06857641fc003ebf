"""From the words of a command line to a finished study."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from harness.study.collect import collect
from harness.study.interruption import Interruption
from harness.study.order import ordered
from harness.study.planning import Planned, plan_all
from harness.study.point import spread
from harness.study.preflight import Links, look
from harness.study.preview import counted, dry_run, preview
from harness.study.progress import Progress
from harness.study.provenance import provenance
from harness.study.remaining import Remaining
from harness.study.report_run import send_report
from harness.study.requeue import requeue
from harness.study.rundir import check_study, open_study, plant
from harness.study.running import Session
from harness.study.submission import check_all, submit_all
from harness.study.turn import take
from launch.container import container
from launch.devices import Machine, machine
from launch.launchers import Launcher, Srun, launcher

FINE = ("ok", "skipped", "oom", "invalid")


def run(arguments: list[str], multirun: bool) -> int:
    """Run the points that the arguments ask for; the exit code. ValueError for a person's mistake, nothing started."""
    here = machine()
    points = spread(collect(arguments, multirun, lambda: len(here.gpus)))
    config, study_dir = points[0].config, points[0].study_dir
    check_study(study_dir, config.study)
    most = max(point.config.nodes for point in points)
    elsewhere = config.launcher.dry or config.launcher.kind == "sbatch"
    inside = container(config.launcher.container_image, config.launcher.container_mounts, study_dir)
    started_by = launcher(config.launcher.kind, most if elsewhere else None, inside)
    hosts: list[dict[str, Any]] = []
    if isinstance(started_by, Srun) and not elsewhere:
        here, hosts = look(points, started_by, study_dir)
    order = plan_all(ordered(points, config.seed), here, len(started_by.hosts))
    if not multirun and (impossible := order[0].impossible):
        raise ValueError(impossible)
    progress = Progress()
    if config.launcher.dry:
        for line in (*preview(order, here), *dry_run(order, here, started_by)):
            progress.say(line)
        return 0
    if config.launcher.kind == "sbatch":
        check_all(order)
    open_study(study_dir, config.study)
    for line in preview(order, here):
        progress.say(line)
    if config.launcher.kind == "sbatch":
        with Interruption() as interruption:
            statuses = submit_all(order, progress.say, interruption)
        say_result(statuses, len(order), progress.say)
        return interruption.exit_code or (1 if "pending" in statuses else 0)
    return run_all(order, multirun, here, started_by, hosts, progress)


def run_all(
    order: list[Planned],
    multirun: bool,
    here: Machine,
    started_by: Launcher,
    hosts: list[dict[str, Any]],
    progress: Progress,
    own_job: bool = False,
    reported: bool = True,
) -> int:
    """Every point's turn, one after the other.

    hosts: those that the preflight has looked at. own_job: whether this runs the one point of a job of its own.
    reported: whether W&B gets the study's report when it is over.
    """
    with Interruption() as interruption:
        for planned in order:
            with suppress(OSError):  # its turn will meet the same error, and say so
                plant(planned.point)
        session = Session(
            machine=here,
            launcher=started_by,
            links=Links(hosts),
            remaining=Remaining(started_by),
            provenance=provenance(here),
            interruption=interruption,
            progress=progress,
            say=progress.say,
            own_job=own_job,
        )
        statuses = []
        for position, planned in enumerate(order):
            if interruption.signal is None:
                title = f"[{position + 1}/{len(order)}] {planned.point.slug}"
                statuses.append(take_safely(planned, position, title, session))
        say_result(statuses, len(order), progress.say)
        if reported:
            send_report(order, statuses, interruption, progress.say)
        requeue(order, statuses, interruption, own_job, progress.say)
    if interruption.exit_code is not None:
        return interruption.exit_code
    fine = FINE if multirun else ("ok", "skipped")
    return 0 if all(status in fine for status in statuses) else 1


def take_safely(planned: Planned, position: int, title: str, session: Session) -> str:
    """The status that a point's turn comes to; a disk or a damaged file that fails it fails no other point."""
    try:
        return take(planned, position, title, session).status
    except (OSError, ValueError) as error:
        session.say(f"{title}: failed, {error}")
        return "failed"


def say_result(statuses: list[str], planned: int, say: Callable[[str], None]) -> None:
    """One last line: how many of the points came to which end."""
    counts = [f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses)]
    if left := planned - len(statuses):
        counts.append(f"{left} not started")
    say(f"{counted(planned, 'point')}: {', '.join(counts)}")
