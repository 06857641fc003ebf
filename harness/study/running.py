"""A held point from its first start to its last end: attempts, one after another, until one has an end to keep."""

import itertools
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from harness.files import read_json, write_json, write_text
from harness.pace import Pace
from harness.plan.elastic import fitting
from harness.printable import printable
from harness.study import lease
from harness.study.advice import advised
from harness.study.attempt import TAKEN_OVER, Deadline, run_attempt
from harness.study.attempts import AGAIN, attempt_dir, following, pause_s
from harness.study.command import commanded
from harness.study.disk import conclude, reserve
from harness.study.interruption import Interruption
from harness.study.mirror import Mirror
from harness.study.outcome import Outcome
from harness.study.planning import Planned
from harness.study.preflight import Links
from harness.study.preview import counted
from harness.study.progress import Progress
from harness.study.provenance import since, stamped
from harness.study.remaining import Remaining
from harness.study.rundir import write_config, write_status
from launch import torchrun
from launch.devices import Machine
from launch.environment import Environment
from launch.launchers import Launcher

POLL_S = 0.1


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


@dataclass
class Run:
    """A held point that runs now, and what its attempts share."""

    planned: Planned
    position: int
    title: str
    session: Session
    held: lease.Lease
    launcher: Launcher = field(init=False)
    nodes: int = field(init=False)
    deadline: Deadline | None = None
    mirror: Mirror | None = None

    def __post_init__(self) -> None:
        self.launcher, self.nodes = self.session.launcher, self.planned.point.config.nodes

    @property
    def hosts(self) -> tuple[str, ...]:
        """Where the processes are started, in the order of ranks."""
        return self.launcher.hosts[: self.nodes]

    def tell(self, words: str) -> None:
        self.session.say(f"{self.title}: {printable(words)}")

    def whole(self) -> Outcome:
        """Run the point, again after an ending that allows it, and write how it ended."""
        run_dir, begin = self.planned.point.run_dir, time.monotonic()
        # The mirror waits for the last status, so it is finished after that is written.
        with ExitStack() as cleanup:
            cleanup.callback(self.finish_mirror)
            for restarts in itertools.count():
                number = following(run_dir)
                pace = Pace(attempt_dir(run_dir, number))
                outcome = self.attempt(number, pace)
                if not self.starts_again(outcome, restarts):
                    break
                self.rest(number, outcome, pause_s(restarts))
                if self.session.interruption.signal is not None:
                    outcome = Outcome("preempted", self.session.interruption.reason)
                    break
                if poor := self.find_hosts():
                    outcome = replace(outcome, reason=f"{outcome.reason}; not started again: {poor}")
                    break
            outcome = conclude(self.held, outcome, attempt=number)
            self.session.remaining.took(self.planned, time.monotonic() - begin)
            figures = [*pace.figures(), f"{time.monotonic() - begin:.1f} s"]
            self.tell(f"{outcome.status}, {', '.join(figures)}" + (f"; {outcome.reason}" if outcome.reason else ""))
        with suppress(OSError, ValueError):  # it is only told, and how the point ended is known
            if (mirrored := read_json(run_dir / "mirror.json")) and mirrored.get("reason"):
                self.tell(f"W&B mirror {mirrored.get('mode_used') or 'nowhere'}: {mirrored['reason']}")
        return outcome

    def attempt(self, number: int, pace: Pace) -> Outcome:
        """One start of the point. A full disk or a vanished one is an end too, and so is a record that is damaged."""
        point, session = self.planned.point, self.session
        folder, config = attempt_dir(point.run_dir, number), point.config
        try:
            environment, command = self.describe(number)
            write_status(point.run_dir, "running", attempt=number)
            reserve(point.run_dir)
            if poor := session.links.check(
                self.planned, self.nodes, self.launcher, self.held, session.interruption, self.tell
            ):
                return poor
            ranks = counted(self.nodes * config.gpus_per_node, "rank")
            self.tell(f"started, {ranks}{f', attempt {number}' if number else ''}")
            if self.mirror is None and config.record.wandb != "disabled":
                served = config.faults.kind != "wandb_down"
                words = ("harness.publish.mirror", str(point.run_dir))
                self.mirror = Mirror(words, folder / "logs" / "mirror.log", served)
            self.deadline = self.deadline or Deadline.after(config.launcher.timeout_s)
            with session.progress.point(self.title, self.planned.stages, pace) as watch:
                outcome = run_attempt(
                    folder,
                    command,
                    lambda log: self.launcher.start(command, environment, log, self.nodes),
                    self.hosts,
                    config.gpus_per_node,
                    # jobs run in Slurm's order
                    None if session.own_job else self.position,
                    self.launcher.queued_s(),
                    self.deadline,
                    self.held,
                    session.interruption,
                    watch,
                    self.tell,
                    config.launcher.grace_s if config.checkpoint.kind != "none" else 0.0,
                )
            outcome = advised(outcome, self.planned, session.machine, folder)
            pace.read_on()
        except (OSError, ValueError) as error:
            return Outcome("failed", f"the controller met an error: {error}")
        return outcome if self.held.ours() else TAKEN_OVER

    def starts_again(self, outcome: Outcome, restarts: int) -> bool:
        """Whether the point is started again by itself after so many restarts: only while nobody is against it."""
        in_time = self.deadline is None or time.monotonic() + pause_s(restarts) < self.deadline.at
        return (
            outcome.status in AGAIN
            and outcome is not TAKEN_OVER
            and restarts < self.planned.point.config.launcher.max_restarts
            and in_time
            and self.session.interruption.signal is None
            and self.held.ours()
        )

    def rest(self, number: int, outcome: Outcome, seconds: float) -> None:
        """Say what has ended an attempt, and wait a little before the next one."""
        ended = f"attempt {number} ended {outcome.status}: {outcome.reason}"
        self.tell(f"{ended}; starting again in {seconds:g} s")
        with suppress(OSError):  # the next attempt will meet the same error, and say so
            write_status(self.planned.point.run_dir, "running", ended, outcome.rank, outcome.host, attempt=number)
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.session.interruption.signal is None:
            time.sleep(POLL_S)

    def find_hosts(self) -> str | None:
        """Take hosts that are there for the next attempt, spare ones too; why not, where there are too few."""
        config, before = self.planned.point.config, self.hosts
        self.launcher = self.session.launcher.answering()
        try:
            self.nodes = fitting(config, len(self.launcher.hosts))
        except ValueError as error:
            return str(error)
        if self.hosts != before:
            fewer = f", {self.nodes} in place of {config.nodes}" if self.nodes < config.nodes else ""
            self.tell(f"its hosts are now {', '.join(self.hosts)}{fewer}")
        return None

    def finish_mirror(self) -> None:
        if self.mirror is not None:
            self.mirror.finish(self.session.interruption)

    def describe(self, number: int) -> tuple[Environment, list[str]]:
        """Write what the attempt runs, where, and with what; its environment and its command.

        What the first one had stays as it is, beside it what a later one has, and what of it is not the same is said.
        """
        point, session = self.planned.point, self.session
        folder = attempt_dir(point.run_dir, number)
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        environment, command = commanded(self.planned, number, session.machine, self.launcher, self.nodes)
        write_config(point)
        place = folder if number else point.run_dir
        if number and (changed := since(point.run_dir, session.provenance, environment.document())):
            self.tell(f"warning: not as it was at first: {'; '.join(changed)}")
        write_json(place / "provenance.json", {**stamped(session.provenance), "hosts": list(self.hosts)})
        write_json(place / "env.json", environment.document())
        if not number:
            write_text(place / "command.sh", torchrun.script(command, environment, point.run_dir))
        return environment, command
