"""A slow link between two hosts is exposed transfer in the breakdown of what their step lost, and nothing else."""

import json
from pathlib import Path

import pytest
from lab import Cluster
from study import scale, started

from harness.analysis.read import read_study
from harness.report import report

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

RATE, LINK = "100mbit", 100e6 / 8
"""As tc writes it, and in bytes per second: a step's gradients take longer than everything else in it."""

FLOOR_S = 0.01
"""What a part may move beside a tenth of its clean value: a tenth of a time slice's worth of four processes on two
cores, and under a twentieth of what the link adds."""


def lost(cluster: Cluster, root: Path, name: str) -> tuple[dict[str, float], float]:
    """What two hosts with a rank each lost against one, by part, and seconds of their step."""
    words = ("gpus_per_node=1", "record.sample_every=5", "steps=40")
    said = scale(cluster, root, *words, name=name, nodes=2, NODES="1 2")
    assert "2 points: 2 ok" in said, said
    found = report(root / name)["breakdown"][1]
    assert found["unknown"] == [], json.dumps(found)
    return {part["name"]: part["lost_s"]["value"] for part in found["parts"]}, found["step_s"]


def test_a_shaped_link_is_exposed_transfer_and_no_other_part_moves(cluster: Cluster, tmp_path: Path) -> None:
    clean, clean_step = lost(cluster, tmp_path, "clean")
    cluster.shaped("all", RATE)
    try:
        shaped, step = lost(cluster, tmp_path, "shaped")
    finally:
        cluster.shaped("all", "off")
    told = json.dumps({"clean": clean, "shaped": shaped})
    added = shaped["transfer"] - clean["transfer"]
    assert added == pytest.approx(step - clean_step, rel=0.1), told
    # each of two ranks sends 2 (n − 1) ÷ n of the gradients, which is all of them
    (gradients,) = {4 * started(point)["parameters"] for point in read_study(tmp_path / "shaped")}
    assert added == pytest.approx(gradients / LINK, rel=0.2), told
    for name in shaped.keys() - {"transfer"}:
        assert shaped[name] == pytest.approx(clean[name], rel=0.1, abs=FLOOR_S), (name, told)
