"""A job that Slurm has told to end before its points had: the controller asks for the job's next start itself."""

from collections.abc import Callable, Sequence

from harness.study import lease
from harness.study.attempts import FRUITLESS, fruitless
from harness.study.interruption import Interruption
from harness.study.planning import Planned
from harness.study.rundir import read_status, write_status
from launch import allocation
from launch.environment import job_id


def requeue(
    order: Sequence[Planned],
    statuses: Sequence[str],
    interruption: Interruption,
    own_job: bool,
    say: Callable[[str], None],
) -> None:
    """Have Slurm start this job anew, if that was asked for and would get its points further."""
    job, asked = job_id(), order[0].point.config.launcher.requeue
    stopped = [planned for planned, status in zip(order, statuses, strict=False) if status == "preempted"]
    undone = stopped or len(statuses) < len(order)
    if job is None or not asked or not undone or (interruption.ended() and not interruption.graceful):
        return
    if reason := next(filter(None, map(hopeless, stopped)), None):
        say(f"job {job} is not requeued: {reason}")
        return
    try:
        # one that was cancelled is to end, and one that Slurm itself preempts is requeued by it
        if allocation.runs(job):
            allocation.requeue(job)
            say(f"job {job} is requeued")
            if own_job:
                wait_in_queue(order[0], job)
    except ValueError as error:
        say(f"job {job} is not requeued: {error}")


def hopeless(planned: Planned) -> str | None:
    """Why another start of the job would get a point no further, or None where it would."""
    point = planned.point
    if point.config.checkpoint.kind == "none":
        return f"{point.slug} writes no checkpoints and would begin anew"
    if (vain := fruitless(point.run_dir)) >= FRUITLESS:
        return f"{point.slug} got no step further in its last {vain} attempts"
    return None


def wait_in_queue(planned: Planned, job: str) -> None:
    """Say that the point waits for its job, with what has ended it before."""
    run_dir = planned.point.run_dir
    if (held := lease.acquire(run_dir)) is None:
        return
    with held:
        status = read_status(run_dir) or {}
        if status.get("status") == "preempted":
            write_status(run_dir, "queued", status["reason"], attempt=status["attempt"], job=job)
