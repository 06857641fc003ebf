"""Strategies and NCCL settings compared; points that stand out; drift over a study's order."""

import math
import random

import numpy as np
import pytest
from made_rows import made_row
from run_dirs import add_point, make_attempt, make_config, make_study

from harness.analysis.comparison import comparisons
from harness.analysis.drift import drift
from harness.analysis.efficiency import curves
from harness.analysis.fingerprint import RECORDED
from harness.analysis.intervals import student
from harness.analysis.outliers import outliers
from harness.analysis.points import points
from harness.analysis.read import read_study
from harness.report.words import drifting, standing_out

NOISE = (0.0, 0.004, -0.003)
"""Of a round, in both strategies alike."""


def rows_of(parallel="ddp", nccl="default", slower=(1.0, 1.0, 1.0), gpus=4, noise=NOISE, **more):
    curve = f"tiny-{parallel}" + f"-{nccl}" * (nccl != "default")
    steps = [slow * math.exp(noise[repeat]) for repeat, slow in enumerate(slower)]
    known = {"parallel": parallel, "nccl": nccl, "curve": curve, "label": f"{curve}-n1x{gpus}"}
    return [
        made_row(gpus, repeat, step, **known | {"slug": f"{curve}-n1x{gpus}-r{repeat}"} | more)
        for repeat, step in enumerate(steps)
    ]


def compared(rows):
    return comparisons(rows, curves(rows), {row["slug"]: dict.fromkeys(RECORDED) for row in rows})


def test_repeats_are_paired_by_their_round():
    """fsdp takes 10.0, 10.1 and 9.9 % longer; what a whole round had in common plays no part."""
    [found] = compared([*rows_of(), *rows_of("fsdp", slower=(1.1, 1.101, 1.099))])
    assert (found.curve, found.other, found.differs, found.paired) == ("tiny-ddp", "tiny-fsdp", "parallel", True)
    logs = np.log([1.1, 1.101, 1.099])
    assert found.ratio.value == pytest.approx(math.exp(logs.mean()))
    half = student(2) * logs.std(ddof=1) / math.sqrt(3)
    assert found.ratio.hi / found.ratio.value == pytest.approx(math.exp(half))
    assert found.p < 0.001
    assert (found.p_holm, found.significant) == (found.p, True)


def test_without_the_same_rounds_each_side_has_its_own_spread():
    [found] = compared([*rows_of(), *rows_of("fsdp", slower=(1.1, 1.1))])
    assert (found.paired, found.repeats) == (False, [3, 2])
    assert found.ratio.kind == "repeats"
    assert found.p is not None


def test_a_single_run_a_side_has_no_significance():
    [found] = compared([*rows_of(slower=[1.0]), *rows_of("fsdp", slower=[1.1])])
    assert (found.p, found.p_holm, found.significant, found.ratio.kind) == (None, None, None, "within-run")
    assert found.ratio.lo < 1.1 < found.ratio.hi


def test_settings_are_compared_with_the_plain_one_and_strategies_with_each_other():
    rows = [
        row for parallel in ("ddp", "fsdp") for nccl in ("default", "ring", "tree") for row in rows_of(parallel, nccl)
    ]
    pairs = [(found.curve, found.other) for found in compared(rows)]
    assert sorted(pairs) == [
        ("tiny-ddp", "tiny-fsdp"),
        ("tiny-ddp-ring", "tiny-ddp"),
        ("tiny-ddp-ring", "tiny-fsdp-ring"),
        ("tiny-ddp-tree", "tiny-ddp"),
        ("tiny-ddp-tree", "tiny-fsdp-tree"),
        ("tiny-fsdp-ring", "tiny-fsdp"),
        ("tiny-fsdp-tree", "tiny-fsdp"),
    ]


def test_other_work_and_other_scales_are_not_compared():
    assert compared([*rows_of(), *rows_of("fsdp", seq_len=4096)]) == []
    assert compared([*rows_of(), *rows_of("fsdp", tokens_per_step=1)]) == []
    assert compared([*rows_of(), *rows_of("fsdp", gpus=8)]) == []


def test_of_many_comparisons_chance_makes_none_significant():
    """Twelve settings that do nothing, in 200 studies: Holm finds something in about one of twenty."""
    noise, found = np.random.default_rng(5), 0
    names = ["default", *(f"s{number}" for number in range(12))]
    for _ in range(200):
        rows = [row for name in names for row in rows_of(nccl=name, noise=noise.normal(0, 0.01, 3))]
        tested = compared(rows)
        assert len(tested) == 12
        found += any(one.significant for one in tested)
        assert all(one.p <= one.p_holm <= 1 for one in tested)
    assert found / 200 <= 0.08


def steps_of(speeds, gpus=4, places=None):
    places = places or range(len(speeds))
    return [
        made_row(gpus, repeat, 1 / speed, position=place)
        for repeat, (speed, place) in enumerate(zip(speeds, places, strict=True))
    ]


def test_a_repeat_that_is_off_is_named_with_how_far():
    rows = [*steps_of([1, 1.001, 0.999, 0.95], 1), *steps_of([1, 1.002, 0.999], 2), *steps_of([0.9, 0.901, 0.9], 4)]
    [found] = outliers(rows, curves(rows))
    assert (found.label, found.repeat, found.repeats) == ("tiny-ddp-n1x1", 3, 4)
    assert found.deviation == pytest.approx(-0.05, abs=1e-4)
    assert standing_out([found])[0].startswith("tiny-ddp-n1x1 r3 is 5.0 % slower than the mean of its scale's other")


def test_of_two_repeats_nobody_knows_which_is_off():
    rows = [*steps_of([1, 0.8], 1), *steps_of([1, 1.001, 0.999], 2)]
    assert outliers(rows, curves(rows)) == []


def test_chance_makes_few_outliers():
    noise, found = np.random.default_rng(2), 0
    for _ in range(300):
        rows = [row for gpus in (1, 2, 4) for row in steps_of(np.exp(noise.normal(0, 0.05, 3)), gpus)]
        found += bool(outliers(rows, curves(rows)))
    assert found / 300 <= 0.08


def drifted(slope, spread=0.001, seed=0):
    """Three rounds of three scales, shuffled; each point is slower by `slope` for each that ran before it."""
    chance, noise, rows = random.Random(seed), np.random.default_rng(seed), []
    for repeat in range(3):
        for place, gpus in enumerate(chance.sample([1, 2, 4], 3), start=3 * repeat):
            speed = (1 - 0.05 * gpus) * math.exp(slope * place + noise.normal(0, spread))
            rows.append(made_row(gpus, repeat, 1 / speed, position=place))
    return drift(rows, curves(rows))


def test_drift_is_told_apart_from_scaling():
    found = drifted(-0.01)
    assert (found.first, found.last, found.points) == (0, 8, 9)
    assert found.change.value == pytest.approx(math.exp(-0.08), rel=0.003)
    assert found.change.lo < math.exp(-0.08) < found.change.hi
    [line] = drifting(found)
    assert line.startswith("Repeats ran slower the later they ran: by 7.7 % [")
    assert drifting(drifted(0.0)) == []


def test_drift_holds_its_interval_and_its_significance():
    found = [drifted(-0.002, 0.01, seed) for seed in range(300)]
    assert 0.92 <= np.mean([one.change.lo <= math.exp(-0.016) <= one.change.hi for one in found]) <= 0.98
    assert np.mean([drifted(0.0, 0.01, seed).matters for seed in range(300)]) <= 0.08


def test_single_runs_tell_no_drift():
    rows = [made_row(gpus, 0, 1.0, position=gpus) for gpus in (1, 2, 4)]
    assert drift(rows, curves(rows)) is None


def test_positions_are_those_of_a_study_that_several_commands_ran(tmp_path):
    study = make_study(tmp_path)
    for ranks, later in ((1, 60.0), (2, 0.0)):
        config = make_config("ddp", ranks)
        launch, events = make_attempt(config, [0.1] * 9)
        moved = {name: launch[name] + later for name in ("start", "end")}
        add_point(study, config, [({**launch, **moved, "position": 0}, events)])
    assert dict(points(read_study(study)).select("gpus", "position").rows()) == {1: 1, 2: 0}
