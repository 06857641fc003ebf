"""The mirror without a server: what it writes, and when it ends."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import run_dirs
import wandb_offline
from mirrors import (
    finished,
    mirror_state,
    one_point,
    second_attempt,
    set_status,
    start,
    start_orphan,
    until,
)
from wandb_stub import KEY

from harness.publish.history import AXIS
from harness.publish.mirror import Mirror

STEP_KEYS = {
    "train/step": "step",
    "perf/step_s": "duration_s",
    "train/loss": "loss",
    "train/grad_norm": "grad_norm",
    "train/lr": "lr",
    "memory/peak_bytes": "peak_memory_bytes",
}


def events(run_dir: Path, attempt: int = 0) -> list[dict]:
    lines = (run_dir / "attempts" / str(attempt) / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def offline_dir(run_dir: Path) -> Path:
    return run_dir / mirror_state(run_dir)["offline_dir"]


def test_an_offline_run_reads_back_equal_to_the_records(tmp_path):
    run_dir = one_point(tmp_path)
    state = finished(start(run_dir), run_dir)
    assert (state["state"], state["mode"], state["mode_used"], state["reason"]) == ("done", "offline", "offline", None)
    records = events(run_dir)
    assert state["records"] == len(records)

    rows = wandb_offline.history(offline_dir(run_dir))
    steps = [record for record in records if record["kind"] == "step"]
    logged = [row for row in rows if "perf/step_s" in row]
    assert len(logged) == len(steps)
    for row, record in zip(logged, steps, strict=True):
        assert {key: row[key] for key in STEP_KEYS} == {key: record[name] for key, name in STEP_KEYS.items()}
        assert row["_timestamp"] == record["time"]
        assert row["perf/tokens_per_s"] == pytest.approx(record["tokens"] / record["duration_s"], rel=1e-12)
    windows = [record for record in records if record["kind"] == "collectives"]
    sampled = [row for row in rows if "comm/all_reduce_s" in row]
    assert [(row[AXIS], row["comm/all_reduce_s"]) for row in sampled] == [
        (record["step"], record["seconds"]["all_reduce"]) for record in windows
    ]
    assert all(row["comm/all_reduce_busbw"] == 2.1e9 for row in sampled)
    assert not any("comm/all_gather_s" in row for row in rows)
    assert [row["_step"] for row in rows] == list(range(len(rows)))
    assert wandb_offline.finished(offline_dir(run_dir))


def test_config_group_and_summary(tmp_path):
    run_dir = one_point(tmp_path)
    state = finished(start(run_dir), run_dir)
    run = wandb_offline.run(offline_dir(run_dir))
    assert (run.run_id, run.run_group, run.job_type, run.display_name) == (
        state["run_id"],
        "made",
        "point",
        run_dir.name,
    )
    assert set(run.tags) == {"tiny", "ddp", "default", "fp32", "2gpu"}
    config = wandb_offline.config(offline_dir(run_dir))
    assert config["model"]["dim"] == 128
    assert config["provenance"]["git"]["sha"] == "0123456789abcdef"
    summary = wandb_offline.summary(offline_dir(run_dir))
    assert summary["status"] == "ok"
    assert summary["tokens_per_s"] == pytest.approx(2560.0)
    assert summary["all_reduce_s_p50"] == 0.002
    assert {"step_s_p50", "step_s_p95", "goodput_tokens_per_s", "goodput_fraction", "loss_last"} <= set(summary)
    assert summary["peak_memory_bytes"] == 200 * run_dirs.MIB
    assert "all_gather_s_p50" not in summary


def test_null_values_are_left_out(tmp_path):
    run_dir = one_point(tmp_path, nulls=True)
    finished(start(run_dir), run_dir)
    rows = wandb_offline.history(offline_dir(run_dir))
    assert rows
    assert not any({"train/loss", "memory/peak_bytes"} & set(row) for row in rows)


def test_fed_line_by_line_with_a_torn_line(tmp_path):
    run_dir = one_point(tmp_path, status="running")
    records = run_dir / "attempts" / "0" / "events.jsonl"
    lines = records.read_bytes().splitlines(keepends=True)
    records.unlink()
    process = start(run_dir)
    until(lambda: mirror_state(run_dir).get("mode_used"))
    with records.open("ab", buffering=0) as file:
        file.write(b"".join([*lines[:6], lines[6][:20]]))
        until(lambda: mirror_state(run_dir)["records"] == 6)
        file.write(lines[6][20:])
        for line in lines[7:]:
            file.write(line)
        until(lambda: mirror_state(run_dir)["records"] == len(lines))
    assert process.poll() is None
    set_status(run_dir, "ok")
    finished(process, run_dir)
    steps = [json.loads(line) for line in lines if b'"kind": "step"' in line]
    logged = [row for row in wandb_offline.history(offline_dir(run_dir)) if "train/loss" in row]
    assert [row["train/loss"] for row in logged] == [record["loss"] for record in steps]


def test_a_torn_last_line_is_named(tmp_path):
    run_dir = one_point(tmp_path, status="failed")
    with (run_dir / "attempts" / "0" / "events.jsonl").open("a") as file:
        file.write('{"schema": 1, "ki')
    state = finished(start(run_dir), run_dir)
    assert state["state"] == "done"
    assert "torn last line" in state["reason"]


def test_sigterm_finishes_now(tmp_path):
    run_dir = one_point(tmp_path, status="running")
    process = start(run_dir)
    until(lambda: mirror_state(run_dir).get("records"))
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    state = finished(process, run_dir)
    assert time.monotonic() - begun < 6
    assert (state["state"], state["reason"]) == ("done", "ended while the point was running")
    assert wandb_offline.finished(offline_dir(run_dir))


def test_a_second_attempt_goes_to_the_same_run(tmp_path):
    run_dir = one_point(tmp_path, status="failed")
    first = finished(start(run_dir), run_dir)
    second_attempt(run_dir)
    second = finished(start(run_dir), run_dir)
    assert second["run_id"] == first["run_id"]
    steps = [r["step"] for attempt in (0, 1) for r in events(run_dir, attempt) if r["kind"] == "step"]
    rows = wandb_offline.history(offline_dir(run_dir))
    assert [row[AXIS] for row in rows if "train/loss" in row] == steps


def test_a_deserted_point_ends_its_mirror(tmp_path):
    run_dir = one_point(tmp_path, status="running")
    lease = run_dir / "lease.json"
    lease.write_text("{}")
    pid = start_orphan(run_dir)
    until(lambda: mirror_state(run_dir).get("records"))
    time.sleep(1.5)
    os.kill(pid, 0)
    os.utime(lease, (time.time() - 70, time.time() - 70))
    until(lambda: mirror_state(run_dir)["state"] == "done")
    assert mirror_state(run_dir)["reason"] == "ended while the point was running"


def test_a_mirror_waits_for_a_final_status_and_for_each_of_them(tmp_path):
    run_dir = one_point(tmp_path)
    mirror = Mirror(run_dir, publish=False)
    for status in run_dirs.validator().schema["$defs"]["status"]["properties"]["status"]["enum"]:
        set_status(run_dir, status)
        assert mirror._over() == (status not in ("pending", "queued", "running"))


def test_another_mirror_takes_its_place(tmp_path):
    run_dir = one_point(tmp_path, status="running")
    earlier = start(run_dir)
    until(lambda: mirror_state(run_dir).get("records"))
    set_status(run_dir, "running")
    later = start(run_dir)
    until(lambda: mirror_state(run_dir)["pid"] == later.pid)
    earlier.wait(10)
    set_status(run_dir, "ok")
    state = finished(later, run_dir)
    assert (state["pid"], state["state"]) == (later.pid, "done")


def test_a_run_directory_without_configuration_is_a_sentence(tmp_path):
    run_dir = tmp_path / "points" / "empty"
    run_dir.mkdir(parents=True)
    process = start(run_dir)
    printed, _ = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "config.yaml" in printed
    assert "Traceback" not in printed


def test_no_secret_is_written(tmp_path):
    run_dir = one_point(tmp_path)
    secret = "correct-horse-battery"
    finished(start(run_dir, WANDB_API_KEY=KEY, MY_SECRET_TOKEN=secret), run_dir)
    written = [path for path in run_dir.rglob("*") if path.is_file()]
    assert written
    for path in written:
        content = path.read_bytes()
        assert KEY.encode() not in content, path
        assert secret.encode() not in content, path


def test_records_that_cannot_be_read_end_the_mirror_with_a_reason(tmp_path):
    run_dir = one_point(tmp_path, status="running")
    records = run_dir / "attempts" / "0" / "events.jsonl"
    records.unlink()
    process = start(run_dir)
    until(lambda: mirror_state(run_dir).get("mode_used"))
    records.mkdir()
    state = finished(process, run_dir, code=1)
    assert state["state"] == "failed"
    assert state["reason"].startswith("the records could not be followed to their end: [Errno 21] Is a directory")
