"""Records that something has damaged: what is lost never poses as a measurement, and what is not lost stays."""

import json

import pytest
from run_dirs import add_point, make_attempt, make_config, make_study

from harness.analysis.read import read_point
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
        (with_field(tokens="many"), "skipped 1 record with an impossible tokens"),
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


def test_a_count_beyond_the_last_step_is_passed_over(tmp_path):
    def end_late(lines, steps):
        lines[-1] = json.dumps({**json.loads(lines[-1]), "steps": 10**12})

    row, document = damaged(tmp_path, end_late)
    assert (row["tokens_per_s"], document["kept_steps"]) == (pytest.approx(128 / 0.1), 30)


def test_records_that_make_no_sense_leave_a_point_how_it_ended(tmp_path):
    config = make_config()
    launch, events = make_attempt(config, [0.1] * 29)
    events = [{**event, "name": []} if event["kind"] == "phase" else event for event in events]
    document = goodput(add_point(make_study(tmp_path), config, [(launch, events)]))
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
