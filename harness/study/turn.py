"""One point's turn: hold it, see whether it has to run, run it, say how it ended."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.study import lease
from harness.study.attempt import run_attempt
from harness.study.files import read_json, write_json, write_text
from harness.study.interruption import Interruption
from harness.study.mirror import Mirror
from harness.study.outcome import Outcome
from harness.study.planning import Planned
from harness.study.preview import attempt_dir, commanded, counted
from harness.study.progress import Progress
from harness.study.provenance import changes, stamped
from harness.study.rundir import archive, plant, read_status, write_config, write_status
from launch import torchrun
from launch.devices import Machine
from launch.environment import Environment
from launch.local import end_marked

UNSTARTED = ("pending", "queued", "invalid")
SKIPPED = Outcome("skipped")


@dataclass(frozen=True)
class Session:
    """What all turns of one run of the controller share."""

    machine: Machine
    provenance: dict[str, Any]
    interruption: Interruption
    progress: Progress
    say: Callable[[str], None]


def take(planned: Planned, position: int, title: str, session: Session) -> Outcome:
    """One point's turn; what is wrong with the point is its outcome."""
    point, run_dir, say = planned.point, planned.point.run_dir, session.say
    plant(point)
    held = lease.acquire(run_dir)
    if held is not None:
        with held:
            status = read_status(run_dir)
            if reason := done(planned, status, session):
                say(f"{title}: skipped, {reason}")
                return SKIPPED
            end_marked(str(run_dir))
            if status is None or status["status"] in UNSTARTED:
                return start(planned, position, title, session, held)
            say(f"{title}: was {status['status']}, kept as {set_aside(run_dir, status, held).name}")
        # The lease went with the old directory; the new one is anybody's until it is held.
        plant(point)
        held = lease.acquire(run_dir)
    if held is None:
        say(f"{title}: skipped, {by(lease.holder(run_dir))}")
        return SKIPPED
    with held:
        return start(planned, position, title, session, held)


def set_aside(run_dir: Path, status: dict[str, Any], held: lease.Lease) -> Path:
    """Rename the run directory of a point that runs again, its status made true before."""
    if status["status"] == "running":
        write_status(run_dir, "failed", "its controller disappeared", attempt=status["attempt"])
    return archive(held, run_dir)


def start(planned: Planned, position: int, title: str, session: Session, held: lease.Lease) -> Outcome:
    """Run a held point, or say why it cannot run."""
    if planned.plan is not None:
        return run(planned, position, title, session, held)
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
    changed = changes(read_json(point.run_dir / "provenance.json") or {}, session.provenance)
    if status["status"] == "ok":
        return f"ok already (warning: {'; '.join(changed)}; rerun=true runs it again)" if changed else "ok already"
    if changed or planned.plan is None:
        return None
    before = read_json(point.run_dir / "env.json") or {}
    same = commanded(planned, session.machine)[0].effective == before.get("effective")
    return "out of memory already, with the same code and environment" if same else None


def run(planned: Planned, position: int, title: str, session: Session, held: lease.Lease) -> Outcome:
    """Write the run directory, start the processes and see them to their end."""
    point, run_dir = planned.point, planned.point.run_dir
    config = point.config
    folder = attempt_dir(run_dir)
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    environment, command = commanded(planned, session.machine)
    describe(planned, environment, command, session)
    write_status(run_dir, "running", attempt=0)
    session.say(f"{title}: started, {counted(point.ranks, 'rank')}")
    mirror = Mirror(run_dir, logs / "mirror.log") if config.record.wandb != "disabled" else None
    start = time.monotonic()
    with session.progress.point(title, config.steps, folder / "events.jsonl") as pace:
        outcome = run_attempt(
            folder, command, environment, position, config.launcher.timeout_s, held, session.interruption, pace.watch
        )
        pace.read_on()
    if not held.lost:
        write_status(run_dir, outcome.status, outcome.reason, outcome.rank, attempt=0)
    figures = [f"{pace.tokens_per_s:,.0f} tokens/s"] if pace.tokens_per_s else []
    figures += [f"loss {pace.loss:.4g}"] if pace.loss is not None else []
    figures += [f"{time.monotonic() - start:.1f} s"]
    session.say(f"{title}: {outcome.status}, {', '.join(figures)}" + (f"; {outcome.reason}" if outcome.reason else ""))
    if mirror:
        mirror.finish(session.interruption)
    return outcome


def describe(planned: Planned, environment: Environment, command: list[str], session: Session) -> None:
    """Write what the point runs, where, and with what."""
    run_dir = planned.point.run_dir
    write_config(planned.point)
    write_json(run_dir / "provenance.json", stamped(session.provenance))
    write_json(run_dir / "env.json", environment.document())
    write_text(run_dir / "command.sh", torchrun.script(command, environment, run_dir))
