"""The mirror and a server: a whole run received, and servers that are away, closed to us, or silent."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb_offline
from mirrors import finished, mirror_state, one_point, second_attempt, set_status, start, until
from wandb_stub import KEY, closed_url, serving

from harness.analysis.goodput import ledger
from harness.analysis.read import read_point
from harness.publish.history import AXIS


@pytest.fixture(scope="module", autouse=True)
def without_a_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[subprocess.Popen, Path]]]:
    """Mirrors whose servers are away, mute or fall silent; beside the tests each waits the 20 s of the client."""
    root = tmp_path_factory.mktemp("silent")
    away, mute, late = (
        one_point(root, "online", status=status, study=study)
        for study, status in (("away", "ok"), ("mute", "ok"), ("late", "running"))
    )
    with serving() as silent, serving() as falling:
        silent.silent = True
        lasting = start(late, **falling.environment)
        until(lambda: mirror_state(late).get("records"))
        falling.silent = True
        set_status(late, "ok")
        yield {
            "away": (start(away, WANDB_BASE_URL=closed_url(), WANDB_API_KEY=KEY), away),
            "mute": (start(mute, **silent.environment), mute),
            "late": (lasting, late),
        }


def test_a_whole_online_run_is_received(tmp_path):
    run_dir = one_point(tmp_path, "online")
    with serving() as stub:
        state = finished(start(run_dir, **stub.environment), run_dir)
    assert (state["state"], state["mode_used"], state["reason"], state["offline_dir"]) == ("done", "online", None, None)
    assert list(stub.runs) == [state["run_id"]]
    run = stub.runs[state["run_id"]]
    point = read_point(run_dir)
    records = point.events[0]

    losses = {row[AXIS]: row["train/loss"] for row in run.history if "train/loss" in row}
    assert losses == {r["step"]: pytest.approx(r["loss"]) for r in records if r["kind"] == "step"}
    rates = {row[AXIS]: row["perf/tokens_per_s"] for row in run.history if "perf/tokens_per_s" in row}
    assert rates == {r["step"]: pytest.approx(r["tokens"] / r["duration_s"]) for r in records if r["kind"] == "step"}
    times = {row[AXIS]: row["comm/all_reduce_s"] for row in run.history if "comm/all_reduce_s" in row}
    assert times == {4: 0.002, 5: 0.002}
    for row in run.history:
        if "goodput/fraction" in row:
            position = next(i for i, r in enumerate(records) if r["kind"] == "step" and r["step"] == row[AXIS])
            so_far = ledger([point.launches[0] | {"end": None}], {0: records[: position + 1]})
            assert row["goodput/fraction"] == pytest.approx(so_far.goodput_fraction)
            assert row["goodput/tokens_per_s"] == pytest.approx(so_far.goodput_tokens_per_s)
    assert sum("goodput/fraction" in row for row in run.history) == 12

    assert run.fields["groupName"] == "made"
    assert run.fields["jobType"] == "point"
    assert run.fields["displayName"] == run_dir.name
    assert run.fields["project"] == "scaling-harness"
    assert set(run.fields["tags"]) == {"tiny", "ddp", "default", "fp32", "2gpu"}
    assert run.config["model"]["value"]["layers"] == 4
    assert run.config["provenance"]["value"]["git"]["sha"] == "0123456789abcdef"
    assert run.summary["status"] == "ok"
    assert run.summary["tokens_per_s"] == pytest.approx(2560.0)
    assert run.exit_code == 0
    assert not any("requirements" in name or "metadata" in name for name in run.files)


def test_every_key_has_its_axis(tmp_path):
    run_dir = one_point(tmp_path, "online")
    with serving() as stub:
        state = finished(start(run_dir, **stub.environment), run_dir)
    metrics = stub.runs[state["run_id"]].config["_wandb"]["value"]["m"]
    exact = {metric["1"] for metric in metrics if "1" in metric}
    # Field 5 is the place of a metric's axis in this list, from 1; field 2 its glob.
    axes = {metric["2"]: metrics[metric["5"] - 1]["1"] for metric in metrics if "2" in metric}
    assert exact == {AXIS}
    assert axes == dict.fromkeys(("perf/*", "comm/*", "goodput/*", "memory/*", "train/*"), AXIS)


def test_project_and_entity_are_honoured(tmp_path):
    run_dir = one_point(tmp_path, "online")
    with serving() as stub:
        state = finished(start(run_dir, WANDB_PROJECT="scales", WANDB_ENTITY="lab", **stub.environment), run_dir)
    fields = stub.runs[state["run_id"]].fields
    assert (fields["project"], fields["entity"]) == ("scales", "lab")


def test_a_second_attempt_resumes_the_run(tmp_path):
    run_dir = one_point(tmp_path, "online", status="failed")
    with serving() as stub:
        first = finished(start(run_dir, **stub.environment), run_dir)
        before = list(stub.runs[first["run_id"]].history)
        second_attempt(run_dir)
        second = finished(start(run_dir, **stub.environment), run_dir)
    assert list(stub.runs) == [first["run_id"]] == [second["run_id"]]
    run = stub.runs[first["run_id"]]
    assert run.history[: len(before)] == before
    assert [row[AXIS] for row in run.history if "train/loss" in row] == [*range(1, 13), *range(8, 13)]
    assert [row["_step"] for row in run.history] == list(range(len(run.history)))
    assert (run.summary["status"], run.summary["attempts"]) == ("ok", 2)


def test_auto_without_a_key_is_offline_and_with_one_online(tmp_path):
    run_dir = one_point(tmp_path, "auto")
    with serving() as stub:
        state = finished(start(run_dir, WANDB_BASE_URL=stub.url), run_dir)
        assert (state["state"], state["mode"], state["mode_used"]) == ("done", "auto", "offline")
        assert "key" in state["reason"]
        assert not stub.operations
        netrc = run_dir.parents[1] / "home" / ".netrc"
        netrc.write_text(f"machine 127.0.0.1:{stub.server_port} login user password {KEY}\n")
        netrc.chmod(0o600)
        assert finished(start(run_dir, WANDB_BASE_URL=stub.url), run_dir)["mode_used"] == "online"


def test_a_rejected_key_falls_back_to_an_offline_run(tmp_path):
    run_dir = one_point(tmp_path, "online")
    with serving() as stub:
        stub.reject = True
        state = finished(start(run_dir, **stub.environment), run_dir)
    whole_and_offline(run_dir, state)


def test_told_to_end_while_a_server_never_answers(tmp_path):
    run_dir = one_point(tmp_path, "online", status="running")
    with serving() as stub:
        stub.silent = True
        process = start(run_dir, **stub.environment)
        until(lambda: mirror_state(run_dir).get("state") == "running")
        until(lambda: client_processes(run_dir))
        time.sleep(1)
        begun = time.monotonic()
        process.terminate()
        state = finished(process, run_dir, code=1)
        assert time.monotonic() - begun < 7
    assert state["state"] == "failed"
    until(lambda: not client_processes(run_dir), within=5)


def test_a_server_that_takes_no_rows(tmp_path):
    run_dir = one_point(tmp_path, "online")
    with serving() as stub:
        stub.full = True
        state = finished(start(run_dir, **stub.environment), run_dir, code=1)
    assert (state["state"], state["mode_used"]) == ("failed", "online")
    assert "403" in state["reason"]


@pytest.mark.parametrize("server", ["away", "mute"])
def test_without_a_server_a_run_is_kept_offline(without_a_server, server):
    process, run_dir = without_a_server[server]
    whole_and_offline(run_dir, finished(process, run_dir, within=40))
    assert waited_s(run_dir) < 40


def test_a_server_that_falls_silent_fails_the_mirror(without_a_server):
    process, run_dir = without_a_server["late"]
    state = finished(process, run_dir, within=40, code=1)
    assert waited_s(run_dir) < 40
    until(lambda: not client_processes(run_dir), within=5)
    assert (state["state"], state["mode_used"]) == ("failed", "online")
    assert "harness publish wandb" in state["reason"]


def waited_s(run_dir: Path) -> float:
    """From when the point was over to a mirror's last words."""
    return (run_dir / "mirror.json").stat().st_mtime - (run_dir / "status.json").stat().st_mtime


def whole_and_offline(run_dir: Path, state: dict) -> None:
    """Nothing was lost, and the state says why it is here."""
    assert (state["state"], state["mode"], state["mode_used"]) == ("done", "online", "offline")
    assert state["reason"].startswith("offline, because no online run could be opened: ")
    assert KEY not in state["reason"]
    rows = wandb_offline.history(run_dir / state["offline_dir"])
    assert sum("train/loss" in row for row in rows) == 12
    for path in run_dir.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def client_processes(run_dir: Path) -> list[str]:
    """The mirror of this run directory and the W&B client's own process, known by the folder that both were given."""
    cache = f"WANDB_CACHE_DIR={run_dir}/".encode()
    found: list[str] = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdecimal() and cache in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
        except OSError:  # gone meanwhile
            continue
    return found


def test_run_ids_differ_by_study_and_by_run_directory(tmp_path):
    from harness.publish.client import run_id

    points = [one_point(tmp_path, study=study) for study in ("a", "b")]
    first, second = (run_id(read_point(path)) for path in points)
    assert first != second
    assert first == run_id(read_point(points[0]))
    assert len(first) <= 64
    (points[0] / "provenance.json").write_text('{"time": 1}')
    assert run_id(read_point(points[0])) != first
