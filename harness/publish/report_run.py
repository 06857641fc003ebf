"""The report run of one study: its tables, charts, page and files in one W&B run, once nothing of it runs any more.

`python -m harness.publish.report_run STUDY_DIR` at a study's end. Like a point's mirror it only reads what is there,
and no training or study waits for it longer than it says it will.
"""

import argparse
import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import wandb

from harness.files import read_bytes
from harness.publish import state as mirror_json
from harness.publish import tables
from harness.publish.bundle import ENDING, bundle
from harness.publish.client import close_run, open_run, sentence
from harness.publish.process import AGAIN, end_within, fail, leave, send
from harness.publish.state import State
from harness.report import report

# From the first word to the server on: the client's own limits and the upload of the study's files.
END_S = 100.0
FINISH_S = 60
LONGEST_STEM = 46


def run_id(study_dir: Path) -> str:
    """The W&B run id of a study's report: its name, and a hash that tells it from the same study elsewhere.

    The earliest provenance is in the hash, also that of a point that was run again: it stays when a study grows.
    """
    digest = hashlib.sha256(f"{study_dir.name}\n".encode())
    found = [read_bytes(path) for path in study_dir.glob("points/*/provenance.json")]
    digest.update(min(found, key=_time_of, default=b""))
    return f"{study_dir.name[:LONGEST_STEM]}-report-{digest.hexdigest()[:8]}"


class ReportRun:
    """A study's report on its way into one W&B run; sent again, it is the same run, which then shows the newer one."""

    def __init__(self, study_dir: Path, mode: str, publish: bool) -> None:
        self.study_dir = study_dir
        self.publish = publish
        self.document = report(study_dir)
        self.earlier = mirror_json.read(study_dir)
        host, pid = mirror_json.here()
        self.state = State(self.earlier.run_id if self.earlier else run_id(study_dir), mode, host=host, pid=pid)
        self.state.offline_dir = self.earlier.offline_dir if self.earlier else None
        self.state.sent = digest_of(self.document)
        self.drafts = TemporaryDirectory(prefix="harness-report-")

    def run(self) -> int:
        """Send the report; the process's exit code."""
        if self._there():
            self.drafts.cleanup()
            return 0
        mirror_json.write(self.study_dir, self.state)
        try:
            files = bundle(self.study_dir, Path(self.drafts.name) / f"{self.study_dir.name}{ENDING}")
        except (OSError, ValueError) as error:  # a full disk; records beyond what a bundle may hold
            self._give_up(f"no bundle of the study could be made: {sentence(error)}; {AGAIN}")
        end_within(self._give_up, END_S)
        try:
            run = open_run(
                self.study_dir,
                self.state,
                fallback=not self.publish,
                name=self.document["study"],
                group=self.document["study"],
                job_type="report",
                notes="\n".join(self.document["headline"]),
                config={"study": self.document["study"]},
                finish_s=FINISH_S,
            )
            self._save()
            run.log({**_tables(self.document), **_charts(self.document), "page": self._page()})
            run.summary.update(_summary(self.document))
            self._log_files(run, files)
            close_run(run, failed=False)
        # The client fails in many ways when its server does; the study's files are safe, and the state says why.
        except Exception as error:
            self._give_up(f"W&B did not take the whole report ({sentence(error)}); {AGAIN}")
        self.state.state = "done"
        self.state.records = len(self.document["points"])
        self._save()
        self.drafts.cleanup()
        return 0

    def told_to_end(self, *_signal: Any) -> None:
        self._give_up(f"the report run was told to end; {AGAIN}")

    def _there(self) -> bool:
        """Whether the server has this very report already."""
        before = self.earlier
        return bool(
            self.publish
            and before
            and (before.state, before.mode_used, before.sent) == ("done", "online", self.state.sent)
        )

    def _page(self) -> wandb.Html:
        # nothing is put into the page: its content policy would forbid it
        return wandb.Html(Path(self.document["paths"]["page"]).read_text(), inject=False, data_is_not_path=True)

    def _log_files(self, run: Any, files: Path) -> None:
        """The study's files as an artifact: its bundle, and beside it what a person may want to look at alone."""
        artifact = wandb.Artifact(f"study-{self.state.run_id}", type="study")
        artifact.add_file(str(files))
        artifact.add_file(self.document["paths"]["points"])
        run.log_artifact(artifact)

    def _give_up(self, reason: str) -> NoReturn:
        self.state.state, self.state.reason = "failed", reason
        try:
            self.drafts.cleanup()
        finally:
            fail(reason, self._save)

    def _save(self) -> None:
        """Write the state, unless another report run has taken this one's place."""
        if mirror_json.holder(self.study_dir) == mirror_json.here():
            mirror_json.write(self.study_dir, self.state)


def digest_of(document: dict[str, Any]) -> str:
    """The SHA-256 of what a report says, whenever and wherever it was written."""
    said = {key: value for key, value in document.items() if key not in ("time", "paths")}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _tables(document: dict[str, Any]) -> dict[str, wandb.Table]:
    return {name: _table(rows) for name, rows in tables.tables(document).items()}


def _table(rows: list[tables.Row]) -> wandb.Table:
    columns = tables.columns(rows)
    data = [[row.get(column) for column in columns] for row in rows]
    return wandb.Table(columns=columns, data=data, allow_mixed_types=True)


def _charts(document: dict[str, Any]) -> dict[str, Any]:
    """Lines against GPUs, and bars of each curve's largest scale."""
    rows = tables.tables(document).get("curves", [])
    if not rows:
        return {}
    titles = {"efficiency": "efficiency, share of the curve's baseline", "tokens_per_s": "tokens/s"}
    made = {}
    for key, title in titles.items():
        lines, bars = _table(rows), _table(tables.largest(rows))
        made[f"{key}_by_gpus"] = wandb.plot.line(lines, "gpus", key, stroke="curve_name", title=f"{title}, by GPUs")
        made[f"{key}_largest"] = wandb.plot.bar(bars, "curve_name", key, title=f"{title}, at the largest scale")
    return made


def _summary(document: dict[str, Any]) -> dict[str, Any]:
    statuses = [row["status"] for row in document["points"]]
    counts = {f"status/{status}": statuses.count(status) for status in dict.fromkeys(statuses)}
    return {"headline": "\n".join(document["headline"]), **counts}


def _time_of(provenance: bytes) -> float:
    try:
        return float(json.loads(provenance)["time"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def main() -> int:
    """Send one study's report. Environment variables are read and set in `begin`, for the W&B client."""
    parser = argparse.ArgumentParser(prog="python -m harness.publish.report_run", description=main.__doc__)
    parser.add_argument("study_dir", type=Path, metavar="STUDY_DIR", help="a study's folder")
    parser.add_argument("--mode", choices=("offline", "online", "auto"), default="offline", help="as record.wandb")
    parser.add_argument("--publish", action="store_true", help="send it online, unless the server has it already")
    arguments = parser.parse_args()
    study_dir = arguments.study_dir.resolve()
    mode = "online" if arguments.publish else arguments.mode
    return send(study_dir, lambda: ReportRun(study_dir, mode, arguments.publish), "report run")


if __name__ == "__main__":
    leave(main())
