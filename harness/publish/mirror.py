"""The mirror of one point: a process that follows its records and repeats them to W&B.

`python -m harness.publish.mirror RUN_DIR` beside a running point. It only reads what the point writes, so training
neither imports wandb nor waits for it. It ends by itself when the point has ended.
"""

import argparse
import json
import os
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from harness.analysis.read import Point, Record, read_point
from harness.analysis.tail import Tail
from harness.files import read_bytes
from harness.heartbeat import holder
from harness.publish import state as mirror_json
from harness.publish.client import close_run, open_point, run_id, sentence
from harness.publish.history import History, summary
from harness.publish.process import AGAIN, end_within, fail, leave, send
from harness.publish.state import State
from harness.records import OPEN
from harness.schema import lacking

POLL_S = 1.0
TAKE_S = 10.0
"""How long records gather before their rows are sent: each time wakes the client's processes, next to the ranks."""

# A told end (SIGTERM) may take this long, a natural one the client's own limit and some room for its shutdown.
TOLD_END_S = 5.0
END_S = 30.0


class Mirror:
    """One point's records on their way into one W&B run."""

    def __init__(self, run_dir: Path, publish: bool) -> None:
        self.run_dir = run_dir
        self.publish = publish
        self.point = read_point(run_dir)
        self.stop = threading.Event()
        self.parent = os.getppid()
        mode = "online" if publish else self.point.config.record.wandb
        if mode == "disabled":
            raise ValueError(f"record.wandb=disabled: {self.point.slug} asks for no mirror")
        earlier = mirror_json.read(run_dir)
        host, pid = mirror_json.here()
        self.state = State(run_id=earlier.run_id if earlier else run_id(self.point), mode=mode, host=host, pid=pid)
        self.state.offline_dir = earlier.offline_dir if earlier else None

    def run(self) -> int:
        """Mirror until the point has ended; the process's exit code."""
        mirror_json.write(self.run_dir, self.state)
        try:
            run = open_point(self.point, self.state, fallback=not self.publish)
        # Whatever the client raises: the records themselves are safe, and the state says why they are not mirrored.
        except Exception as error:
            self._give_up(f"W&B opened no run: {sentence(error)}")
        try:
            self._save()
            if not self._follow(run):
                return 0
        except OSError as error:  # a disk that is full or gone
            self._give_up(f"the records could not be followed to their end: {sentence(error)}; {AGAIN}")
        end_within(self._give_up, END_S)
        point = read_point(self.run_dir)
        self._remark(point)
        try:
            # Provenance may have been written, or a new attempt have added to it, since the run was opened.
            run.config.update({"provenance": point.provenance}, allow_val_change=True)
            run.summary.update(summary(point))
            close_run(run, failed=point.status["status"] != "ok")
        # The client fails in many ways when its server does; the records themselves are safe.
        except Exception as error:
            self._give_up(f"W&B did not take the whole run ({sentence(error)}); {AGAIN}")
        self.state.state = "done"
        self._save()
        return 0

    def told_to_end(self, *_signal: Any) -> None:
        """Finish now: what is there is mirrored still."""
        self.stop.set()
        end_within(self._give_up, TOLD_END_S)

    def _follow(self, run: Any) -> bool:
        """Log rows as records come. False where another mirror has taken this one's place."""
        tail, history = Tail(self.run_dir), History()
        # A run that is resumed has its first rows already: the same records always give the same rows.
        row_number, known = 0, run.step
        while True:
            last = self._over()
            records = tail.read()
            history.launches = _launches(self.run_dir)
            for attempt, record in records:
                for row in history.rows(attempt, record):
                    if row_number >= known:
                        # when it was recorded; by itself the client says when it was told
                        run.log({**row, "_timestamp": record["time"]}, step=row_number)
                    row_number += 1
            if not self._ours():
                return False
            if records:
                self.state.records += len(records)
                self._save()
            if last:
                return True
            self._let_gather()

    def _let_gather(self) -> None:
        until = time.monotonic() + TAKE_S
        while time.monotonic() < until and self._ours() and not self._over():
            self.stop.wait(POLL_S)

    def _over(self) -> bool:
        """Whether nothing more will be written, or nothing more is to be waited for."""
        return self.publish or self.stop.is_set() or _status(self.run_dir) not in OPEN or self._deserted()

    def _deserted(self) -> bool:
        """Whether nobody holds the point any more: its controller is gone and so is its lease."""
        parent = os.getppid()
        return (parent != self.parent or parent == 1) and holder(self.run_dir) is None

    def _remark(self, point: Point) -> None:
        """Say in the state what a reader of the finished mirror has to know."""
        status = point.status["status"]
        remarks = [self.state.reason] if self.state.reason else []
        if status in OPEN:
            remarks.append(f"ended while the point was {status}")
        self.state.reason = "; ".join(remarks + point.warnings) or None

    def _give_up(self, reason: str) -> NoReturn:
        if self.state.state == "running":
            self.state.state, self.state.reason = "failed", reason
        fail(reason, self._save)

    def _ours(self) -> bool:
        """Whether mirror.json is this mirror's still, and the run directory still where it was."""
        return mirror_json.holder(self.run_dir) == mirror_json.here()

    def _save(self) -> None:
        if self._ours():
            mirror_json.write(self.run_dir, self.state)


def _status(run_dir: Path) -> str:
    return str(_document(run_dir / "status.json").get("status", "pending"))


def _launches(run_dir: Path) -> dict[int, Record]:
    """The attempts' launch records, by attempt."""
    paths = {int(path.parent.name): path for path in run_dir.glob("attempts/[0-9]*/launch.json")}
    documents = {attempt: _document(path) for attempt, path in paths.items()}
    return {attempt: document for attempt, document in documents.items() if document and not lacking(document)}


def _document(path: Path) -> Record:
    """A JSON file as it stands, or nothing where it is not there or half-written."""
    try:
        document = json.loads(read_bytes(path))
    except (FileNotFoundError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def main() -> int:
    """Mirror one run directory. Environment variables are read and set in `begin`, for the W&B client."""
    parser = argparse.ArgumentParser(prog="python -m harness.publish.mirror", description=main.__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="a point's run directory")
    parser.add_argument("--publish", action="store_true", help="upload what is there now, whatever record.wandb says")
    arguments = parser.parse_args()
    run_dir = arguments.run_dir.resolve()
    return send(run_dir, lambda: Mirror(run_dir, arguments.publish), "mirror")


if __name__ == "__main__":
    leave(main())
