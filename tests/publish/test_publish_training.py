"""Training does not wait for W&B: whole runs, whose processes end when they would have ended without a server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import wandb_stub

HARNESS = str(Path(sys.executable).with_name("harness"))
POINT = ["seq_len=64", "local_batch=2", "steps=20", "gpus_per_node=2", "study=mirrored"]
pytestmark = pytest.mark.timeout(400)


def run(root: Path, mode: str, url: str = "") -> tuple[float, dict]:
    """Seconds from the first process's start to the last one's end, and the mirror's state."""
    variables = {**os.environ, "WANDB_API_KEY": wandb_stub.KEY, "WANDB_BASE_URL": url}
    arguments = [HARNESS, "run", *POINT, f"record.wandb={mode}", "rerun=true", f"root={root}"]
    done = subprocess.run(arguments, env=variables, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    (point,) = [path for path in (root / "mirrored" / "points").iterdir() if "~" not in path.name]
    assert json.loads((point / "status.json").read_text())["status"] == "ok"
    launch = json.loads((point / "attempts" / "0" / "launch.json").read_text())
    return launch["end"] - launch["start"], json.loads((point / "mirror.json").read_text())


@pytest.fixture(scope="module")
def offline_s(tmp_path_factory):
    return max(run(tmp_path_factory.mktemp("offline"), "offline")[0] for _ in range(2))


def ever_as_fast(offline_s, once, root, mirrors):
    """Whether one of three runs takes no longer than without a server: a busy machine only adds."""
    for number in range(3):
        seconds, mirror = once(root / str(number))
        mirrors.append(mirror)
        if seconds <= offline_s + 2:
            return True
    return False


@pytest.mark.slow
def test_with_the_server_down(offline_s, tmp_path):
    url, mirrors = wandb_stub.closed_url(), []
    assert ever_as_fast(offline_s, lambda root: run(root, "online", url), tmp_path, mirrors)
    assert {mirror["mode_used"] for mirror in mirrors} == {"offline"}
    assert all(mirror["reason"] for mirror in mirrors)


@pytest.mark.slow
def test_with_a_server_that_never_answers(offline_s, tmp_path):
    with wandb_stub.serving() as stub:
        stub.silent = True
        assert ever_as_fast(offline_s, lambda root: run(root, "online", stub.url), tmp_path, [])


def test_a_whole_online_run_is_received(tmp_path):
    with wandb_stub.serving() as stub:
        _, mirror = run(tmp_path, "online", stub.url)
        received = stub.runs[mirror["run_id"]]
        assert len(stub.runs) == 2, "the point's and its study's"
    keys = {key for row in received.history for key in row}
    assert {"perf/tokens_per_s", "comm/all_reduce_s", "goodput/fraction", "train/loss"} <= keys
