"""From the words of a command line to a finished study."""

from collections.abc import Callable
from contextlib import suppress

from harness.study.collect import collect
from harness.study.interruption import Interruption
from harness.study.order import ordered
from harness.study.planning import Planned, plan_all
from harness.study.point import spread
from harness.study.preview import counted, dry_run, preview
from harness.study.progress import Progress
from harness.study.provenance import provenance
from harness.study.rundir import check_study, open_study, plant
from harness.study.turn import Session, take
from launch.devices import Machine, machine

FINE = ("ok", "skipped", "oom", "invalid")


def run(arguments: list[str], multirun: bool) -> int:
    """Run the points that the arguments ask for; the exit code. ValueError for a person's mistake, nothing started."""
    here = machine()
    points = spread(collect(arguments, multirun, lambda: len(here.gpus)))
    config, study_dir = points[0].config, points[0].study_dir
    check_study(study_dir, config.study)
    order = plan_all(ordered(points, config.seed), here)
    if not multirun and (impossible := order[0].impossible):
        raise ValueError(impossible)
    progress = Progress()
    if config.launcher.kind == "dry":
        for line in (*preview(order, here), *dry_run(order, here)):
            progress.say(line)
        return 0
    open_study(study_dir, config.study)
    for line in preview(order, here):
        progress.say(line)
    return run_all(order, multirun, here, progress)


def run_all(order: list[Planned], multirun: bool, here: Machine, progress: Progress) -> int:
    """Every point's turn, one after the other."""
    with Interruption() as interruption:
        for planned in order:
            with suppress(OSError):  # its turn will meet the same error, and say so
                plant(planned.point)
        session = Session(here, provenance(here), interruption, progress, progress.say)
        statuses = []
        for position, planned in enumerate(order):
            if interruption.signal is None:
                title = f"[{position + 1}/{len(order)}] {planned.point.slug}"
                statuses.append(take_safely(planned, position, title, session))
    say_result(statuses, len(order), progress.say)
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
