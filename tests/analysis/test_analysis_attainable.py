"""What a step's collectives achieve against what they attain alone, on constructed curves."""

import json
from dataclasses import replace
from math import exp, log
from pathlib import Path

import pytest
from run_dirs import EPOCH, MIB, add_point, make_attempt, make_collectives, make_config, make_study, make_timed, record

from harness.analysis.points import gather
from harness.analysis.read import read_study
from harness.config import Config, Nccl, Workload
from harness.report import report

COLLECTIVES = Workload("collectives", "collectives")
# 10 µs and 1 GB/s: neither a line nor a power of the size, as it is.
CURVE = {size: 1e-5 + size / 1e9 for size in (MIB, 2 * MIB, 8 * MIB)}
IN_STEP_S = 0.002 * 4


def timed(gpus: int = 2, **changes) -> Config:
    return make_config(gpus=gpus, workload=COLLECTIVES, **changes)


def trained(gpus: int = 2, size: int = 4 * MIB, seconds: float = IN_STEP_S, **changes):
    """A ddp point, in two sampled steps of which three all-reduces of a size took so long."""
    config = make_config(gpus=gpus, **{key: value for key, value in changes.items() if key in ("nodes", "nccl")})
    begin = {key: value for key, value in changes.items() if key == "device_name"}
    launch, events = make_attempt(config, [0.1] * 8, windows=0, begin=begin)
    operation = {"op": "all_reduce", "group": "dp", "group_size": changes.get("group_size", config.nodes * gpus)}
    operation |= {"bytes": size, "count": 3, "small": False, "duration_s": seconds, "busbw": size / seconds}
    windows = [make_collectives(step, launch["start"], operations=[operation]) for step in (6, 7)]
    return config, [(launch, [*events[:-1], *windows, events[-1]])]


def share(study, **point) -> tuple[float | None, float | None]:
    """The training point's attainable all-reduce bandwidth, and what it achieves of that."""
    add_point(study, *trained(**point))
    return told(study)


def told(study) -> tuple[float | None, float | None]:
    rows = gather(read_study(study)).frame.to_dicts()
    [row] = [row for row in rows if row["workload"] == "training"]
    return row["all_reduce_attainable"], row["all_reduce_of_attainable"]


def add_curve(study, config: Config, curve: dict[int, float] = CURVE, status: str = "ok", **begin) -> Path:
    return add_point(study, config, [make_timed(config, {"all_reduce": curve}, **begin)], status=status)


def test_between_two_sizes_the_curve_is_straight_on_log_axes(tmp_path):
    study = make_study(tmp_path)
    add_curve(study, timed())
    alone = exp((log(CURVE[2 * MIB]) + log(CURVE[8 * MIB])) / 2)
    attainable, achieved = share(study)
    # two ranks' factor of an all-reduce is 1
    assert attainable == pytest.approx(4 * MIB / alone)
    assert achieved == pytest.approx(alone / IN_STEP_S)


def test_on_a_size_of_the_curve_it_is_that_size(tmp_path):
    study = make_study(tmp_path)
    add_curve(study, timed())
    assert share(study, size=8 * MIB)[1] == pytest.approx(CURVE[8 * MIB] / IN_STEP_S)


@pytest.mark.parametrize("size", [MIB - 4, 8 * MIB + 4])
def test_outside_of_what_was_timed_nothing_is_known(tmp_path, size):
    study = make_study(tmp_path)
    add_curve(study, timed())
    assert share(study, size=size) == (None, None)


@pytest.mark.parametrize(
    ("curve", "begin", "point"),
    [
        (timed(gpus=4), {}, {}),
        (timed(nodes=2, gpus=1), {}, {}),
        (timed(nccl=Nccl("ring", {"NCCL_ALGO": "ring"})), {}, {}),
        (timed(), {"device_name": "NVIDIA H200"}, {"device_name": "NVIDIA H100"}),
        (timed(), {"backend": "nccl"}, {}),
        (timed(), {"versions": {"python": "3", "torch": "2", "cuda": "13", "nccl": "2.29", "driver": None}}, {}),
        # half of the ranks of two hosts: who knows on which
        (timed(nodes=2, gpus=1), {}, {"nodes": 2, "gpus": 2, "group_size": 2}),
    ],
    ids=["ranks", "hosts", "variables", "device", "backend", "version", "places"],
)
def test_a_curve_of_another_setting_does_not_fit(tmp_path, curve, begin, point):
    study = make_study(tmp_path)
    add_curve(study, curve, **begin)
    assert share(study, **point) == (None, None)


@pytest.mark.parametrize(
    ("ambient", "fits"),
    [({"NCCL_VERSION": "2.28.3-1"}, True), ({"NCCL_DEBUG": "WARN"}, True), ({"NCCL_IB_DISABLE": "1"}, False)],
    ids=["label", "overruled", "setting"],
)
def test_a_curve_fits_where_the_same_variables_were_in_force(tmp_path, ambient, fits):
    study = make_study(tmp_path)
    paths = add_curve(study, timed()), add_point(study, *trained())
    for path, found in zip(paths, ({}, ambient), strict=True):
        texts = {"requested": {}, "ambient": found, "added": {"NCCL_DEBUG": "INFO"}, "effective": {}, "other": {}}
        document = record("environment", EPOCH, None, **texts, cleared=[], files=[])
        (path / "env.json").write_text(json.dumps(document))
    assert (told(study) != (None, None)) == fits


def test_a_curve_that_did_not_end_well_is_not_used(tmp_path):
    study = make_study(tmp_path)
    add_curve(study, timed(), status="failed")
    assert share(study) == (None, None)


def test_a_group_inside_the_one_host_has_the_curve_of_as_many_ranks(tmp_path):
    study = make_study(tmp_path)
    add_curve(study, timed(gpus=4), dict.fromkeys(CURVE, 9.9))
    add_curve(study, timed())
    alone = exp((log(CURVE[2 * MIB]) + log(CURVE[8 * MIB])) / 2)
    assert share(study, gpus=4, group_size=2)[1] == pytest.approx(alone / IN_STEP_S)


def test_of_repeats_the_median_curve_counts(tmp_path):
    study = make_study(tmp_path)
    for repeat, factor in enumerate((1, 3, 100)):
        add_curve(study, replace(timed(), repeat=repeat), {size: factor * each for size, each in CURVE.items()})
    assert share(study, size=8 * MIB)[1] == pytest.approx(3 * CURVE[8 * MIB] / IN_STEP_S)


def test_the_page_of_a_mixed_study_has_the_step_s_operations_on_the_curve(tmp_path):
    study = make_study(tmp_path)
    add_curve(study, timed())
    add_point(study, *trained())
    document = report(study)
    page = Path(document["paths"]["page"]).read_text()
    assert "tiny-ddp-n1x2, in a step" in page and "of attainable" in page
    assert [line.split(":")[0] for line in document["headline"]] == ["tiny-ddp", "collectives-all-n1x2"]
    assert 'id="figure-throughput"' in page and 'id="figure-bandwidth"' in page
