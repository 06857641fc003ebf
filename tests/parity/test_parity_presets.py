"""Every preset of parallelism trains every kind of model as one process does."""

import json
from pathlib import Path

import pytest
from study_command import Command

from harness.study.conf import options

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

EIGHT = {"fsdp_tp_pp"}
EXPERTS = {"ep", "fsdp_ep"}
FOUR = sorted(set(options("parallel")) - EIGHT - EXPERTS)
CHECKS = {
    "presets": f"parallel={','.join(FOUR)} gpus_per_node=4",
    "experts": f"parallel={','.join(sorted(EXPERTS))} gpus_per_node=4",
    "eight": f"parallel={','.join(sorted(EIGHT))} gpus_per_node=8",
    "gpipe": "parallel=pp,fsdp_pp parallel.schedule=gpipe gpus_per_node=4",
    "virtual": "parallel=fsdp_pp parallel.schedule=interleaved,zero_bubble parallel.virtual_stages=2 gpus_per_node=4",
    "ulysses": "parallel=cp,fsdp_cp parallel.context=ulysses gpus_per_node=4",
}
MODELS = ["tiny", "tiny_moe", "tiny_mla"]
# tiny has no experts
POINTS = [(model, check) for model in MODELS for check in CHECKS if (model, check) != ("tiny", "experts")]


@pytest.mark.parametrize(("model", "check"), POINTS)
def test_every_preset_trains_as_one_process_does(tmp_path: Path, model: str, check: str) -> None:
    ended = Command(tmp_path, {})("check-parity", f"model={model}", *CHECKS[check].split(), seconds=1700)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    points = json.loads((tmp_path / ".bench/check-parity.json").read_text())["points"]
    assert {point["point"]: point["reason"] for point in points if point["verdict"] != "equal"} == {}
