"""`harness publish dashboard STUDY`: a W&B workspace of scaling panels over the study's runs.

What it shows is written down first, as STUDY/report/dashboard.json, and then saved where the package and a server are
there. `python -m harness.publish.dashboard STUDY_DIR` is a process of its own for the W&B client's sake.
"""

import argparse
import importlib.util
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

import wandb

from harness.analysis.read import read_study
from harness.files import write_text
from harness.publish.client import sentence
from harness.publish.history import AXIS
from harness.publish.process import begin, leave

END_S = 60.0
NOT_ONLINE = ("offline", "disabled", "dryrun")
"""Values of WANDB_MODE with which the client sends nothing."""
EXTRA = "pip install 'scaling-harness[workspaces]' brings the package wandb-workspaces, which saves it"
# Over the points' summaries, which have the columns of points.csv by their names.
BY_GPUS = {
    "tokens_per_s": "tokens/s",
    "tokens_per_s_gpu": "tokens/s of a GPU",
    "step_s_p50": "seconds of a step, median",
    "mfu": "MFU",
    "goodput_fraction": "goodput, share of the wall-clock",
    "peak_memory_bytes": "peak memory, bytes",
}
# Over the steps of each point.
BY_STEP = {
    "perf/tokens_per_s": "tokens/s",
    "perf/step_s": "seconds of a step on rank 0",
    "comm/exposed_transfer_s": "exposed transfer, seconds of a sampled step",
    "comm/exposed_wait_s": "exposed waiting, seconds of a sampled step",
    "goodput/fraction": "goodput so far, share of the wall-clock",
    "train/loss": "loss",
}
TABLES = ("points", "curves")


def specification(study: str) -> dict[str, Any]:
    """What the workspace of a study shows, in plain words: runs of its group, and sections of panels."""
    scatter = [{"kind": "scatter", "title": title, "x": "gpus", "y": key} for key, title in BY_GPUS.items()]
    lines = [{"kind": "line", "title": title, "x": AXIS, "y": key} for key, title in BY_STEP.items()]
    tables = [{"kind": "table", "table": name} for name in TABLES]
    return {
        "schema": 1,
        "kind": "dashboard",
        "time": time.time(),
        "study": study,
        "name": f"Scaling study {study}",
        "group": study,
        "sections": [
            {"name": "Scaling, a symbol a point", "panels": scatter},
            {"name": "Over the steps, a line a point", "panels": lines},
            {"name": "The report", "panels": tables},
        ],
        "url": None,
    }


def workspace(document: dict[str, Any], entity: str, project: str) -> Any:
    """The specification as an object of wandb-workspaces; where the study has been saved before, that one anew."""
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as workspaces

    def made(panel: dict[str, Any]) -> Any:
        if panel["kind"] == "scatter":
            x, y = (panels.SummaryMetric(panel[axis]) for axis in "xy")
            return panels.ScatterPlot(title=panel["title"], x=x, y=y)
        if panel["kind"] == "line":
            return panels.LinePlot(title=panel["title"], x=panel["x"], y=[panel["y"]])
        return panels.WeavePanelSummaryTable(table_name=panel["table"])

    sections = [
        workspaces.Section(name=section["name"], panels=[made(panel) for panel in section["panels"]], is_open=True)
        for section in document["sections"]
    ]
    if document["url"]:
        saved = workspaces.Workspace.from_url(document["url"])
        saved.sections = sections
        return saved
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=document["name"],
        sections=sections,
        runset_settings=workspaces.RunsetSettings(filters=[workspaces.Metric("Group") == document["group"]]),
    )


def save(document: dict[str, Any], api: wandb.Api, entity: str | None, project: str) -> str:
    """Save the workspace; its address. Raises whatever the client does where no server takes it."""
    saved = workspace(document, entity or api.default_entity, project).save()
    return str(saved.url)


def write(study_dir: Path) -> tuple[Path, dict[str, Any]]:
    """Write the specification beside the report; an earlier one's address is kept. ValueError for no study."""
    study = read_study(study_dir)
    path, document = study.path / "report" / "dashboard.json", specification(study.name)
    if path.exists():
        try:
            document["url"] = json.loads(path.read_bytes())["url"]
        except (ValueError, KeyError, TypeError):
            document["url"] = None
    path.parent.mkdir(exist_ok=True)
    write_text(path, json.dumps(document, indent=2) + "\n")
    return path, document


def main() -> int:
    """Write one study's dashboard and save it. Environment variables are read and set here, for the W&B client."""
    parser = argparse.ArgumentParser(prog="python -m harness.publish.dashboard", description=main.__doc__)
    parser.add_argument("study_dir", type=Path, metavar="STUDY_DIR", help="a study's folder")
    study_dir = parser.parse_args().study_dir.resolve()
    begin(study_dir)

    def end(path: Path, why: str, code: int) -> NoReturn:
        print(f"{path}\nnot saved in W&B: {why}", flush=True)  # noqa: T201
        os._exit(code)

    try:
        path, document = write(study_dir)
    except (OSError, ValueError) as error:
        said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        print(f"harness: {said}", file=sys.stderr)  # noqa: T201
        return 2
    if importlib.util.find_spec("wandb_workspaces") is None:
        end(path, EXTRA, 0)
    if (mode := os.environ.get("WANDB_MODE")) in NOT_ONLINE:
        end(path, f"WANDB_MODE={mode} asks no server", 0)
    timer = threading.Timer(END_S, end, [path, f"the server did not answer within {END_S:.0f} s", 1])
    timer.daemon = True
    timer.start()
    try:
        try:
            api = wandb.Api()
        except wandb.errors.UsageError as error:  # there is no key, and nobody was asked
            end(path, sentence(error), 0)
        document["url"] = save(document, api, os.environ.get("WANDB_ENTITY"), os.environ["WANDB_PROJECT"])
    # The client fails in many ways when its server does; the specification is written.
    except Exception as error:
        end(path, sentence(error), 1)
    write_text(path, json.dumps(document, indent=2) + "\n")
    print(f"{path}\nsaved in W&B: {document['url']}", flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    leave(main())
