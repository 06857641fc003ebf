"""A slow link between two hosts is exposed transfer in the breakdown of what their step lost, and nothing else."""

import json
import shutil
from pathlib import Path

import pytest
from lab import Cluster
from study import scale, started

from harness.analysis.read import read_study
from harness.report import report

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

RATE, LINK = "50mbit", 50e6 / 8
"""As tc writes it, and in bytes per second. A step's gradients take 0.55 s, of which the backward pass covers 10 ms."""

FLOOR_S = 0.0275
"""What a part may move beside a tenth of its clean value: a twentieth of what the link adds. A whole step over the open
link takes some 30 ms."""

WORDS = ("gpus_per_node=1", "record.sample_every=6", "steps=36")


def lost(study: Path) -> dict[str, float]:
    """What two hosts with a rank each lost against one, by part."""
    found = report(study)["breakdown"][1]
    assert (found["gpus"], found["unknown"]) == (2, []), json.dumps(found)
    return {part["name"]: part["lost_s"]["value"] for part in found["parts"]}


def test_a_shaped_link_is_exposed_transfer_and_no_other_part_moves(cluster: Cluster, tmp_path: Path) -> None:
    said = scale(cluster, tmp_path, *WORDS, name="clean", nodes=2, NODES="1 2")
    assert "2 points: 2 ok" in said, said
    cluster.shaped("all", RATE)
    try:
        said = scale(cluster, tmp_path, *WORDS, name="shaped", nodes=2, NODES="2")
    finally:
        cluster.shaped("all", "off")
    assert "1 point: 1 ok" in said, said
    # one baseline for both: what it took by itself then cancels
    [alone] = (point.path for point in read_study(tmp_path / "clean") if point.config.nodes == 1)
    shutil.copytree(alone, tmp_path / "shaped" / "points" / alone.name)
    clean, shaped = lost(tmp_path / "clean"), lost(tmp_path / "shaped")
    told = json.dumps({"clean": clean, "shaped": shaped})
    # each of two ranks sends 2 (n − 1) ÷ n of the gradients, which is all of them
    [gradients] = {4 * started(point)["parameters"] for point in read_study(tmp_path / "shaped")}
    assert shaped["transfer"] - clean["transfer"] == pytest.approx(gradients / LINK, rel=0.1), told
    for name in shaped.keys() - {"transfer"}:
        assert shaped[name] == pytest.approx(clean[name], rel=0.1, abs=FLOOR_S), (name, told)
