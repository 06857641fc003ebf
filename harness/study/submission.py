"""A study of jobs: each point submitted on its own, to be run when Slurm has hosts for it."""

from collections.abc import Callable
from contextlib import suppress

from harness.files import write_text
from harness.heartbeat import holder
from harness.study import lease
from harness.study.attempts import goes_on
from harness.study.batch import job_of
from harness.study.interruption import Interruption
from harness.study.planning import Planned
from harness.study.rundir import plant, read_status, write_config, write_status
from harness.study.turn import PATIENCE_S, SKIPPED, by, set_aside
from launch import allocation, sbatch

Say = Callable[[str], None]


def check_all(order: list[Planned]) -> None:
    """Raise ValueError, one sentence, for the first point whose job Slurm would refuse."""
    for planned in order:
        if planned.plan is not None:
            sbatch.check(job_of(planned.point).options)


def submit_all(order: list[Planned], say: Say, interruption: Interruption) -> list[str]:
    """Submit every point that has to run; the statuses that they come to.

    One that Slurm refuses now, as beyond a person's most jobs, stays pending, and what is queued stays queued.
    """
    statuses, before = [], None
    for planned in order:
        with suppress(OSError):  # its submission will meet the same error, and say so
            plant(planned.point)
    for position, planned in enumerate(order, 1):
        if interruption.signal is not None:
            break
        title = f"[{position}/{len(order)}] {planned.point.slug}"
        try:
            status, job = submit(planned, title, say, before, interruption)
        except (OSError, ValueError) as error:
            say(f"{title}: not submitted, {error}")
            status, job = "pending", None
        if planned.point.config.launcher.chain:
            before = job or before
        statuses.append(status)
    return statuses


def submit(
    planned: Planned, title: str, say: Say, after: str | None, interruption: Interruption
) -> tuple[str, str | None]:
    """One point's submission: what it comes to, and its job if that waits or runs."""
    point, run_dir = planned.point, planned.point.run_dir
    plant(point)
    held = lease.acquire(run_dir)
    if held is None and (job := (holder(run_dir) or {}).get("job")) and not allocation.waiting([job]):
        say(f"{title}: job {job} has ended without letting it go; waiting until that is over")
        held = lease.acquire_within(run_dir, PATIENCE_S, interruption.ended)
    if held is None:
        say(f"{title}: skipped, {by(holder(run_dir))}")
        return SKIPPED.status, None
    with held:
        status = read_status(run_dir)
        # what code and hosts there will be, nobody knows before the job starts
        if status and status["status"] in ("ok", "oom") and not point.config.rerun:
            say(f"{title}: skipped, {status['status']} already (rerun=true runs it again)")
            return SKIPPED.status, None
        # also one that a submission which was cut off has not noted, or that runs again after a host's failure
        if job := allocation.job_of(point.slug, str(run_dir)):
            if status is None or status["status"] == "pending":
                write_status(run_dir, "queued", job=job)
            say(f"{title}: skipped, job {job} is there already")
            return SKIPPED.status, job
        if not (run_dir / "attempts").exists() or goes_on(point.config, status):
            return send(planned, title, say, after)
        was = status["status"] if status else "without a status"
        say(f"{title}: was {was}, kept as {set_aside(run_dir, status, held).name}")
    # the lease went with the old directory
    return submit(planned, title, say, after, interruption)


def send(planned: Planned, title: str, say: Say, after: str | None) -> tuple[str, str | None]:
    """Submit a held point, which its job takes over when it is let go."""
    point, run_dir = planned.point, planned.point.run_dir
    if planned.plan is None:
        write_status(run_dir, "invalid", planned.impossible)
        say(f"{title}: invalid, {planned.impossible}")
        return "invalid", None
    write_config(point)
    made = job_of(point)
    write_text(made.path, made.script)
    job = sbatch.submit(made.command(after))
    write_status(run_dir, "queued", job=job)
    say(f"{title}: queued as job {job}")
    return "queued", job
