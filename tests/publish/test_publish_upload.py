"""`harness publish wandb`: what was offline goes up, what is there stays."""

import json
import shutil
import subprocess

import pytest
import wandb_offline
from mirrors import environment, finished, mirror_state, one_point, second_attempt, start
from wandb_stub import KEY, closed_url, serving

from harness.analysis.read import read_point
from harness.heartbeat import holder
from harness.publish import upload
from harness.publish.client import run_id
from harness.publish.history import AXIS
from harness.publish.reach import unreachable
from harness.publish.upload import publish_each
from harness.study import lease, overview


@pytest.fixture
def account(monkeypatch):
    """Sets the environment that `publish_each` hands to its mirrors."""

    def use(run_dir, **extra):
        for name, value in environment(run_dir, **extra).items():
            monkeypatch.setenv(name, value)

    return use


def points_of(study):
    """What became of the points; the report comes last."""
    *points, report = publish_each(study)
    assert report.slug == "report"
    return points, report


def test_what_was_offline_is_published_once(tmp_path, account):
    run_dir = one_point(tmp_path)
    offline = finished(start(run_dir), run_dir)
    with serving() as stub:
        account(run_dir, **stub.environment)
        (outcome,), report = points_of(run_dir.parents[1])
        assert (outcome.result, report.result) == ("published", "published"), (outcome.line, report.line)
        state = mirror_state(run_dir)
        assert (state["state"], state["mode_used"], state["run_id"]) == ("done", "online", offline["run_id"])
        received = stub.runs[offline["run_id"]]
        rows = wandb_offline.history(run_dir / offline["offline_dir"])
        values = [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]
        assert values == [
            {key: value for key, value in row.items() if not key.startswith("_")} for row in received.history
        ]
        stub.operations.clear()
        (outcome,), report = points_of(run_dir.parents[1])
        assert (outcome.result, report.result, stub.operations) == ("skipped", "skipped", [])
        assert "already published" in outcome.line
        assert "already published" in report.line

        # A later attempt, without a mirror, makes the point incomplete on the server again.
        second_attempt(run_dir)
        (outcome,), report = points_of(run_dir.parents[1])
        assert outcome.result == "published", outcome.line
        assert [row[AXIS] for row in received.history if "train/loss" in row] == [*range(1, 13), *range(8, 13)]


def test_a_server_that_is_away_ends_it_with_one_sentence(tmp_path, account, monkeypatch):
    run_dirs = [one_point(tmp_path) for _ in range(3)]
    study = run_dirs[0].parents[1]
    before = sorted(study.rglob("*"))
    account(run_dirs[0], WANDB_BASE_URL=closed_url(), WANDB_API_KEY=KEY)
    asked = []
    monkeypatch.setattr(upload, "unreachable", lambda: asked.append(1) or unreachable())
    [outcome] = publish_each(study)
    assert len(asked) == 1, "however many runs there are"
    assert outcome.result == "failed"
    assert outcome.line.startswith("W&B takes nothing now, and 4 runs are left for another `harness publish wandb`: ")
    assert [path for path in sorted(study.rglob("*")) if path not in before and path.name != "home"] == []


def test_without_a_key_no_server_is_tried(tmp_path, account):
    run_dir = one_point(tmp_path)
    offline = finished(start(run_dir), run_dir)
    with serving() as stub:
        account(run_dir, WANDB_BASE_URL=stub.url)
        [outcome] = publish_each(run_dir.parents[1])
        assert (outcome.result, stub.operations) == ("failed", [])
    assert outcome.line.startswith(
        "W&B takes nothing now, and 2 runs are left for another `harness publish wandb`: No API"
    )
    assert mirror_state(run_dir) == offline


@pytest.mark.slow
def test_a_run_that_is_refused_leaves_no_folder_and_the_others_are_sent(tmp_path, account):
    run_dirs = [one_point(tmp_path) for _ in range(2)]
    with serving() as stub:
        stub.deleted.add(run_id(read_point(run_dirs[0])))
        account(run_dirs[0], **stub.environment)
        (refused, sent), report = points_of(run_dirs[0].parents[1])
    assert (refused.result, sent.result, report.result) == ("failed", "published", "published"), refused.line
    assert list((run_dirs[0] / "wandb").glob("run-*")) == []


def test_points_without_records_and_held_points_are_skipped(tmp_path):
    run_dir = one_point(tmp_path, status="running")
    (run_dir / "lease.json").write_text("{}")
    (outcome,), report = points_of(run_dir.parents[1])
    assert (outcome.result, "held" in outcome.line) == ("skipped", True)
    assert (report.result, "held" in report.line) == ("skipped", True)
    shutil.rmtree(run_dir / "attempts")
    (outcome,), report = points_of(run_dir.parents[1])
    assert (outcome.result, "no records" in outcome.line) == ("skipped", True)


def test_a_point_whose_controller_was_killed_is_held_no_more(tmp_path):
    run_dir = one_point(tmp_path, status="running")
    shutil.rmtree(run_dir / "attempts")
    held = lease.acquire(run_dir)
    assert "held" in points_of(run_dir.parents[1])[1].line
    ended = subprocess.Popen(["true"])
    ended.wait()
    held.stop()
    held.path.write_text(json.dumps({**lease.ourselves(), "pid": ended.pid}))
    assert overview.entry(run_dir, set())["lost"]
    assert points_of(run_dir.parents[1])[1].line == "report: no point has records"


def test_a_lease_that_is_let_go_while_it_is_looked_at_holds_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.heartbeat.newest", lambda run_dir: run_dir / "lease.json")
    assert holder(tmp_path) is None


def test_no_study_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="nothing"):
        next(publish_each(tmp_path / "nothing"))
