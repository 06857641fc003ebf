"""What the page's figures draw, from made rows of a known truth."""

import re

import plotly.graph_objects
import pytest
from made_page import DEVICE_BYTES, made_points, write_page

from harness.analysis.efficiency import curves
from harness.analysis.points import Gathered
from harness.report.figures import figures
from harness.report.figures.comparisons import compared
from harness.report.figures.heat import heat
from harness.report.figures.memory import memory
from harness.report.figures.stragglers import stragglers
from harness.report.figures.waiting import MARKS, waiting


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("figures"), made_points((8, 16, 32), repeats=3))[1]


@pytest.fixture(scope="module")
def shown(document):
    made = figures(document, curves(document["points"]), Gathered(None, [], {}, {}, []))
    return {figure.key: figure for figure in made}


def test_plotly_knows_every_attribute(shown):
    for figure in shown.values():
        plotly.graph_objects.Figure({"data": figure.data, "layout": figure.layout})


def test_stacks_of_losses_sum_to_the_gap_in_a_panel_of_each_curve(shown, document):
    losses, summed, gaps = shown["losses"], {}, {}
    for trace in losses.data:
        for scale, points in zip(trace["x"], trace["y"], strict=True):
            found = summed if trace["type"] == "bar" else gaps
            found[trace["xaxis"], scale] = found.get((trace["xaxis"], scale), 0) + points
    assert summed == pytest.approx(gaps)
    grown = {entry["curve"] for entry in document["breakdown"] if entry["label"] != entry["baseline"]}
    assert len(losses.layout["annotations"]) == len({trace["xaxis"] for trace in losses.data}) == len(grown) == 6
    wait = next(trace for trace in losses.data if trace["name"] == "exposed waiting")
    entry = next(entry for entry in document["breakdown"] if entry["label"] == "1b-ddp-n2x8")
    [lost] = [part["lost_s"]["value"] for part in entry["parts"] if part["name"] == "wait"]
    assert wait["y"][0] == pytest.approx(100 * lost / entry["step_s"])


def test_parts_that_are_not_known_are_named_and_have_no_bar(tmp_path):
    rows = [row | {"part_bubble_s": None} for row in made_points((8, 16), repeats=2)]
    document = write_page(tmp_path, rows)[1]
    losses = figures(document, curves(rows), Gathered(None, [], {}, {}, []))[2]
    assert "pipeline bubble" in losses.caption
    assert "pipeline bubble" not in [trace["name"] for trace in losses.data]


def cells(figure):
    """The texts of the table's cells by line and column."""
    lines = re.findall(r"<tr>(.*?)</tr>", figure.html, re.S)
    split = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.S) for line in lines]
    return [[re.sub(r"<[^>]*>", " ", cell).split() for cell in line] for line in split]


def test_every_curve_at_every_scale_says_what_is_kept_or_how_it_ended(shown):
    heads, *lines = cells(shown["heat"])
    assert [head[0] for head in heads] == ["curve", "8", "16", "32"]
    by_name = {line[0][0]: line[1:] for line in lines}
    assert by_name["1b-ddp"][0][:2] == ["100.0", "%"]
    assert by_name["1b-ddp"][2][1] == "%"
    assert by_name["1b-ddp"][2][-1] == "tokens/s/GPU"
    assert " ".join(by_name["1b-zero3"][2]) == "1 oom, 1 failed, 1 invalid"


def test_some_repeats_that_ended_badly_are_named_beside_what_the_others_keep():
    rows = made_points((8, 16), ("default",), repeats=2)
    failed = next(row for row in rows if row["parallel"] == "zero3" and row["status"] != "ok")
    last = next(row for row in rows if row["label"] == "1b-ddp-n2x8" and row["repeat"] == 1)
    last |= {"status": "timeout", "tokens_per_s": None}
    rows.remove(failed)
    lines = {line[0][0]: line[1:] for line in cells(heat(rows))[1:]}
    assert lines["1b-ddp"][1][1] == "%"
    assert lines["1b-ddp"][1][-1] == "timeout"


def test_memory_stands_against_the_devices_where_it_is_known():
    rows = made_points((8, 16), ("default",), repeats=1)[:2]
    rows[1]["device_name"] = "a device that nobody knows"
    figure = memory(rows)
    bars, ends = figure.data
    assert ends["x"] == [DEVICE_BYTES / 2**30]
    share = rows[0]["peak_memory_bytes"] / DEVICE_BYTES
    assert bars["text"][0].endswith(f", {100 * share:.1f} %")
    assert "%" not in bars["text"][1]
    assert [line[-2:] for line in figure.numbers.lines] == [[DEVICE_BYTES, share], [None, None]]


def test_no_rank_is_named_where_none_is_known():
    rows = [row for row in made_points((8, 16), ("default",), repeats=1) if row["status"] == "ok"][:2]
    rows[1] |= {"last_rank": None, "last_share": None}
    figure = stragglers(rows)
    last = figure.data[0]
    assert last["x"] == [rows[0]["last_share"], None]
    assert last["text"][0].startswith("rank 5: ")
    assert last["text"][1] == "–"
    assert "A dash: not known" in figure.caption
    unknown = dict.fromkeys(("last_share", "slowest_by", "exposed_wait_s_p50"))
    assert stragglers([row | unknown for row in rows]) is None
    assert stragglers([row | {"gpus": 1} for row in rows]) is None


def test_each_rank_of_the_largest_scale_has_a_mark_a_run_and_none_is_below_zero(shown, document):
    figure, scales = shown["waiting"], {"1b-ddp-n4x8": 32, "1b-zero3-n1x8": 8}
    marks = {trace["name"]: trace for trace in figure.data}
    for label, ranks in scales.items():
        assert sorted(marks[label]["x"]) == sorted([*range(ranks)] * 3), "three repeats"
    for trace in marks.values():
        late = [(y, words) for x, y, words in zip(trace["x"], trace["y"], trace["customdata"], strict=True) if x == 5]
        assert sorted(trace["y"])[-3:] == pytest.approx([12, 12, 12], rel=0.1) == sorted(y for y, _ in late)
        assert min(trace["y"]) == 0
        assert all("rank 5 on node00 keeps others waiting 1" in words for _, words in late)
    assert any("waits itself" in words for words in marks["1b-ddp-n4x8"]["customdata"])
    assert min(line[-2] for line in figure.numbers.lines) < 0
    assert " only the " not in figure.caption


def test_ranks_and_scales_that_are_left_out_are_named(document):
    rows, found = document["points"], curves(document["points"])
    entries = [entry for entry in document["waiting"] if entry["label"] == "1b-ddp-n2x8"]
    figure = waiting([entry | {"ranks": 80_000} for entry in entries], found, rows)
    assert [trace["name"] for trace in figure.data] == ["1b-ddp-n2x8"], "no larger scale has told"
    assert "Of runs of 80000 ranks only the 16 that cause most" in figure.caption
    many = [{"rank": rank, "host": None, "caused_s": 0.01, "last_share": None} for rank in range(MARKS)]
    figure = waiting([entry | {"ranks": MARKS, "foremost": many} for entry in entries], found, rows)
    assert len(figure.data[0]["x"]) == len(figure.numbers.lines) == MARKS // 3 * 3
    assert waiting([], found, rows) is None


def test_comparisons_say_what_may_be_chance(document):
    lines = cells(compared(document["comparisons"], document["points"]))[1:]
    verdicts = {" ".join(line[-1]) for line in lines}
    assert {"faster", "slower"} & verdicts
    assert verdicts <= {"faster", "slower", "no difference shown"}
    single = [entry | {"p_holm": None, "significant": None} for entry in document["comparisons"]]
    assert {" ".join(line[-1]) for line in cells(compared(single, document["points"]))[1:]} == {
        "single runs can't tell"
    }
