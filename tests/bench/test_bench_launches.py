"""What the recorder is compared with has nothing attached: one real launch of either kind."""

import json

import pytest

from harness.bench import launches, recorder
from harness.study.planning import on_gpus
from harness.study.progress import Progress
from launch.devices import Gpu, Machine, machine
from launch.environment import KEPT_MEMORY, build

SHORT = ("model=tiny", "gpus_per_node=2", "seq_len=64", "local_batch=1", "steps=65")
HOW_TO_END = ("PET_SIGNALS_TO_HANDLE", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT")
OWN = {"PYTHONUNBUFFERED", "OMP_NUM_THREADS", "PYTHONPATH", "HARNESS_POINT", *HOW_TO_END, *KEPT_MEMORY}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


def launched(side: str, folder, monkeypatch):
    monkeypatch.setattr(recorder, "FOLDER", folder)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (planned, *_) = recorder.launches(SHORT, side, 5, machine())
    return planned.point.run_dir, recorder.launched(side, planned, machine(), Progress())


def test_off_has_nothing_attached(folder, monkeypatch):
    monkeypatch.setenv("TORCH_NCCL_ENABLE_TIMING", "1")
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    run_dir, told = launched("off", folder, monkeypatch)
    written = {path.name for path in run_dir.rglob("*") if path.is_file()}
    assert written.isdisjoint({"events.jsonl", "env.json", "launch.json", "mirror.json"})
    assert {"config.yaml", "stamps.json"} <= written
    assert not set(told["variables"]) & set(launches.MEASURING)
    assert 0 < told["outside"] < 1 and 0 < told["whole"] < 1


def test_on_is_a_point_as_any_other(folder, monkeypatch):
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    run_dir, told = launched("on", folder, monkeypatch)
    assert json.loads((run_dir / "status.json").read_text())["status"] == "ok"
    assert json.loads((run_dir / "mirror.json").read_text())["state"] == "done"
    records = [json.loads(line) for line in (run_dir / "attempts" / "0" / "events.jsonl").read_text().splitlines()]
    steps = [record for record in records if record["kind"] == "step"]
    assert sum(record["kind"] == "collectives" for record in records) == 3
    assert "NCCL_DEBUG" in told["variables"]
    # the stopwatch and the recorder saw the same steps
    seconds = json.loads((run_dir / "stamps.json").read_text())["seconds"]
    whole = steps[-1]["start"] + steps[-1]["duration_s"] - steps[0]["start"]
    assert len(seconds) == len(steps)
    assert sum(seconds) == pytest.approx(whole, rel=0.01, abs=0.02)


@pytest.mark.parametrize("gpus", [0, 2])
def test_every_variable_that_measuring_adds_is_known(tmp_path, gpus):
    added = build({}, False, tmp_path, tmp_path, gpus=gpus, calls_per_step=100).added
    assert set(added) - OWN <= set(launches.MEASURING)


def test_a_launch_that_fails_is_named(folder, monkeypatch):
    monkeypatch.setattr(recorder, "FOLDER", folder / "failing")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    pretended = Machine((Gpu("NVIDIA H200", 2**37),) * 2, None, 2, 2**37)
    (planned, *_) = recorder.launches(SHORT, "off", 5, pretended)
    assert on_gpus(planned.point.config, pretended)
    with pytest.raises(RuntimeError, match="failed, rank"):
        recorder.launched("off", planned, pretended, Progress())
