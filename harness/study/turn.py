"""One point's turn: hold it, see whether it has to run, run it, say how it ended."""

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.study import lease
from harness.study.advice import advised
from harness.study.attempt import TAKEN_OVER, run_attempt
from harness.study.command import attempt_dir, commanded
from harness.study.events import Pace
from harness.study.files import read_json, write_json, write_text
from harness.study.interruption import Interruption
from harness.study.mirror import Mirror
from harness.study.outcome import Outcome
from harness.study.planning import Planned
from harness.study.preflight import Links
from harness.study.preview import counted
from harness.study.progress import Progress
from harness.study.provenance import changes, environment_changes, stamped
from harness.study.remaining import Remaining
from harness.study.rundir import OPEN, archive, plant, read_status, write_config, write_status
from launch import torchrun
from launch.devices import Machine
from launch.environment import Environment
from launch.launchers import Launcher

SKIPPED = Outcome("skipped")
PATIENCE_S = 2 * lease.STALE_S
"""Who submits a point holds it until it is written down; a job that died on another host does until it is stale."""


@dataclass(frozen=True)
class Session:
    """What all turns of one run of the controller share."""

    machine: Machine
    launcher: Launcher
    links: Links
    remaining: Remaining
    provenance: dict[str, Any]
    interruption: Interruption
    progress: Progress
    say: Callable[[str], None]
    own_job: bool
    """Whether this runs the one point of a job that was submitted for it."""


def take(planned: Planned, position: int, title: str, session: Session) -> Outcome:
    """One point's turn; what is wrong with the point is its outcome."""
    point, run_dir, say = planned.point, planned.point.run_dir, session.say
    plant(point)
    ended = session.interruption.ended
    held = lease.acquire_within(run_dir, PATIENCE_S if session.own_job else 0, ended)
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
            say(f"{title}: was {was}, kept as {set_aside(run_dir, status, held).name}")
        # The lease went with the old directory; the new one is anybody's until it is held.
        plant(point)
        held = lease.acquire(run_dir)
    if held is None:
        say(f"{title}: skipped, {by(lease.holder(run_dir))}")
        return SKIPPED
    with held:
        return start(planned, position, title, session, held)


def deserted(other: Path, run_dir: Path) -> bool:
    """Whether what runs for another point has no controller, or is this point's own from before it was held."""
    if other == run_dir or lease.deserted(other):
        return True
    with suppress(OSError, ValueError):
        status = read_status(other)
        return status is not None and status["status"] not in OPEN and lease.holder(other) is None
    return False


def set_aside(run_dir: Path, status: dict[str, Any] | None, held: lease.Lease) -> Path:
    """Rename the run directory of a point that runs again, its status made true before."""
    if status is not None and status["status"] == "running":
        write_status(run_dir, "failed", "its controller disappeared", attempt=status["attempt"], job=status.get("job"))
    return archive(held, run_dir)


def start(planned: Planned, position: int, title: str, session: Session, held: lease.Lease) -> Outcome:
    """Run a held point, or say why it cannot run."""
    if planned.plan is not None:
        if late := session.remaining.lacks(planned):
            session.say(f"{title}: pending, {late}")
            return Outcome("pending", late)
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
    changed = differences(planned, session)
    if status["status"] == "ok":
        return f"ok already (warning: {'; '.join(changed)}; rerun=true runs it again)" if changed else "ok already"
    same = not changed and planned.plan is not None
    return "out of memory already, with the same code and environment" if same else None


def differences(planned: Planned, session: Session) -> list[str]:
    """What is not as it was when the point ran: profile, code, versions, hardware, NCCL's variables, hidden files."""
    run_dir = planned.point.run_dir
    try:
        provenance, environment = read_json(run_dir / "provenance.json"), read_json(run_dir / "env.json")
    except ValueError as error:
        return [str(error)]
    now = commanded(planned, session.machine, session.launcher)[0].document()
    asked = planned.point.config.profile.kind
    unseen = asked != "none" and not any((attempt_dir(run_dir) / "profile").glob("rank*"))
    profile = [f"it ran without profile={asked}"] if unseen else []
    return [*profile, *changes(provenance or {}, session.provenance), *environment_changes(environment or {}, now)]


def run(planned: Planned, position: int, title: str, session: Session, held: lease.Lease) -> Outcome:
    """Run a held point and write how it ended. A full disk or a vanished one is an end too, told if it can be."""
    point, run_dir, say = planned.point, planned.point.run_dir, session.say
    folder, begin = attempt_dir(point.run_dir), time.monotonic()

    def tell(words: str) -> None:
        say(f"{title}: {words}")

    pace = Pace(folder / "events.jsonl")
    # The mirror waits for the last status, so it is finished after that is written.
    with ExitStack() as cleanup:
        try:
            environment, command = describe(planned, session)
            write_status(run_dir, "running", attempt=0)
            outcome = session.links.check(planned, session.launcher, held, session.interruption, tell)
            if outcome is None:
                say(f"{title}: started, {counted(point.ranks, 'rank')}")
                if point.config.record.wandb != "disabled":
                    served = point.config.faults.kind != "wandb_down"
                    mirror = Mirror(run_dir, folder / "logs" / "mirror.log", served)
                    cleanup.callback(mirror.finish, session.interruption)
                with session.progress.point(title, planned.stages, pace) as watch:
                    outcome = run_attempt(
                        folder,
                        command,
                        lambda log: session.launcher.start(command, environment, log, point.config.nodes),
                        session.launcher.hosts[: point.config.nodes],
                        point.config.gpus_per_node,
                        # jobs run in Slurm's order
                        None if session.own_job else position,
                        session.launcher.queued_s(),
                        point.config.launcher.timeout_s,
                        held,
                        session.interruption,
                        watch,
                        tell,
                    )
                outcome = advised(outcome, planned, session.machine, folder)
                pace.read_on()
        except OSError as error:
            outcome = Outcome("failed", f"the controller met an error: {error}")
        else:
            outcome = outcome if held.ours() else TAKEN_OVER
        if held.ours():
            write_status(run_dir, outcome.status, outcome.reason, outcome.rank, outcome.host, attempt=0)
        session.remaining.took(planned, time.monotonic() - begin)
        figures = [*pace.figures(), f"{time.monotonic() - begin:.1f} s"]
        say(f"{title}: {outcome.status}, {', '.join(figures)}" + (f"; {outcome.reason}" if outcome.reason else ""))
    if (mirrored := read_json(run_dir / "mirror.json")) and mirrored.get("reason"):
        say(f"{title}: W&B mirror {mirrored.get('mode_used') or 'nowhere'}: {mirrored['reason']}")
    return outcome


def describe(planned: Planned, session: Session) -> tuple[Environment, list[str]]:
    """Write what the point runs, where, and with what; its environment and its command."""
    run_dir = planned.point.run_dir
    (attempt_dir(run_dir) / "logs").mkdir(parents=True, exist_ok=True)
    environment, command = commanded(planned, session.machine, session.launcher)
    write_config(planned.point)
    hosts = session.launcher.hosts[: planned.point.config.nodes]
    write_json(run_dir / "provenance.json", {**stamped(session.provenance), "hosts": list(hosts)})
    write_json(run_dir / "env.json", environment.document())
    write_text(run_dir / "command.sh", torchrun.script(command, environment, run_dir))
    return environment, command
