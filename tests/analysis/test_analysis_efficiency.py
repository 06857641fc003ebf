"""Curves, baselines, the weak and strong formulas, and points.csv's columns."""

import dataclasses
import json

import polars as pl
import pytest
from run_dirs import EPOCH, add_point, demo_study, make_attempt, make_config, make_study, record

from harness.analysis.efficiency import curves
from harness.analysis.points import points
from harness.analysis.read import read_study
from harness.config import Nccl, Precision
from harness.report.goodput import goodput

CONTRACT = (
    "study slug status model parallel nccl nodes gpus backend precision repeat tokens_per_s tokens_per_s_lo "
    "tokens_per_s_hi tokens_per_s_gpu step_s_p50 step_s_p95 mfu attained all_reduce_s_p50 all_reduce_busbw "
    "all_gather_s_p50 reduce_scatter_s_p50 exposed_comm_s goodput_tokens_per_s goodput_fraction efficiency baseline "
    "peak_memory_bytes loss_last"
)
STEADY = [0.1, 0.101, 0.099, 0.1, 0.102, 0.098] * 3


def add(study, config, seconds=STEADY, scale=1.0, **more):
    begin = more.pop("begin", None)
    attempt = make_attempt(config, [duration * scale for duration in seconds], begin=begin)
    return add_point(study, config, [attempt], **more)


def by_label(study):
    return {row["label"]: row for row in points(read_study(study)).to_dicts()}


def test_columns_are_the_contract_and_more(tmp_path):
    frame = points(read_study(demo_study(tmp_path)))
    assert frame.columns[:30] == CONTRACT.split()
    assert frame["attained"].null_count() == frame["exposed_comm_s"].null_count() == 4
    for row in frame.to_dicts():
        assert row["tokens_per_s_lo"] < row["tokens_per_s"] < row["tokens_per_s_hi"]
        assert (row["all_reduce_s_p50"] is not None) == (row["slug"].startswith("tiny-ddp-n1x2"))
        assert (row["all_gather_s_p50"] is not None) == (row["slug"].startswith("tiny-fsdp-n1x2"))
        assert row["mfu"] is None


def test_an_empty_study_has_the_same_columns(tmp_path):
    frame = points(read_study(make_study(tmp_path)))
    assert frame.is_empty()
    assert frame.columns[:30] == CONTRACT.split()


def test_weak_scaling_divides_tokens_per_gpu(tmp_path):
    rows = by_label(demo_study(tmp_path))
    assert rows["tiny-ddp-n1x2"]["efficiency"] == pytest.approx(0.9)
    assert rows["tiny-fsdp-n1x2"]["efficiency"] == pytest.approx(0.8)
    assert rows["tiny-fsdp-n1x2"]["baseline"] == "tiny-fsdp-n1x1"
    assert rows["tiny-ddp-n1x1"]["efficiency"] == 1
    assert rows["tiny-ddp-n1x1"]["efficiency_lo"] is None
    part = rows["tiny-ddp-n1x2"]
    assert part["efficiency_lo"] < part["efficiency"] < part["efficiency_hi"]


def test_strong_scaling_divides_gpu_seconds(tmp_path):
    """T₁ = 0.1 s, T₄ = 0.04 s with the same global batch: 0.1 ÷ (0.04 · 4) = 62.5 %."""
    study = make_study(tmp_path)
    add(study, make_config(gpus=1, scaling="strong", global_batch=8))
    add(study, make_config(gpus=4, scaling="strong", global_batch=8), scale=0.4)
    assert by_label(study)["tiny-ddp-n1x4"]["efficiency"] == pytest.approx(0.625)


def test_the_baseline_is_the_smallest_ok_scale(tmp_path):
    study = make_study(tmp_path)
    add(study, make_config(gpus=1), status="failed", reason="no")
    add(study, make_config(gpus=2))
    add(study, make_config(gpus=4), scale=1.25)
    add_point(study, make_config(gpus=8), status="oom", reason="out of memory")
    rows = by_label(study)
    assert rows["tiny-ddp-n1x4"]["baseline"] == "tiny-ddp-n1x2"
    assert rows["tiny-ddp-n1x4"]["efficiency"] == pytest.approx(0.8)
    for label in ("tiny-ddp-n1x1", "tiny-ddp-n1x8"):
        assert (rows[label]["efficiency"], rows[label]["baseline"]) == (None, None)


@pytest.mark.parametrize("scaling", [{}, {"scaling": "strong", "global_batch": 8}])
def test_a_point_that_ended_on_fewer_hosts_is_divided_by_the_ranks_that_were_planned(tmp_path, scaling):
    study, config = make_study(tmp_path), make_config(nodes=4, gpus=2, **scaling)
    add(study, make_config(nodes=1, gpus=2, **scaling))
    killed = make_attempt(config, STEADY, ended=False)
    left = {"world_size": 4, "nodes": 2, "hosts": ["host0", "host2"]}
    again = make_attempt(config, [2 * seconds for seconds in STEADY], number=1, start=killed[0]["end"] + 1, begin=left)
    path = add_point(study, config, [killed, again])
    row = by_label(study)["tiny-ddp-n4x2"]
    assert (row["gpus"], row["global_batch"], row["hosts"]) == (8, 8, 2)
    assert row["tokens_per_s_gpu"] == row["tokens_per_s"] / 8
    assert row["warnings"] == "its latest attempt had 4 of the 8 ranks that rates are divided by"
    [curve] = curves(points(read_study(study)).to_dicts())
    assert [scale.gpus for scale in curve.scales] == [2, 8]
    assert curve.largest.efficiency.value == pytest.approx(0.125 if scaling else 0.5)
    assert goodput(path)["gpus"] == 8


def test_repeats_give_the_interval_and_the_baseline_their_mean(tmp_path):
    study = make_study(tmp_path)
    for repeat, scale in enumerate((0.9, 1.0, 1.1)):
        add(study, make_config(gpus=1, repeat=repeat), scale=1 / scale)
        add(study, make_config(gpus=2, repeat=repeat), scale=2 / scale)
    [curve] = curves(points(read_study(study)).to_dicts())
    assert [scale.gpus for scale in curve.scales] == [1, 2]
    assert len(curve.largest.slugs) == 3
    assert curve.largest.efficiency.value == pytest.approx(0.5)
    assert curve.largest.efficiency.kind == curve.largest.tokens_per_s.kind == "repeats"
    # t(4)·s·√(1/3 + 1/3) = 2.776·0.1·0.8165, s the spread of all repeats about their scale's mean.
    assert curve.largest.efficiency.half == pytest.approx(0.2267, rel=1e-3)
    assert curve.baseline.efficiency.kind is None


def test_what_is_other_work_is_another_curve(tmp_path):
    study = make_study(tmp_path)
    bf16 = Precision("bf16", "bf16")
    for gpus in (1, 2):
        add(study, make_config(gpus=gpus))
        add(study, make_config(gpus=gpus, precision=bf16))
        add(study, make_config(gpus=gpus, nccl=Nccl("ring", {"NCCL_ALGO": "allreduce:ring"})))
        add(study, make_config("fsdp", gpus))
    add(study, make_config("fsdp", 1, local_batch=4))
    names = {curve.name: len(curve.scales) for curve in curves(points(read_study(study)).to_dicts())}
    assert names == {
        "tiny-ddp fp32": 2,
        "tiny-ddp bf16": 2,
        "tiny-ddp-ring": 2,
        "tiny-fsdp local_batch=1": 2,
        "tiny-fsdp local_batch=4": 1,
    }


def test_a_strong_curve_is_not_named_after_what_only_tells_it_from_weak_ones(tmp_path):
    study = make_study(tmp_path)
    for gpus in (1, 2):
        add(study, make_config(gpus=gpus, local_batch=4))
        add(study, make_config(gpus=gpus, scaling="strong", global_batch=8))
    names = [curve.name for curve in curves(points(read_study(study)).to_dicts())]
    assert names == ["tiny-ddp scaling=strong", "tiny-ddp scaling=weak"]


@pytest.mark.parametrize("seconds", [(0.05, 0.15), (0.01, 10.0)])
def test_two_repeats_that_differ_much_have_an_interval_of_positive_numbers(tmp_path, seconds):
    study = make_study(tmp_path)
    for gpus in (1, 2):
        for repeat, scale in enumerate(seconds):
            add(study, make_config(gpus=gpus, repeat=repeat), scale=scale)
    [curve] = curves(points(read_study(study)).to_dicts())
    for interval in (curve.largest.efficiency, curve.largest.tokens_per_s):
        assert 0 < interval.lo < interval.value < interval.hi
        assert not interval.tells


def test_what_was_run_is_in_the_table(tmp_path):
    study = make_study(tmp_path)
    path = add(study, make_config(gpus=2, local_batch=3, compile=True))
    (path / "env.json").write_text(json.dumps(environment({"OMP_NUM_THREADS": "7"})))
    add(study, make_config(gpus=2, scaling="strong", global_batch=8, activation_checkpointing="full"))
    rows = points(read_study(study)).to_dicts()
    columns = "parameters data local_batch global_batch steps compile activation_checkpointing cores threads"
    assert [[row[name] for name in columns.split()] for row in sorted(rows, key=lambda row: -row["local_batch"])] == [
        [853120, "bytes", 3, 6, 30, True, "none", 2, 7],
        [853120, "bytes", 1, 8, 30, False, "full", 2, None],
    ]


@pytest.mark.parametrize(("of_hosts", "threads"), [(("2", "2"), 2), (("2", "16"), None), ((None, None), None)])
def test_threads_are_those_that_ranks_on_all_hosts_have(tmp_path, of_hosts, threads):
    """Each host sets its own; the controller's may be another one's."""
    told = [
        [{"ranks": str(rank), "cores": 2, "mask": "0-1", "omp_num_threads": count}]
        for rank, count in enumerate(of_hosts)
    ]
    study = make_study(tmp_path)
    path = add(study, make_config(nodes=2), begin={"affinity": told})
    (path / "env.json").write_text(json.dumps(environment({"OMP_NUM_THREADS": "7"})))
    assert by_label(study)["tiny-ddp-n2x1"]["threads"] == threads


def environment(added):
    texts = {"requested": {}, "ambient": {}, "effective": {}, "other": {}}
    return record("environment", EPOCH, None, **texts, added=added, cleared=[], files=[])


def test_other_tokens_per_gpu_or_devices_are_another_curve(tmp_path):
    study = make_study(tmp_path)
    add(study, make_config(gpus=1), begin={"device_name": "One"})
    add(study, make_config(gpus=2), begin={"device_name": "One", "tokens_per_step": 1000})
    add(study, make_config(gpus=4), begin={"device_name": "Another"})
    found = curves(points(read_study(study)).to_dicts())
    assert [len(curve.scales) for curve in found] == [1, 1, 1]
    assert len({curve.name for curve in found}) == 3


def test_growing_a_study_by_launcher_or_record_settings_keeps_the_curve(tmp_path):
    study = make_study(tmp_path)
    one, two = make_config(gpus=1), make_config(gpus=2)
    add(study, dataclasses.replace(one, repeats=3, record=dataclasses.replace(one.record, wandb="disabled")))
    add(study, two)
    assert [curve.name for curve in curves(points(read_study(study)).to_dicts())] == ["tiny-ddp"]


def test_goodput_efficiency_names_its_peak(tmp_path):
    study = demo_study(tmp_path)
    row = by_label(study)["tiny-ddp-n1x2"]
    peak = by_label(study)["tiny-ddp-n1x1"]["tokens_per_s"]
    assert row["goodput_efficiency"] == pytest.approx(row["goodput_tokens_per_s"] / (2 * peak))
    assert row["goodput_peak"] == "tiny-ddp-n1x1"


def test_without_a_one_gpu_point_goodput_efficiency_is_unknown(tmp_path):
    study = make_study(tmp_path)
    add(study, make_config(gpus=2))
    assert by_label(study)["tiny-ddp-n1x2"]["goodput_efficiency"] is None


def test_warnings_and_reasons_reach_the_table(tmp_path):
    study = make_study(tmp_path)
    path = add(study, make_config(gpus=4), begin={"oversubscribed": True})
    with open(path / "attempts/0/events.jsonl", "a") as file:
        file.write('{"schema"')
    add_point(study, make_config(gpus=3), status="invalid", reason="heads=4: not divisible")
    rows = by_label(study)
    assert "4 ranks on 2 cores: not a scaling measurement" in rows["tiny-ddp-n1x4"]["warnings"]
    assert "torn last line" in rows["tiny-ddp-n1x4"]["warnings"]
    assert rows["tiny-ddp-n1x3"]["reason"] == "heads=4: not divisible"
    assert rows["tiny-ddp-n1x3"]["tokens_per_s"] is None


def test_ledger_columns_sum_to_the_wall_clock(tmp_path):
    frame = points(read_study(demo_study(tmp_path)))
    total = frame.select(pl.sum_horizontal(pl.col("^ledger_.*$"))).to_series()
    assert total.to_list() == pytest.approx(frame["wall_s"].to_list())
