"""Where a loss comes from, in studies in which it is known."""

import csv
import json

import pytest
from made_rows import made_row
from run_dirs import EPOCH, add_point, make_attempt, make_config, make_study, record, validator

from harness.analysis.breakdown import breakdowns
from harness.analysis.efficiency import curves
from harness.analysis.parts import StepAccounts
from harness.analysis.points import points
from harness.analysis.read import read_study
from harness.report import report
from harness.report.words import headline

KINDS = ("transfer", "wait", "bubble", "data", "compute", "other")
JITTER = (0.0, 0.001, -0.001)
"""Relative, of three repeats."""


def parts(**seconds):
    return dict.fromkeys(KINDS, 0.0) | seconds


def rows_of(gpus, unexplained=0.0, repeats=3, more=None, **seconds):
    rows = []
    for repeat, jitter in enumerate(JITTER[:repeats]):
        own = {name: value * (1 + jitter) for name, value in parts(**seconds).items()}
        rows.append(made_row(gpus, repeat, sum(own.values()) + unexplained, own, **(more or {})))
    return rows


def broken_down(rows):
    return breakdowns(rows, curves(rows))


def lost(breakdown):
    return {part.name: part.lost_s and part.lost_s.value for part in breakdown.parts}


BASE = {"compute": 0.08, "data": 0.004, "other": 0.016}
GROWN = {"compute": 0.085, "data": 0.006, "other": 0.016, "transfer": 0.01, "wait": 0.02, "bubble": 0.003}
EXPECTED = {"transfer": 0.01, "wait": 0.02, "bubble": 0.003, "data": 0.002, "compute": 0.005, "other": 0.0}


def test_every_part_is_the_difference_from_the_baselines():
    _, found = broken_down([*rows_of(1, **BASE), *rows_of(4, 0.001, **GROWN)])
    assert lost(found) == pytest.approx(EXPECTED | {"unexplained": 0.001}, abs=1e-6)
    assert (found.baseline, found.label, found.unknown) == ("tiny-ddp-n1x1", "tiny-ddp-n1x4", [])


def test_the_parts_sum_to_the_gap_and_their_shares_to_what_the_efficiency_lacks():
    rows = [*rows_of(1, **BASE), *rows_of(4, 0.001, **GROWN)]
    [curve] = curves(rows)
    _, found = breakdowns(rows, [curve])
    assert sum(part.lost_s.value for part in found.parts) == pytest.approx(found.gap_s, rel=1e-12)
    missing = 1 - curve.largest.efficiency.value
    assert sum(part.lost_efficiency.value for part in found.parts) == pytest.approx(missing, rel=1e-12)
    assert sum(part.own_s for part in found.parts) == pytest.approx(found.step_s, rel=1e-12)
    assert found.step_s - found.ideal_s == pytest.approx(found.gap_s)


def test_strong_scaling_starts_from_the_baselines_share_of_the_work():
    """T₁ = 0.1 s; ideal on 4 is 0.025 s, of which 0.02 s are computing. It computes for 0.022 and waits for 0.003."""
    more = {"scaling": "strong", "tokens_per_step": 4096}
    rows = [*rows_of(1, more=more, **BASE), *rows_of(4, more=more, compute=0.022, data=0.001, other=0.004, wait=0.003)]
    _, found = broken_down(rows)
    assert found.ideal_s == pytest.approx(0.025, rel=1e-5)
    assert lost(found)["compute"] == pytest.approx(0.002, abs=1e-6)
    assert lost(found)["wait"] == pytest.approx(0.003, abs=1e-6)
    assert lost(found)["unexplained"] == pytest.approx(0, abs=1e-6)
    assert sum(part.lost_s.value for part in found.parts) == pytest.approx(found.gap_s, rel=1e-12)


def test_what_one_side_does_not_know_is_null_and_unexplained():
    base = rows_of(1, **BASE, more={"part_compute_s": None})
    _, found = broken_down([*base, *rows_of(4, 0.001, **GROWN)])
    assert found.unknown == ["compute"]
    assert lost(found)["compute"] is None
    assert lost(found)["unexplained"] == pytest.approx(0.001 + 0.005, abs=1e-5)
    assert sum(part.lost_s.value for part in found.parts if part.lost_s) == pytest.approx(found.gap_s, rel=1e-12)


def test_a_single_run_has_parts_and_no_interval():
    _, found = broken_down([*rows_of(1, repeats=1, **BASE), *rows_of(4, repeats=1, **GROWN)])
    assert lost(found)["wait"] == pytest.approx(0.02)
    assert {part.lost_s.kind for part in found.parts} == {None}
    assert found.causes == []


def test_the_largest_part_is_told_only_where_its_interval_supports_it():
    rows = [*rows_of(1, **BASE), *rows_of(4, **GROWN)]
    assert [part.name for part in broken_down(rows)[1].causes] == ["wait"]
    for row, wait in zip(rows[3:], (0.05, 0.01, 0.0), strict=True):
        row["part_wait_s"] = wait
    assert broken_down(rows)[1].causes == []


def cause(waits=None, **seconds):
    """What the headline says is lost from 1 to 4 GPUs, of a baseline that waits 20 ms of 100 for data."""
    unexplained = seconds.pop("unexplained", 0.0)
    rows = [*rows_of(1, compute=0.08, data=0.02), *rows_of(4, unexplained, **({"compute": 0.08} | seconds))]
    for row, wait in zip(rows[3:], waits or (), strict=False):
        row["part_wait_s"] = wait
    found = curves(rows)
    [line] = headline(rows, found, breakdowns(rows, found))
    return line.partition("4 ranks")[2]


def test_no_more_is_named_than_was_lost_without_what_made_up_for_it():
    assert (
        cause(data=0.019, wait=0.005)
        == "; 4.8 points more are waiting for the rank that comes last, 1.0 fewer waiting for data."
    )
    assert cause(data=0.02, wait=0.005) == "; 4.8 points are waiting for the rank that comes last."


def test_no_cause_is_named_where_nothing_was_lost_or_nobody_knows_what_made_up_for_it():
    assert cause(data=0.01, wait=0.008) == "."
    assert cause(data=0.02, wait=0.02, unexplained=-0.019) == "."


def test_a_part_that_may_be_more_than_the_gap_is_told_by_its_lower_bound():
    uncertain = cause(data=0.02, wait=0.02, unexplained=-0.002, waits=(0.018, 0.02, 0.022))
    assert uncertain == "; at least 12.7 points are waiting for the rank that comes last."


def sample(step, rank, **seconds):
    """A rank's account of a step; what is not given is not known, and did not happen."""
    told = dict.fromkeys(("overlapped_s", "exposed_transfer_s", "exposed_wait_s", "bubble_s")) | {"idle_s": 0.0}
    told |= {f"{name}_s": value for name, value in seconds.items()}
    known = {"transfer_s": 0.0, "wait_s": 0.0, "operations": 1, "last": 0, "waited_for": []}
    step_s = sum(value for value in told.values() if value is not None)
    return record(
        "sample", EPOCH, step=step, rank=rank, source="profiler", partial=False, step_s=step_s, **told, **known
    )


def add(study, gpus, samples, repeat=0, seconds=0.1, data_s=0.0):
    """A point of 30 steps with what its ranks wrote of the sampled ones."""
    config = make_config(gpus=gpus, repeat=repeat, repeats=3)
    launch, events = make_attempt(config, [seconds + 0.0001 * (step % 3 + repeat) for step in range(29)])
    for event in events:
        if event["kind"] == "step":
            event["data_s"] = data_s
    path = add_point(study, config, [(launch, events)])
    folder = path / "attempts" / "0" / "nodes" / "000"
    folder.mkdir(parents=True)
    (folder / "host0.jsonl").write_text("".join(json.dumps(one) + "\n" for one in samples))
    return path


STEPS = (10, 20, 30)


def row_of(study, **where):
    [row] = [row for row in points(read_study(study)).to_dicts() if all(row[key] == where[key] for key in where)]
    return {name: row[f"part_{name}_s"] for name in KINDS} | {"sampled": row["sampled_step_s"]}


def test_a_late_rank_is_waiting_of_the_others_on_two_ranks_and_on_four(tmp_path):
    for ranks in (2, 4):
        study = make_study(tmp_path, f"made{ranks}")
        shared = {"compute": 0.07, "overlapped": 0.01, "exposed_transfer": 0.002, "idle": 0.003}
        late = shared | {"exposed_wait": 0.0, "idle": 0.033}
        samples = [
            sample(step, rank, **(late if rank == 1 else shared | {"exposed_wait": 0.03}))
            for step in STEPS
            for rank in range(ranks)
        ]
        add(study, ranks, samples)
        expected = {"transfer": 0.002, "wait": 0.03, "bubble": 0, "data": 0, "compute": 0.08, "other": 0.003}
        assert row_of(study) == pytest.approx(expected | {"sampled": 0.115})


def test_data_that_all_ranks_wait_for_is_no_other_time(tmp_path):
    study = make_study(tmp_path)
    add(study, 2, [sample(step, rank, compute=0.07, idle=0.03) for step in STEPS for rank in (0, 1)], data_s=0.02)
    found = row_of(study)
    assert (found["data"], found["other"]) == pytest.approx((0.02, 0.01))


def test_data_that_one_rank_waits_for_is_the_others_waiting_and_told_once(tmp_path):
    study = make_study(tmp_path)
    accounts = [{"exposed_wait": 0.0, "idle": 0.022}, {"exposed_wait": 0.02, "idle": 0.002}]
    add(study, 2, [sample(s, rank, compute=0.07, **accounts[rank]) for s in STEPS for rank in (0, 1)], data_s=0.02)
    found = row_of(study)
    assert found["wait"] == pytest.approx(0.02)
    assert found["data"] + found["other"] == pytest.approx(0.002)


def test_one_rank_exchanges_nothing_and_without_samples_only_that_is_known(tmp_path):
    study = make_study(tmp_path)
    add(study, 1, [sample(step, 0, compute=0.09, idle=0.01) for step in STEPS])
    assert row_of(study) == pytest.approx(parts(compute=0.09, other=0.01) | {"sampled": 0.1})
    add(study, 2, [])
    nothing = dict.fromkeys(KINDS) | {"data": 0.0, "sampled": None}
    assert row_of(study, gpus=2) == nothing
    bare = make_study(tmp_path, "bare")
    add(bare, 1, [])
    assert row_of(bare) == nothing | dict.fromkeys(("transfer", "wait", "bubble"), 0.0)


def test_partial_accounts_count_only_where_there_are_no_others():
    def middle(*samples):
        accounts = StepAccounts()
        assert len(list(accounts.watch(samples))) == len(samples)
        return accounts.middle()

    whole, torn = sample(10, 0, compute=0.1), sample(20, 0, compute=0.3) | {"partial": True}
    assert middle(whole, torn) == {(0, 10): (0, 0, 0, 0.1, 0)}
    assert middle(torn) == {(0, 20): (0, 0, 0, 0.3, 0)}
    assert middle(torn | {"compute_s": None}) == {}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """fsdp-like: 4 ranks, of which rank 3 keeps the others waiting for 20 ms of a step; three repeats."""
    study = make_study(tmp_path_factory.mktemp("breakdown"))
    for repeat in range(3):
        add(study, 1, [sample(step, 0, compute=0.09, idle=0.01) for step in STEPS], repeat)
        samples = []
        for step in STEPS:
            for rank in range(4):
                seconds = 0.0 if rank == 3 else 0.02 + 0.0002 * repeat
                told = sample(step, rank, compute=0.09, exposed_wait=seconds, exposed_transfer=0.001, idle=0.009)
                blamed = [] if rank == 3 else [{"rank": 3, "wait_s": seconds}]
                samples.append(told | {"wait_s": seconds, "waited_for": blamed, "last": int(rank == 3)})
        add(study, 4, samples, repeat, seconds=0.12)
    return report(study)


def test_the_headline_names_what_most_is_lost_to_and_who_is_waited_for(written):
    [line] = written["headline"]
    assert line.startswith("tiny-ddp keeps 83.")
    assert line.endswith(
        " from 1 to 4 ranks; 16.8 points more are waiting on rank 3 of host0, 0.8 fewer time between operations."
    )


def test_the_document_has_every_scale_and_is_as_the_schema_says(written):
    validator().validate(written)
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    assert [one["label"] for one in written["breakdown"]] == ["tiny-ddp-n1x1", "tiny-ddp-n1x4"]
    assert written["breakdown"][0]["gap_s"] == 0
    assert (written["comparisons"], written["outliers"]) == ([], [])


def test_the_breakdown_is_a_table_beside_the_page(written):
    with open(written["paths"]["breakdown"], encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["part"] for row in rows] == [*KINDS, "unexplained"] * 2
    told = written["breakdown"][1]["parts"][1]
    assert float(rows[8]["lost_s"]) == told["lost_s"]["value"]
    assert float(rows[8]["lost_efficiency_hi"]) == told["lost_efficiency"]["hi"]


def test_a_damaged_sample_costs_one_line(tmp_path):
    """Torn lines, and records that lack a field."""
    study = make_study(tmp_path)
    path = add(study, 1, [sample(step, 0, compute=0.09, idle=0.01) for step in STEPS])
    with open(path / "attempts/0/nodes/000/host0.jsonl", "a") as file:
        file.write('{"schema": 1, "kind": "sample", "step": 30}\n{"schema": 1, "kind": "sample"')
    assert row_of(study)["compute"] == pytest.approx(0.09)
