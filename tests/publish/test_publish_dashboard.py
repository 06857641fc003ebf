"""A study's dashboard: written where it cannot be saved, and saved as one workspace where it can."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import run_dirs
from mirrors import environment, one_point
from study_command import wait_for
from wandb_stub import KEY, closed_url, serving

from harness.analysis.read import read_point
from harness.publish.dashboard import BY_GPUS, specification
from harness.publish.history import History, summary

AS_IF_NOT_INSTALLED = (
    "import sys; sys.modules['wandb_workspaces'] = None; from harness.publish.dashboard import main; sys.exit(main())"
)


def dashboard(study: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """The verb as a person calls it."""
    return called(study, "-m", "harness.cli", "publish", "dashboard", **extra)


def called(study: Path, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
    variables = environment(study / "points" / "x", **extra)
    return subprocess.run(
        [sys.executable, *words, str(study)], env=variables, capture_output=True, text=True, timeout=100
    )


def written(study: Path) -> dict:
    document = json.loads((study / "report" / "dashboard.json").read_text())
    run_dirs.validator().validate(document)
    return document


def test_without_the_package_it_is_written(tmp_path: Path):
    study = one_point(tmp_path).parents[1]
    with serving() as stub:
        ended = called(study, "-c", AS_IF_NOT_INSTALLED, **stub.environment)
        assert stub.operations == []
    assert ended.returncode == 0, ended.stderr
    path, why = ended.stdout.splitlines()
    assert path == str(study / "report" / "dashboard.json")
    assert "scaling-harness[workspaces]" in why
    assert written(study)["url"] is None


def test_its_panels_show_what_the_runs_have(tmp_path: Path):
    point = read_point(one_point(tmp_path))
    columns = summary(point)
    assert {"gpus", *BY_GPUS} - {"mfu"} <= columns.keys()
    history = History()
    history.launches = {0: point.launches[0]}
    keys = {key for record in point.events[0] for row in history.rows(0, record) for key in row}
    lines = [panel for panel in specification("made")["sections"][1]["panels"] if not panel["y"].startswith("comm/")]
    assert {key for panel in lines for key in (panel["x"], panel["y"])} <= keys


def test_without_a_server_it_is_written_and_says_why_it_is_not_saved(tmp_path: Path):
    study = one_point(tmp_path).parents[1]
    ended = dashboard(study, WANDB_BASE_URL=closed_url(), WANDB_API_KEY=KEY)
    assert ended.returncode == 1
    path, why = ended.stdout.splitlines()
    assert path == str(study / "report" / "dashboard.json")
    assert why.startswith("not saved in W&B: ")
    assert written(study) == {**specification("made"), "time": written(study)["time"]}


@pytest.mark.parametrize(("variables", "why"), [({"WANDB_MODE": "offline"}, "WANDB_MODE=offline"), ({}, "No API key")])
def test_where_no_server_is_asked_nothing_has_failed(tmp_path: Path, variables: dict[str, str], why: str):
    study = one_point(tmp_path).parents[1]
    with serving() as stub:
        key = {"WANDB_API_KEY": KEY} if variables else {}
        ended = dashboard(study, WANDB_BASE_URL=stub.url, **key, **variables)
        assert stub.operations == []
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.splitlines()[1].startswith(f"not saved in W&B: {why}")
    assert written(study)["url"] is None


def test_where_it_cannot_be_written_the_file_is_named(tmp_path: Path):
    study = one_point(tmp_path).parents[1]
    (study / "report").write_text("in the way")
    ended = dashboard(study, WANDB_MODE="offline")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"harness: {study / 'report'}: File exists\n"


def test_ctrl_c_ends_it_without_a_word(tmp_path: Path):
    study = one_point(tmp_path).parents[1]
    command = [sys.executable, "-m", "harness.cli", "publish", "dashboard", str(study)]
    variables = environment(study / "points" / "x", WANDB_MODE="offline")
    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, process_group=0) as process:
        [client] = wait_for(psutil.Process(process.pid).children)
        wait_for(lambda: "harness.publish.dashboard" in client.cmdline() and client.num_threads() > 1)
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate()[1] == b""
    assert process.returncode == 130
    wait_for(lambda: not client.is_running() or client.status() == psutil.STATUS_ZOMBIE)


def test_it_is_saved_once_and_then_brought_up_to_date(tmp_path: Path):
    study = one_point(tmp_path).parents[1]
    with serving() as stub:
        for _ in range(2):
            ended = dashboard(study, **stub.environment, WANDB_PROJECT="scales")
            assert ended.returncode == 0, ended.stdout + ended.stderr
        [view] = stub.views.values()
    assert (view["entityName"], view["projectName"], view["displayName"]) == ("me", "scales", "Scaling study made")
    assert written(study)["url"] in ended.stdout
    spec = json.loads(view["spec"])
    sections = spec["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections][:3] == [part["name"] for part in written(study)["sections"]]
    assert [len(section["panels"]) for section in sections][:3] == [6, 6, 2]
    assert '"made"' in json.dumps(spec["section"]["runSets"])
