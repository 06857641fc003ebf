"""A study's report run: what it holds offline and on a server, and that it is one run however often it is sent."""

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import run_dirs
import wandb_offline
from mirrors import environment, mirror_state
from wandb_stub import serving

from harness.publish.report_run import ReportRun, run_id
from harness.publish.tables import tables
from harness.report import report

CHARTS = {"efficiency_by_gpus", "efficiency_largest", "tokens_per_s_by_gpus", "tokens_per_s_largest"}


def send(study: Path, *words: str, code: int = 0, **extra: str) -> dict[str, Any]:
    """A whole report-run process; the state that it leaves."""
    command = [sys.executable, "-m", "harness.publish.report_run", str(study), *words]
    # the folder that `environment` puts its home beside is a point's
    variables = environment(study / "points" / "x", **extra)
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
    assert ended.returncode == code, ended.stdout + ended.stderr
    return mirror_state(study)


def table_rows(content: bytes) -> list[dict[str, Any]]:
    table = json.loads(content)
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def assert_points_are(rows: list[dict[str, Any]], study: Path) -> None:
    """The rows of a table are those of points.csv, to the last bit of every number."""
    csv = pl.read_csv(study / "report" / "points.csv", infer_schema_length=None)
    assert list(rows[0]) == csv.columns
    found = pl.DataFrame(rows, schema=csv.schema, infer_schema_length=None)
    assert found.equals(csv)
    assert found["tokens_per_s"].null_count() == 0


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_dirs.demo_study(tmp_path_factory.mktemp("report-run"))


@pytest.fixture(scope="module")
def offline(study: Path) -> dict[str, Any]:
    return send(study)


def test_points_read_back_identically_from_the_offline_run(study: Path, offline: dict[str, Any]):
    assert (offline["state"], offline["mode_used"], offline["reason"], offline["records"]) == (
        "done",
        "offline",
        None,
        4,
    )
    folder = study / offline["offline_dir"]
    run = wandb_offline.run(folder)
    assert (run.run_id, run.run_group, run.job_type, run.display_name) == (run_id(study), "made", "report", "made")
    assert "90.0 %" in run.notes
    [row] = wandb_offline.history(folder)
    media = {key: folder / "files" / row[f"{key}/path"] for key in ("points", "curves", "page")}
    assert_points_are(table_rows(media["points"].read_bytes()), study)
    curves = table_rows(media["curves"].read_bytes())
    assert [(one["curve_name"], one["gpus"]) for one in curves] == [
        ("tiny-ddp", 1),
        ("tiny-ddp", 2),
        ("tiny-fsdp", 1),
        ("tiny-fsdp", 2),
    ]
    assert curves[1]["efficiency_lo"] < curves[1]["efficiency"] < curves[1]["efficiency_hi"]
    assert media["page"].read_text() == (study / "report" / "index.html").read_text()
    assert wandb_offline.summary(folder)["status/ok"] == 4
    assert {name.removesuffix("_table") for name in charts(folder)} == CHARTS
    assert wandb_offline.finished(folder)


def charts(folder: Path) -> set[str]:
    """The names of the tables behind an offline run's charts."""
    return {key.split("/")[0] for row in wandb_offline.history(folder) for key in row if "_table/" in key}


def test_a_server_receives_the_same_run_once(study: Path, offline: dict[str, Any]):
    with serving() as stub:
        state = send(study, "--publish", **stub.environment)
        assert (state["state"], state["mode_used"], state["run_id"]) == ("done", "online", offline["run_id"])
        run = stub.runs[state["run_id"]]
        assert (run.fields["jobType"], run.fields["groupName"], run.exit_code) == ("report", "made", 0)
        assert_points_are(table_rows(run.files[run.summary["points"]["path"]]), study)
        assert run.summary["curves"]["nrows"] == 4
        assert set(run.config["_wandb"]["value"]["visualize"]) == CHARTS
        [files] = [made for made in stub.artifacts.values() if made.fields["artifactTypeName"] == "study"]
        assert files.committed
        assert files.files["points.csv"] == (study / "report" / "points.csv").read_bytes()
        (study.parent / "received.tar.gz").write_bytes(files.files["made.tar.gz"])
        assert_the_same_points(study.parent / "received.tar.gz", study)

        # what has changed is sent to the same run, and is what it then shows
        config = run_dirs.make_config("ddp", 4)
        run_dirs.add_point(study, config, [run_dirs.make_attempt(config, [0.12] * 29)])
        again = send(study, "--publish", **stub.environment)
        assert set(stub.runs) == {state["run_id"]} == {again["run_id"]}
        assert again["sent"] != state["sent"]
        assert run.summary["points"]["nrows"] == 5
        assert len(run.history) == 2


def assert_the_same_points(bundle: Path, study: Path) -> None:
    from harness.publish.bundle import report_of

    opened = Path(report_of(bundle)["paths"]["points"])
    assert opened.read_bytes() == (study / "report" / "points.csv").read_bytes()


def test_without_a_server_it_is_offline(tmp_path: Path):
    study = run_dirs.demo_study(tmp_path)
    with serving() as stub:
        stub.reject = True
        state = send(study, "--mode=online", **stub.environment)
    assert (state["state"], state["mode"], state["mode_used"]) == ("done", "online", "offline")
    assert state["reason"].startswith("offline, because no online run could be opened: ")
    assert wandb_offline.finished(study / state["offline_dir"])


def test_a_server_that_takes_no_files_has_not_taken_the_report(tmp_path: Path):
    study = run_dirs.demo_study(tmp_path)
    with serving() as stub:
        stub.crowded = True
        state = send(study, "--publish", code=1, **stub.environment)
    assert state["state"] == "failed"
    assert "403" in state["reason"]


def test_a_report_for_which_there_is_no_room_ends_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("harness.publish.report_run.bundle", full)
    monkeypatch.setattr("os._exit", lambda code: sys.exit(code))
    study = run_dirs.demo_study(tmp_path)
    sent = ReportRun(study, "offline", publish=False)
    with pytest.raises(SystemExit) as ended:
        sent.run()
    state = mirror_state(study)
    assert (ended.value.code, state["state"]) == (1, "failed")
    assert "No space left on device; `harness publish wandb`" in state["reason"]
    assert state["reason"] in capfd.readouterr().err
    assert not Path(sent.drafts.name).exists()


def test_its_id_stays_when_the_study_grows_or_runs_again_and_differs_elsewhere(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    study, other = run_dirs.demo_study(tmp_path / "a"), run_dirs.demo_study(tmp_path / "b")
    first = run_id(study)
    [point, *_] = sorted((study / "points").iterdir())
    point.rename(point.with_name(f"{point.name}~1"))
    later = run_dirs.add_point(study, run_dirs.make_config("ddp", 8))
    document = json.loads((later / "provenance.json").read_text())
    (later / "provenance.json").write_text(json.dumps(document | {"time": run_dirs.EPOCH + 1}))
    assert run_id(study) == first
    for path in other.glob("points/*/provenance.json"):
        path.write_text(json.dumps(document | {"time": run_dirs.EPOCH + 2}))
    assert run_id(other) != first
    assert len(first) <= 64


def test_every_list_of_rows_is_a_table_and_intervals_are_columns(tmp_path: Path):
    document = report(run_dirs.demo_study(tmp_path))
    document["breakdown"] = [
        {"curve": "a", "gpus": 2, "wait_s": {"value": 0.1, "lo": 0.05, "hi": 0.2, "kind": "repeats"}}
    ]
    document["comparisons"] = []
    made = tables(document)
    assert made["breakdown"] == [
        {"curve": "a", "gpus": 2, "wait_s": 0.1, "wait_s_lo": 0.05, "wait_s_hi": 0.2, "wait_s_interval": "repeats"}
    ]
    assert "comparisons" not in made
    assert made["points"] == document["points"]
