"""Records that something has damaged: what is lost never poses as a measurement, and what is not lost stays."""

import json
import os
import shutil

import pytest
from run_dirs import EPOCH, add_point, make_attempt, make_config, make_progress, make_ranks, make_study, record

from harness.analysis.points import points
from harness.analysis.read import read_point, read_study
from harness.analysis.summary import summarise
from harness.report.goodput import goodput


def damaged(tmp_path, change, killed=False):
    """The row and goodput of a point of 30 steps whose lines `change` has had its hands on."""
    config = make_config()
    launch, events = make_attempt(config, [0.1] * 29, ended=not killed)
    path = add_point(make_study(tmp_path), config, [(launch, events)], status="failed" if killed else "ok")
    file = path / "attempts" / "0" / "events.jsonl"
    lines = file.read_text().splitlines()
    change(lines, [index for index, event in enumerate(events) if event["kind"] == "step"])
    file.write_text("\n".join(lines) + "\n" * (not killed))
    point = read_point(path)
    return summarise(point), goodput(path)


def with_field(**field):
    def change(lines, steps):
        lines[steps[20]] = json.dumps({**json.loads(lines[steps[20]]), **field})

    return change


def garbled(*which):
    def change(lines, steps):
        for index in which:
            lines[steps[index]] = "gar" + lines[steps[index]]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (garbled(20), "skipped 1 malformed line (24)"),
        (garbled(*range(12, 30)), "skipped 18 malformed lines (16, 17, 18, 19, 20 …)"),
        *((with_field(duration_s=each), "skipped 1 record with an impossible duration_s") for each in (-3.0, 1e9, "x")),
        *((with_field(step=each), "skipped 1 record with an impossible step") for each in (10**12, 0, [])),
        *((with_field(tokens=each), "skipped 1 record with an impossible tokens") for each in ("many", 10**30, 10**12)),
        (with_field(role="<b>x"), "skipped 1 record with an impossible role"),
    ],
)
def test_a_window_that_lost_a_measured_step_has_no_figures_and_says_why(tmp_path, change, said):
    row, document = damaged(tmp_path, change)
    assert row["status"] == "ok"
    assert [row.get(name) for name in ("tokens_per_s", "step_s_p50", "mfu", "goodput_tokens_per_s")] == [None] * 4
    assert (document["goodput_tokens_per_s"], document["goodput_fraction"]) == (None, None)
    first, *others = row["warnings"].split("; ")
    assert "measured step" in first and "no record that can be read" in first
    assert f"attempt 0: events.jsonl: {said}" in others


def cut(lines, steps):
    del lines[steps[15] :]


def emptied(lines, steps):
    lines.clear()


def of_another_schema(lines, steps):
    lines[:] = [json.dumps({**json.loads(line), "schema": 2}) for line in lines]


def without_tokens(lines, steps):
    for index in steps:
        lines[index] = json.dumps({**json.loads(lines[index]), "tokens": 0})


@pytest.mark.parametrize("change", [cut, emptied, of_another_schema, without_tokens])
def test_an_ok_point_whose_last_measured_steps_are_lost_has_no_figures_and_says_why(tmp_path, change):
    row, document = damaged(tmp_path, change)
    assert row["status"] == "ok"
    names = ("tokens_per_s", "goodput_tokens_per_s", "goodput_fraction", "loss_last")
    assert [row.get(name) for name in names] == [None] * 4
    assert (document["goodput_tokens_per_s"], document["goodput_fraction"]) == (None, None)
    assert "to 30 have no record that can be read" in row["warnings"]


def test_a_step_counts_once_however_many_records_it_has(tmp_path):
    row, document = damaged(tmp_path, lambda lines, steps: lines.extend([lines[step] for step in steps]))
    whole, _ = damaged(tmp_path / "whole", lambda lines, steps: None)
    assert row.pop("warnings") == "attempt 0: events.jsonl: skipped 30 records of a step that has one"
    assert whole.pop("warnings") is None
    assert row == whole
    assert document["kept_steps"] == 30


@pytest.mark.parametrize("name", ["attempts", "attempts/0/launch.json", "attempts/0/events.jsonl"])
def test_what_an_ok_point_lacks_is_named(tmp_path, name):
    config = make_config()
    path = add_point(make_study(tmp_path), config, [make_attempt(config, [0.1] * 29)])
    missing = path / name
    shutil.rmtree(missing) if missing.is_dir() else missing.unlink()
    row = summarise(read_point(path))
    assert row.get("goodput_tokens_per_s") is None
    assert f"{missing.name} is missing" in row["warnings"]


def test_a_restart_that_had_nothing_left_to_do_misses_nothing(tmp_path):
    config = make_config()
    launch, events = make_attempt(config, [0.1] * 29, ended=False)
    second_launch, second = make_attempt(config, [], number=1, start=launch["end"] + 1, first_step=31)
    second = [event for event in second if event["kind"] != "step"]
    path = add_point(make_study(tmp_path), config, [(launch, events), (second_launch, second)])
    row = summarise(read_point(path))
    assert row["tokens_per_s"] == pytest.approx(128 / 0.1)


def test_a_count_beyond_the_last_step_is_passed_over(tmp_path):
    def end_late(lines, steps):
        lines[-1] = json.dumps({**json.loads(lines[-1]), "steps": 10**12})

    row, document = damaged(tmp_path, end_late)
    assert (row["tokens_per_s"], document["kept_steps"]) == (pytest.approx(128 / 0.1), 30)


def test_records_that_make_no_sense_leave_a_point_how_it_ended(tmp_path):
    config = make_config()
    path = add_point(make_study(tmp_path), config, [make_attempt(config, [])])
    events = path / "attempts" / "0" / "events.jsonl"
    kept = [line for line in events.read_text().splitlines() if json.loads(line)["kind"] not in ("step", "end")]
    events.write_text("\n".join(kept) + "\n")
    # steps that ended at no time
    (path / "attempts" / "0" / "progress.json").write_text(json.dumps(make_progress(EPOCH + 9, first=1, finished=3)))
    document = goodput(path)
    assert (document["status"], document["wall_s"], document["kept_steps"]) == ("ok", None, 0)
    assert "make no sense" in " ".join(document["warnings"])


def test_what_is_lost_outside_the_window_costs_a_remark(tmp_path):
    row, _ = damaged(tmp_path, garbled(1))
    assert row["tokens_per_s"] == pytest.approx(128 / 0.1)
    assert "skipped 1 malformed line" in row["warnings"]


def restarted(tmp_path, left):
    """A point whose second attempt went on after step 12; of the first the records of steps up to `left` are there."""
    config = make_config()
    launch, events = make_attempt(config, [0.1] * 11, ended=False)
    first = [event for event in events if event["kind"] != "step" or event["step"] <= left]
    second = make_attempt(config, [0.1] * 17, number=1, start=launch["end"] + 1, first_step=13)
    path = add_point(make_study(tmp_path), config, [(launch, first), second])
    return summarise(read_point(path)), goodput(path)


@pytest.mark.parametrize("left", [10, 0])
def test_records_before_the_step_that_a_restart_went_on_from_are_missed(tmp_path, left):
    row, document = restarted(tmp_path, left)
    assert (row.get("tokens_per_s"), document["goodput_tokens_per_s"]) == (None, None)
    missing = [line for line in document["warnings"] if "no record that can be read" in line]
    assert missing and "to 12 have" in missing[0] and missing[0] in row["warnings"]


def test_a_restart_that_went_on_from_the_last_record_misses_nothing(tmp_path):
    row, document = restarted(tmp_path, 12)
    assert row["tokens_per_s"] == pytest.approx(128 / 0.1)
    assert not any("no record" in line for line in document["warnings"])


def test_the_torn_last_line_of_a_killed_writer_costs_nothing(tmp_path):
    def tear(lines, steps):
        lines[steps[-1]] = lines[steps[-1]][:20]

    row, _ = damaged(tmp_path, tear, killed=True)
    assert row["tokens_per_s"] == pytest.approx(128 / 0.1)
    assert row["warnings"] == "attempt 0: events.jsonl: skipped a torn last line"


def test_a_window_of_no_time_is_skipped_and_named(tmp_path):
    config = make_config(gpus=2)
    launch, events = make_attempt(config, [0.1] * 29)
    study = make_study(tmp_path)
    path = add_point(
        study, config, [(launch, [*events, make_ranks(1, [0.1] * 3, 0.0), make_ranks(4, [0.1] * 27, 0.0)])]
    )
    assert read_point(path).warnings == ["attempt 0: events.jsonl: skipped 1 record with an impossible window_s"]
    (row,) = points(read_study(study)).to_dicts()
    assert row["tokens_per_s"] == pytest.approx(256 / 0.1)


def test_times_of_collectives_below_zero_are_skipped_and_named(tmp_path):
    config = make_config(gpus=2)
    launch, events = make_attempt(config, [0.1] * 29)
    for event in events:
        if event["kind"] == "collectives":
            event["seconds"]["all_reduce"] = -1
            break
    row = summarise(read_point(add_point(make_study(tmp_path), config, [(launch, events)])))
    assert (row["all_reduce_s_p50"], row["sampled_steps"]) == (0.002, 1)
    assert "skipped 1 record with an impossible seconds" in row["warnings"]


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("attempts/0/launch.json", {"position": "x"}),
        ("attempts/0/launch.json", {"queue_s": "x"}),
        ("provenance.json", {"git": None}),
        ("provenance.json", {"machine": {}}),
        ("env.json", {"ambient": [1]}),
        ("status.json", {"status": "<b>x"}),
    ],
)
def test_a_document_with_a_value_that_cannot_be_is_skipped_alone_and_named(tmp_path, name, field):
    config = make_config()
    study = make_study(tmp_path)
    path = add_point(study, config, [make_attempt(config, [0.1] * 29)])
    variables = {kind: {} for kind in ("requested", "ambient", "added", "effective", "other")}
    environment = record("environment", EPOCH, cleared=[], files=[], **variables)
    (path / "env.json").write_text(json.dumps(environment))
    (path / name).write_text(json.dumps({**json.loads((path / name).read_text()), **field}))
    (row,) = points(read_study(study)).to_dicts()
    assert row["tokens_per_s"] == pytest.approx(128 / 0.1)
    assert f"{name.rpartition('/')[2]} has an impossible {next(iter(field))}" in row["warnings"]


@pytest.mark.parametrize(
    "name", ["attempts/0/events.jsonl", "attempts/0/launch.json", "status.json", "attempts/0/nodes/000/host0.jsonl"]
)
def test_a_pipe_in_place_of_a_file_is_none_that_can_be_read(tmp_path, name):
    config = make_config()
    path = add_point(make_study(tmp_path), config, [make_attempt(config, [0.1] * 29)])
    (path / name).unlink(missing_ok=True)
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path / name)
    row = summarise(read_point(path))
    assert name.rpartition("/")[2] in row["warnings"]
