"""What the page's figures draw, from made rows of a known truth."""

import copy
import re

import plotly.graph_objects
import pytest
from made_page import DEVICE_BYTES, made_points, made_waiting, write_page

from harness.analysis.attainable import Bandwidth, InStep
from harness.analysis.efficiency import curves, fill_rows
from harness.analysis.points import Gathered
from harness.report.figures import figures
from harness.report.figures.bandwidth import busbw
from harness.report.figures.comparisons import compared
from harness.report.figures.figure import HOLLOW, OTHERS, colors
from harness.report.figures.heat import heat
from harness.report.figures.losses import losses
from harness.report.figures.memory import memory
from harness.report.figures.scaling import throughput
from harness.report.figures.stragglers import stragglers
from harness.report.figures.waiting import MARKS, waiting
from harness.report.words import UNSURE


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
        if trace["x"] == [None]:  # stands for its part in the legend
            continue
        for scale, points in zip(trace["x"], trace["y"], strict=True):
            found = summed if trace["type"] == "bar" else gaps
            found[trace["xaxis"], scale] = found.get((trace["xaxis"], scale), 0) + points
    assert summed == pytest.approx(gaps)
    grown = {entry["curve"] for entry in document["breakdown"] if entry["label"] != entry["baseline"]}
    assert len(losses.layout["annotations"]) == len({axis for axis, _ in gaps}) == len(grown) == 6
    wait = next(trace for trace in losses.data if trace["name"] == "exposed waiting" and trace["y"] != [None])
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
    assert by_name["1b-ddp"][0][0] == "baseline"
    assert by_name["1b-ddp"][2][1] == "%"
    assert by_name["1b-ddp"][2][-1] == "tokens/s/GPU"
    assert " ".join(by_name["1b-zero3"][2]) == "1 oom, 1 failed, 1 invalid"


def test_a_curve_of_one_scale_has_a_speed_and_no_efficiency(shown):
    figure = heat([row for row in made_points((8, 16, 32), ("default",), repeats=2) if row["gpus"] == 8])
    rows = cells(figure)[1:]
    assert len(rows) == 4
    assert all(line[1][1:] == ["tokens/s/GPU", "one", "scale"] for line in rows)
    assert all(line[0][1:] == ["weak,", "one", "scale"] for line in rows)
    assert not re.search(r"heat-\d|%", figure.html)
    named = [dict(zip(figure.numbers.heads, line, strict=True)) for line in figure.numbers.lines]
    assert all(line["efficiency"] is None and line["tokens_per_s_gpu"] > 0 for line in named)
    assert re.search(r"heat-\d", shown["heat"].html)


def spread(by, repeats):
    """Points of repeats that are so far apart, the transfer alone is not; at 16 GPUs computation takes a tenth more."""
    rows = [row for row in made_points((8, 16), ("default",), repeats) if row["parallel"] == "ddp"]
    for row in rows:
        factor = 1 + by * row["repeat"]
        changed = {name: row[name] / factor for name in ("tokens_per_s", "tokens_per_s_lo", "tokens_per_s_hi")}
        changed["step_s_mean"] = row["step_s_mean"] * factor
        changed["part_compute_s"] = row["part_compute_s"] * factor * (1.1 if row["gpus"] == 16 else 1)
        row |= changed
    fill_rows(rows)
    return rows


@pytest.mark.parametrize("unsure", [True, False])
def test_what_is_too_uncertain_to_tell_has_one_mark_everywhere(tmp_path, unsure):
    rows = spread(0.3 if unsure else 0.001, repeats=2)
    document = write_page(tmp_path, rows)[1]
    made = {each.key: each for each in figures(document, curves(rows), Gathered(None, [], {}, {}, []))}
    [rate] = [trace for trace in made["throughput"].data if trace["mode"] == "lines+markers"]
    [share] = [trace for trace in made["efficiency"].data if trace["mode"] == "lines+markers"]
    assert (HOLLOW in rate["marker"]["color"]) == unsure
    # never the baseline, which is 100 % of itself
    assert share["marker"]["color"] == (["var(--series-1)", HOLLOW] if unsure else "var(--series-1)")
    for key in ("efficiency", "losses"):
        [annotation] = made[key].layout["annotations"]
        assert (UNSURE in annotation["text"]) == unsure
    assert (UNSURE in made["heat"].html) == unsure
    assert ("heat-" in made["heat"].html) != unsure
    # the whole bar is drawn, but for what no axis could hold
    assert share["error_y"]["array"][1] > 0
    _, top = made["efficiency"].layout["yaxis"]["range"]
    assert (share["y"][1] + share["error_y"]["array"][1] > top) == unsure
    filled = {t["name"]: t["marker"]["color"] for t in made["losses"].data if t["type"] == "bar" and t["y"] != [None]}
    assert (HOLLOW in filled["slower compute"]) == unsure
    assert HOLLOW not in filled["exposed transfer"]


def test_losses_of_single_runs_are_hollow_and_say_so(tmp_path):
    rows = spread(0, repeats=1)
    document = write_page(tmp_path, rows)[1]
    losses = figures(document, curves(rows), Gathered(None, [], {}, {}, []))[2]
    bars = [trace for trace in losses.data if trace["type"] == "bar" and trace["y"] != [None]]
    assert bars and all(trace["marker"]["color"] == [HOLLOW] for trace in bars)
    assert "within one run" in losses.layout["annotations"][0]["text"]
    assert f"{UNSURE} too uncertain to tell" in [trace["name"] for trace in losses.data]


@pytest.mark.parametrize(("lo", "hi", "told"), [(0.01, 0.03, True), (-0.03, -0.01, True), (-0.001, 0.041, False)])
def test_a_loss_is_told_where_its_interval_excludes_zero_however_wide(document, lo, hi, told):
    [entry] = [copy.deepcopy(entry) for entry in document["breakdown"] if entry["label"] == "1b-ddp-n2x8"]
    [part] = [part for part in entry["parts"] if part["name"] == "transfer"]
    part["lost_efficiency"] |= {"value": (lo + hi) / 2, "lo": lo, "hi": hi}
    figure = losses([entry], document["points"], curves(document["points"]))
    [bar] = [trace for trace in figure.data if trace["name"] == "exposed transfer" and trace["y"] != [None]]
    assert (HOLLOW not in bar["marker"]["color"]) == told
    assert bar["customdata"][0].count(UNSURE) == (not told)
    assert f"[{100 * lo:.2f}, {100 * hi:.2f}] points" in bar["customdata"][0]


def test_of_more_curves_than_colours_the_fastest_and_the_slowest_are_named():
    rows = made_points((8, 16, 32), ("default", "ring", "tree"), repeats=2)
    found = curves(rows)
    figure = throughput(found, rows)
    lines = [trace for trace in figure.data if trace["mode"] == "lines+markers"]
    legend = [trace["name"] for trace in lines if trace.get("showlegend", True)]
    assert len(found) == len(lines) == 12
    speeds = sorted(found, key=lambda curve: curve.largest.tokens_per_s.value / curve.largest.gpus)
    assert set(legend) == {"6 others", *(curve.name for curve in speeds[:3] + speeds[-3:])}
    inks = [trace["line"]["color"] for trace in lines if trace["name"] != "6 others"]
    assert len(set(inks)) == len(inks) == 6
    # who is not named there is where one points at it
    assert all(curve.baseline.label in str([trace["customdata"] for trace in lines]) for curve in found)


def test_a_legend_names_no_more_runs_of_collectives_than_there_are_colours():
    entry = {"op": "all_reduce", "graph": False, "in_place": True, "bytes": 2**20, "duration_s": 1e-3, "busbw": 1e9} | {
        "group_size": 8
    }
    slugs = [f"run-{index}" for index in range(11)]
    lines = [Bandwidth(slug, None, [entry]) for slug in slugs]
    steps = {slug: [InStep("all_reduce", "world", 8, 2**20, 1.0, 1e-3, 1e9)] for slug in slugs}
    figure = busbw(lines, steps, {slug: slug for slug in slugs})
    shown = [trace["name"] for trace in figure.data if trace["showlegend"]]
    named = [*slugs[:8], "3 others"]
    assert shown == named + [f"{name}, in a step" for name in named]
    assert all(figure.data[index]["customdata"][0].startswith(slug) for index, slug in enumerate(slugs))
    plotly.graph_objects.Figure({"data": figure.data, "layout": figure.layout})


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


def test_marks_of_ranks_have_the_colours_that_their_curves_have_elsewhere():
    rows = made_points((8, 16, 32), ("default", "ring", "tree"), repeats=1)
    found = curves(rows)
    inks = colors(found)
    figure = waiting(made_waiting(rows), found, rows)
    assert len(figure.data) == len(found) == 12
    for trace in figure.data:
        [curve] = [curve for curve in found if trace["customdata"][0].startswith(f"{curve.largest.label}<br>")]
        assert trace["marker"]["color"] == inks[curve.name]
        assert trace["name"] == ("6 others" if inks[curve.name] == OTHERS else curve.largest.label)
    legend = [trace["name"] for trace in figure.data if trace.get("showlegend", True)]
    assert len(legend) == len(set(legend)) == 7
    assert "Grey as in tokens/s" in figure.caption
    few = waiting(made_waiting(rows), found[:8], rows)
    assert "Grey" not in few.caption and "others" not in str([trace["name"] for trace in few.data])
    assert len({trace["marker"]["symbol"] for trace in few.data}) == 8


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
