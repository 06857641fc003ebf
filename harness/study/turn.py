"""One point's turn: hold it, see whether it has to run, run it, say how it ended."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.heartbeat import STALE_S, holder
from harness.records import OPEN
from harness.study import lease, mirror
from harness.study.attempts import attempt_dir, goes_on, numbers
from harness.study.command import commanded
from harness.study.outcome import Outcome
from harness.study.planning import Planned
from harness.study.provenance import since
from harness.study.rundir import archive, plant, read_status, write_config, write_status
from harness.study.running import Run, Session
from launch.environment import job_id, requeued

SKIPPED = Outcome("skipped")
PATIENCE_S = 2 * STALE_S
"""Who submits a point holds it until it is written down; a job that died on another host does until it is stale."""


def take(planned: Planned, position: int, title: str, session: Session) -> Outcome:
    """One point's turn; what is wrong with the point is its outcome."""
    point, run_dir, say = planned.point, planned.point.run_dir, session.say
    plant(point)
    ended = session.interruption.ended
    # a job that runs again may itself have held it, on a host that has crashed
    before = requeued() and (holder(run_dir) or {}).get("job") == job_id()
    held = lease.acquire_within(run_dir, PATIENCE_S if session.own_job or before else 0, ended)
    if held is not None:
        with held:
            try:
                status = read_status(run_dir)
            except ValueError as error:
                status, was = None, f"damaged ({error})"
            else:
                was = status["status"] if status else "without a status"
            if reason := done(planned, status, session):
                say(f"{title}: skipped, {reason}")
                return SKIPPED
            for left in session.launcher.end_left(lambda marker: deserted(Path(marker), run_dir)):
                say(f"{title}: warning: {left}")
            if not (run_dir / "attempts").exists():
                return start(planned, position, title, session, held)
            if goes_on(point.config, status):
                say(f"{title}: was {was}, goes on")
                return start(planned, position, title, session, held)
            say(f"{title}: was {was}, kept as {set_aside(run_dir, status, held).name}")
        # The lease went with the old directory; the new one is anybody's until it is held.
        plant(point)
        held = lease.acquire(run_dir)
    if held is None:
        say(f"{title}: skipped, {by(holder(run_dir))}")
        return SKIPPED
    with held:
        return start(planned, position, title, session, held)


def deserted(other: Path, run_dir: Path) -> bool:
    """Whether what runs for another point has no controller, or is this point's own from before it was held."""
    if other == run_dir or lease.deserted(other):
        return True
    with suppress(OSError, ValueError):
        status = read_status(other)
        return status is not None and status["status"] not in OPEN and holder(other) is None
    return False


def set_aside(run_dir: Path, status: dict[str, Any] | None, held: lease.Lease) -> Path:
    """Rename the run directory of a point that runs again, its status made true before."""
    if status is not None and status["status"] == "running":
        write_status(run_dir, "failed", "its controller disappeared", attempt=status["attempt"], job=status.get("job"))
    old = archive(held, run_dir)
    mirror.forsake(old)
    return old


def start(planned: Planned, position: int, title: str, session: Session, held: lease.Lease) -> Outcome:
    """Run a held point, or say why it cannot run."""
    if planned.plan is not None:
        # what an allocation's end cuts off goes on in the next one where there are checkpoints
        if planned.point.config.checkpoint.kind == "none" and (late := session.remaining.lacks(planned)):
            session.say(f"{title}: pending, {late}")
            return Outcome("pending", late)
        return Run(planned, position, title, session, held).whole()
    write_config(planned.point)
    write_status(planned.point.run_dir, "invalid", planned.impossible)
    session.say(f"{title}: invalid, {planned.impossible}")
    return Outcome("invalid", planned.impossible)


def by(holder: dict[str, Any] | None) -> str:
    return f"held by process {holder['pid']} on {holder['host']}" if holder else "another controller has just had it"


def done(planned: Planned, status: dict[str, Any] | None, session: Session) -> str | None:
    """Why the point need not run, or None where it has to."""
    point = planned.point
    if status is None or point.config.rerun or status["status"] not in ("ok", "oom"):
        return None
    changed = differences(planned, session)
    if status["status"] == "ok":
        return f"ok already (warning: {'; '.join(changed)}; rerun=true runs it again)" if changed else "ok already"
    same = not changed and planned.plan is not None
    return "out of memory already, with the same code and environment" if same else None


def differences(planned: Planned, session: Session) -> list[str]:
    """What is not as it was when the point ran: profile, code, versions, hardware, NCCL's variables, hidden files."""
    run_dir = planned.point.run_dir
    now = commanded(planned, 0, session.machine, session.launcher)[0].document()
    asked = planned.point.config.profile.kind
    folders = (attempt_dir(run_dir, number) / "profile" for number in numbers(run_dir))
    unseen = asked != "none" and not any(any(folder.glob("rank*")) for folder in folders)
    return [*([f"it ran without profile={asked}"] if unseen else []), *since(run_dir, session.provenance, now)]
