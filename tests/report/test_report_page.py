"""The written report: its files, its words, its tables and figures, and that nothing of a study runs in it."""

import base64
import csv
import gzip
import json
import re
import time
from html import escape
from pathlib import Path

import plotly.graph_objects
import pytest
from made_page import made_points, write_page
from made_rows import made_row
from node_files import add_samples
from omegaconf import OmegaConf
from plotly.offline import get_plotlyjs
from rich.console import Console
from run_dirs import (
    EPOCH,
    add_point,
    demo_study,
    make_attempt,
    make_config,
    make_progress,
    make_study,
    record,
    validator,
)

from harness.analysis.efficiency import curves
from harness.analysis.points import gather
from harness.analysis.read import read_study
from harness.config import Config, Faults
from harness.quantities import number
from harness.report import report, table, tables
from harness.report.figures import figures
from harness.report.figures.heat import heat
from harness.report.words import UNSURE, headline, names, percent

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return report(demo_study(tmp_path_factory.mktemp("demo")))


def read(document, name):
    with open(document["paths"][name], encoding="utf-8") as file:
        return file.read()


def own_part(page):
    """The page without plotly.js."""
    own, packed = re.fullmatch(r'(.*<script type="application/gzip" id="plotly">)([^<]*)(.*)', page, re.S).group(1, 2)
    assert gzip.decompress(base64.b64decode(packed)).decode() == get_plotlyjs()
    return own + page[len(own) + len(packed) :]


def test_four_points_take_less_than_five_seconds(tmp_path):
    study = demo_study(tmp_path)
    begin = time.perf_counter()
    report(study)
    assert time.perf_counter() - begin < 5


def test_the_headline_says_what_each_strategy_keeps(demo):
    assert re.fullmatch(
        r"tiny-ddp keeps 90\.0 % \(\[8\d\.\d, 9\d\.\d\] within one run\) of its tokens/s per rank from 1 to 2 ranks\.",
        demo["headline"][0],
    )
    assert demo["headline"][1].startswith("tiny-fsdp keeps 80.0 % ([")
    assert demo["headline"][0] in read(demo, "page")
    assert demo["headline"][0] in read(demo, "summary")


def test_a_page_of_many_curves_opens_with_a_few_sentences_and_folds_the_others(tmp_path):
    file, document = write_page(tmp_path, made_points((8, 16), ("default", "ring", "tree"), repeats=1))
    page, findings = file.read_text(), [escape(sentence) for sentence in document["headline"]]
    first, folded = (
        re.findall("<li>(.*?)</li>", re.search(f"{start}(.*?)</ul>", page, re.S).group(1))
        for start in ('<ul class="findings">', f'<details id="more" class="more"><summary>{len(findings) - 4} more<')
    )
    assert first == findings[:4]
    assert folded == findings[4:] != []


def test_the_document_is_json_and_equals_the_csv(demo):
    assert json.loads(json.dumps(demo, allow_nan=False)) == demo
    with open(demo["paths"]["points"], encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for written, row in zip(rows, demo["points"], strict=True):
        assert list(written) == list(row)
        assert float(written["tokens_per_s"]) == row["tokens_per_s"]
        assert written["attained"] == ""


def test_the_page_is_small_and_asks_for_nothing(demo):
    page = read(demo, "page")
    assert len(page.encode()) < 6_000_000
    assert not re.search(r"https?://|@import|<link|url\(", own_part(page))
    assert "default-src 'none'" in page


def drawn(document):
    study = read_study(Path(document["paths"]["page"]).parents[1])
    return {figure.key: figure for figure in figures(document, curves(document["points"]), gather(study))}


def test_every_figure_has_data_and_a_caption(demo):
    page, shown = read(demo, "page"), drawn(demo)
    study = ["throughput", "efficiency", "losses", "heat", "comparisons"]
    # the made runs told nothing of ranks
    assert list(shown) == [*study, "step-times", "collectives", "memory", "goodput"]
    for figure in shown.values():
        assert f'id="figure-{figure.key}"' in page
        assert "baseline" in figure.caption.lower()
        assert "run" in figure.caption or "repeat" in figure.caption
        assert all(len(line) == len(figure.numbers.heads) for line in figure.numbers.lines)
        assert figure.numbers.lines
        # Plotly's own schema refuses a misspelt attribute.
        plotly.graph_objects.Figure({"data": figure.data, "layout": figure.layout})


def test_a_study_whose_ranks_told_shows_what_each_causes(tmp_path):
    study = demo_study(tmp_path)
    for point in study.glob("points/tiny-ddp-n1x2-*"):
        add_samples(point, {0: {1: 0.012}, 1: {}}, range(5, 8))
    document = report(study)
    validator().validate(document)
    [entry] = document["waiting"]
    assert (entry["label"], entry["ranks"], entry["sampled_steps"]) == ("tiny-ddp-n1x2", 2, 3)
    late, punctual = entry["foremost"]
    assert late == {"rank": 1, "host": "host0", "caused_s": 0.012, "last_share": 1.0}
    assert (punctual["rank"], punctual["caused_s"], punctual["last_share"]) == (0, -0.012, 0.0)
    assert list(drawn(document))[-3:] == ["waiting", "memory", "goodput"]


def test_every_curve_has_its_own_efficiency_axis(demo):
    efficiency = drawn(demo)["efficiency"]
    axes = {trace["name"]: trace["yaxis"] for trace in efficiency.data}
    assert axes["tiny-ddp"] != axes["tiny-fsdp"]
    titles = [annotation["text"] for annotation in efficiency.layout["annotations"]]
    assert "of tiny-ddp-n1x1" in titles[0]
    assert "of tiny-fsdp-n1x1" in titles[1]


def test_nothing_of_a_study_is_executable(tmp_path):
    study = make_study(tmp_path, "a<script>alert(0)<b>")
    for gpus in (1, 2):
        config = make_config(EVIL, gpus)
        config.model.name = "javascript:<a href=x>[red]"
        attempt = make_attempt(config, [0.1, 0.11] * 6, begin={"device_name": EVIL, "backend": "nccl"})
        # A slug is a safe name; the configuration's names need not be.
        path = add_point(study, make_config(gpus=gpus), [attempt], reason=EVIL)
        (path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))
    document = report(study)
    assert EVIL in document["points"][0]["label"]
    own = own_part(read(document, "page"))
    data = re.findall(r'<script type="application/json" id="[^"]*"', own)
    assert len(re.findall("<script", own)) == 2 + len(data)
    assert "<img" not in own
    assert "<a href=x" not in own
    for name, data in re.findall(r'<script type="application/json" id="([^"]*)">(.*?)</script>', own, re.S):
        assert "<" not in data
        # what plotly takes for HTML; numbers become a table's text
        for text in strings(json.loads(data)) if name.endswith("-plot-data") else ():
            assert "<script" not in text
            assert "<img" not in text
    summary = read(document, "summary")
    assert "<script" not in summary
    assert "<img" not in summary
    assert EVIL in " ".join(printed(document).split())


def printed(document, width=200):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(document))
    return console.export_text()


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)


def test_points_that_did_not_end_well_are_seen_with_their_reason(tmp_path):
    study = demo_study(tmp_path)
    add_point(study, make_config(gpus=4), status="oom", reason="needs 150 GiB | has 141 GiB")
    add_point(study, make_config(gpus=3), status="invalid", reason="heads=4: not divisible by 3")
    document = report(study)
    for name in ("page", "summary"):
        assert "heads=4: not divisible by 3" in read(document, name)
        assert "6 points: 4 ok, 1 invalid, 1 oom" in read(document, name)
    assert "needs 150 GiB \\| has 141 GiB" in read(document, "summary")
    assert document["headline"][0].endswith("from 1 to 2 ranks. At 3 ranks: invalid; 4 ranks: oom.")


def test_oversubscribed_points_are_labelled(tmp_path):
    study = demo_study(tmp_path)
    config = make_config(gpus=4)
    add_point(study, config, [make_attempt(config, [0.3, 0.31] * 6, begin={"oversubscribed": True})])
    document = report(study)
    assert "4 ranks on 2 cores: not a scaling measurement" in read(document, "page")
    assert "* tiny-ddp-n1x4: 4 ranks on 2 cores: not a scaling measurement" in printed(document)
    assert any(line.endswith("with more ranks than cores, not a scaling measurement.") for line in document["headline"])


def test_more_than_ideal_is_doubted(tmp_path):
    study = make_study(tmp_path)
    for gpus, seconds in ((1, 0.2), (2, 0.1)):
        config = make_config(gpus=gpus)
        add_point(study, config, [make_attempt(config, [seconds, seconds * 1.01] * 6)])
    assert report(study)["headline"][0].endswith("from 1 to 2 ranks; more than ideal, so doubt the baseline.")


def test_repeats_are_told_apart_and_named_as_the_interval(tmp_path):
    study = make_study(tmp_path)
    for gpus in (1, 2):
        for repeat in range(3):
            config = make_config(gpus=gpus, repeat=repeat, repeats=3)
            add_point(study, config, [make_attempt(config, [0.1 + 0.001 * repeat, 0.11] * 6)])
    document = report(study)
    assert names(document["points"])[:2] == ["tiny-ddp-n1x1 r0", "tiny-ddp-n1x1 r1"]
    assert document["curves"][0]["scales"][1]["efficiency"]["kind"] == "repeats"
    assert "3 repeats a scale. Bars: 95 % intervals, t-interval over repeats." in read(document, "page")


@pytest.fixture
def wild(tmp_path):
    """Two repeats a scale that differ by a factor of three."""
    study = make_study(tmp_path)
    for gpus in (1, 2):
        for repeat, seconds in enumerate((0.05, 0.15)):
            config = make_config(gpus=gpus, repeat=repeat, repeats=2)
            add_point(study, config, [make_attempt(config, [seconds, seconds * 1.01] * 6)])
    return report(study)


def test_repeats_that_cannot_tell_say_so(wild):
    [line] = wild["headline"]
    assert line == "tiny-ddp: 2 runs a scale can't tell what it keeps of its tokens/s per rank from 1 to 2 ranks."
    shown = drawn(wild)
    assert shown["efficiency"].layout["yaxis"]["range"][1] < 2
    assert "Hollow, ±?: too uncertain to tell" in shown["throughput"].caption


def test_what_repeats_cannot_tell_is_marked_in_every_table(wild, demo):
    assert read(wild, "page").count(f'%<small>{UNSURE}</small><small class="wraps">of tiny-ddp-n1x1</small>') == 2
    assert read(wild, "summary").count("% ±? |") == printed(wild).count("% ±? ") == 2
    for told in (read(wild, "summary"), printed(wild)):
        assert "±?: too uncertain to tell, with an interval wider than 50.0 % of the value, or none." in told
    assert UNSURE not in read(demo, "summary") + printed(demo)
    assert re.search(r"90\.0 % \[8\d\.\d, 9\d\.\d\] ", printed(demo))


@pytest.mark.parametrize("low", [0.99, 0.5, None])
def test_tokens_per_second_of_which_nobody_can_tell_are_marked_in_every_table(low):
    row, unsure = made_points((8, 16), ("default",), repeats=1)[0], low != 0.99
    rate = row["tokens_per_s"]
    row |= {"tokens_per_s_lo": low and rate * low, "tokens_per_s_hi": low and rate / low}
    within = UNSURE if unsure else f"[{number(rate * 0.99)}, {number(rate / 0.99)}]"
    assert f"{number(rate)}<small>{within}</small>" in tables.html([row])
    document = {"headline": [], "study": "made", "points": [row]}
    for told in (tables.markdown([row]), " ".join(printed(document).split())):
        assert (f" {number(rate)} ±? " in told) == ("±?: too uncertain to tell" in told) == unsure
    assert ("tokens/s/GPU ±?<small>one scale" in heat([row]).html) == unsure


def test_a_baseline_is_called_that_and_one_scale_alone_has_no_efficiency(wild, tmp_path):
    assert read(wild, "page").count('<td class="number">baseline</td>') == 2
    assert read(wild, "summary").count("| baseline |") == 2
    study = demo_study(tmp_path, "other")
    add_point(study, make_config("zero3"), [make_attempt(make_config("zero3"), [0.1, 0.11] * 6)])
    document = report(study)
    assert document["points"][-1]["efficiency"] == 1
    for told in (read(document, "summary"), printed(document)):
        [line] = [line for line in told.splitlines() if re.match(r"[|│] tiny-zero3", line)]
        assert "–" in line and "100.0" not in line and "baseline" not in line


def test_a_narrow_terminal_wraps_names_and_cuts_no_number(tmp_path):
    study = make_study(tmp_path)
    for gpus in (1, 2):
        config = make_config("a_strategy_of_a_long_name", gpus, seq_len=256)
        add_point(study, config, [make_attempt(config, [0.1, 0.11] * 6)])
    document = report(study)
    whole = printed(document)
    numbers = [f"{number(row[key])} " for row in document["points"] for key in ("tokens_per_s", "tokens_per_s_gpu")]
    assert all(each in whole for each in numbers)
    for width in (110, 80, 60):
        text = printed(document, width)
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width
        assert numbers[0] in text
        assert ("No room here for " in text) == (width < 110)


def test_the_headline_stands_above_the_table_and_the_first_of_many_do(demo):
    first = " ".join(printed(demo).split())
    assert first.startswith(demo["headline"][0])
    many = {**demo, "headline": [f"sentence {index}." for index in range(9)]}
    assert printed(many).splitlines()[3:5] == ["sentence 3.", f"… and 5 more in {demo['paths']['summary']}"]


def made_curves():
    """Five strategies on 8 and 16 GPUs, two of them on 64 as well, and three on 8 alone."""
    rows = []
    for index, kept in enumerate((0.7, 0.9, 0.8, 0.95, 0.6)):
        for gpus in (8, 16, 64) if index < 3 else (8, 16):
            named = {"curve": f"c{index}", "label": f"c{index}-{gpus}", "slug": f"c{index}-{gpus}", "backend": "nccl"}
            rows.append(made_row(gpus, 0, 0.1 if gpus == 8 else 0.1 / kept, **named))
    for name, step in (("a", 0.3), ("b", 0.1), ("c", 0.2)):
        rows.append(made_row(8, 0, step, curve=name, label=name, slug=name, backend="nccl"))
    return rows


def test_the_best_and_the_worst_of_the_largest_scale_come_first():
    rows = made_curves()
    order = [line.split()[0].rstrip(":") for line in headline(rows, curves(rows))]
    assert order == ["c1", "c0", "c2", "c3", "c4", "b", "a", "c"]


def test_curves_from_a_larger_baseline_come_after_those_that_grew_by_more():
    rows = [made_row(gpus, 0, 0.1, curve="c", label=f"c{gpus}", slug=f"c{gpus}", backend="nccl") for gpus in (1, 2, 4)]
    rows += [made_row(gpus, 0, 0.2, curve="n", label=f"n{gpus}", slug=f"n{gpus}", backend="nccl") for gpus in (2, 4)]
    rows[2]["tokens_per_s"] *= 0.9
    for row in rows:
        row |= {"tokens_per_s_lo": 0.99 * row["tokens_per_s"], "tokens_per_s_hi": 1.01 * row["tokens_per_s"]}
    assert [line.split()[0] for line in headline(rows, curves(rows))] == ["c", "n"]


def test_an_efficiency_without_an_interval_is_none_that_the_headline_tells():
    rows = made_curves()
    for row in rows:
        if row["curve"] == "c1":
            row |= {"tokens_per_s_lo": None, "tokens_per_s_hi": None, "interval": None}
    lines = headline(rows, curves(rows))
    assert [line.split()[0].rstrip(":") for line in lines[:5]] == ["c2", "c0", "c3", "c4", "c1"]
    assert lines[0].startswith("c2 keeps 80.0 % ([")
    assert lines[4] == "c1: single runs can't tell what it keeps of its tokens/s per GPU from 8 to 64 GPUs."


def test_a_fault_on_purpose_is_seen_wherever_its_point_is(tmp_path):
    study = demo_study(tmp_path)
    for gpus in (1, 2):
        config = make_config(gpus=gpus, faults=Faults("slow", "slow"))
        add_point(study, config, [make_attempt(config, [0.2, 0.21] * 6)])
    document = report(study)
    assert [curve["name"] for curve in document["curves"]] == ["tiny-ddp", "tiny-ddp faults=slow", "tiny-fsdp"]
    assert document["headline"][-1].startswith("tiny-ddp faults=slow keeps ")
    assert document["headline"][-1].endswith("; with faults on purpose, not a scaling measurement.")
    assert [row["faults"] for row in document["points"]].count("slow") == 2
    for told in (printed(document), read(document, "summary"), read(document, "page"), read(document, "points")):
        assert "tiny-ddp-n1x2 faults=slow" in told
        assert "faults=slow: figures are of a point with faults on purpose" in told
    assert not any("faults" in one["curve"] + one["other"] for one in document["comparisons"])


def test_without_a_point_that_started_nobody_speaks_of_gpus(tmp_path):
    study = make_study(tmp_path)
    add_point(study, make_config(gpus=3), status="invalid", reason="no")
    assert "GPU" not in printed(report(study))


@pytest.mark.parametrize("kind", Config.__dataclass_fields__["activation_checkpointing"].metadata["choices"])
def test_every_kind_of_checkpointing_is_said(tmp_path, kind):
    study = make_study(tmp_path)
    add_point(study, make_config(activation_checkpointing=kind), status="invalid", reason="no")
    assert f"{kind.replace('none', 'no')} activation checkpointing, " in read(report(study), "summary")


def test_strong_scaling_is_at_a_fixed_global_batch(tmp_path):
    study = make_study(tmp_path)
    for gpus in (1, 2):
        config = make_config(gpus=gpus, scaling="strong", global_batch=8)
        add_point(study, config, [make_attempt(config, [0.1 / gpus, 0.101 / gpus] * 6)])
    document = report(study)
    assert document["headline"][0].endswith("of its speed per rank from 1 to 2 ranks, at a fixed global batch.")
    assert "8 sequences a step, 1 at once a rank" in read(document, "page")


def test_what_ran_is_said_and_a_changed_model_is_seen(tmp_path):
    study = demo_study(tmp_path)
    config = make_config("ddp", 4)
    config.model.layers = 8
    add_point(study, config, status="invalid", reason="no")
    document = report(study)
    facts = (
        "tiny (853,120 parameters) or tiny (1,640,576 parameters)",
        "128 tokens a sequence",
        "1 sequence a rank and step",
        "fp32",
        "not compiled",
        "no activation checkpointing",
        "bytes data",
        "30 steps",
    )
    assert " · ".join(facts) in read(document, "page")
    assert ", ".join(facts) in read(document, "summary")
    assert ", ".join(facts) in " ".join(printed(document).split())


def test_the_first_of_several_doubts_is_printed_with_their_number(tmp_path):
    study = demo_study(tmp_path)
    for path in (study / "points").iterdir():
        events = path / "attempts" / "0" / "events.jsonl"
        events.write_text(events.read_text() + '{"torn')
    config = make_config(gpus=4)
    attempt = make_attempt(config, [0.3, 0.31] * 6, begin={"oversubscribed": True})
    path = add_point(study, config, [attempt])
    (path / "env.json").write_text("torn")
    add_point(study, make_config(gpus=8), status="oom", reason="[red]no memory")
    text = printed(report(study))
    assert "* tiny-ddp-n1x4: 4 ranks on 2 cores: not a scaling measurement (and 1 more)" in text
    assert "* tiny-ddp-n1x8: [red]no memory" in text
    assert " ".join(text.split()).count("torn last line") == 1


def test_a_processor_that_is_the_device_is_named_once(tmp_path):
    study = make_study(tmp_path)
    config = make_config()
    add_point(study, config, [make_attempt(config, [0.1, 0.11] * 6, begin={"device_name": "a made processor"})])
    [facts] = re.findall("<dl>.*</dl>", read(report(study), "page"), re.S)
    assert facts.count("a made processor") == 1


def test_a_loss_has_three_decimals(demo):
    row = demo["points"][0]
    assert f">{row['loss_last']:.3f}</td>" in read(demo, "page")


def test_a_study_whose_points_all_ended_without_a_result_says_how(tmp_path):
    study = make_study(tmp_path)
    for gpus, status in ((1, "oom"), (2, "oom"), (4, "failed"), (8, "ok")):
        add_point(study, make_config(gpus=gpus), status=status)
    [line] = report(study)["headline"]
    assert line == "No point has a measured result: 1 failed, 1 ok without figures in the records, 2 oom."


def test_an_ok_point_without_figures_is_not_said_to_be_fine(tmp_path):
    study = make_study(tmp_path)
    config = make_config()
    add_point(study, config, [make_attempt(config, [0.1, 0.101, 0.099] * 6)])
    add_point(study, make_config(gpus=2), status="ok")
    assert report(study)["headline"][0].endswith(" At 2 ranks: ok without figures in the records.")


def test_a_study_that_has_just_begun_has_a_report(tmp_path):
    study = make_study(tmp_path)
    assert report(study)["headline"] == ["No point has a measured result yet."]
    config = make_config()
    launch, events = make_attempt(config, [0.1, 0.1], ended=False)
    launch["end"] = launch["exit_code"] = None
    path = add_point(study, config, [(launch, events)], status="running")
    with open(path / "attempts/0/events.jsonl", "a") as file:
        file.write('{"schema": 1, "ki')
    (study / "points/half").mkdir()
    document = report(study)
    assert "skipped a torn last line" in document["points"][0]["warnings"]
    assert document["warnings"] == ["point half is left out: it has no config.yaml"]
    assert document["warnings"][0] in read(document, "page")


def test_writing_leaves_no_drafts_and_writes_again(tmp_path):
    study = demo_study(tmp_path)
    report(study)
    report(study)
    assert sorted(path.name for path in (study / "report").iterdir()) == ["index.html", "points.csv", "summary.md"]


def test_every_column_of_points_csv_is_documented(demo):
    documented = (Path(__file__).parents[2] / "docs/report.md").read_text()
    missing = [name for name in demo["points"][0] if f"`{name}`" not in documented and not name.startswith("ledger_")]
    assert missing == []


def test_no_study_is_a_persons_mistake(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        report(tmp_path / "none")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (12345.6, "12,346"), (403, "403.0"), (1234, "1,234"), (0.12345, "0.1235"), (0, "0.000")],
)
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.833333, "83.3 %"), (0.00012, "0.012 %"), (1, "100.0 %"), (None, "–")])
def test_percent(value, text):
    assert percent(value) == text


def environment(path, ambient=(), cleared=(), sha256=None):
    """Give a point the record of an environment."""
    file = {"path": "/etc/nccl.conf", "exists": sha256 is not None, "sha256": sha256, "lines": []}
    texts = {"requested": {}, "added": {}, "effective": dict(ambient), "other": {}}
    made = record("environment", EPOCH, **texts, ambient=dict(ambient), cleared=list(cleared), files=[file])
    (path / "env.json").write_text(json.dumps(made))


def test_what_is_alike_is_no_warning(tmp_path):
    study = demo_study(tmp_path)
    for path in (study / "points").iterdir():
        environment(path, {"NCCL_IB_DISABLE": "1"})
    assert report(study)["warnings"] == []


def test_what_differs_between_ok_points_is_named_with_its_values(tmp_path):
    study = demo_study(tmp_path)
    one, two, three, four = sorted((study / "points").iterdir())
    environment(one, {"NCCL_ALGO": "Ring"})
    environment(two, {"NCCL_ALGO": "Ring"}, sha256="a" * 64)
    environment(three, {"NCCL_ALGO": "Tree", "NCCL_PROTO": "Simple"})
    environment(four, {"NCCL_ALGO": "Ring"}, cleared=["NCCL_ALGO"])
    provenance = json.loads((two / "provenance.json").read_text())
    provenance["git"] = {"sha": "fedcba98", "dirty": True, "remote": None}
    (two / "provenance.json").write_text(json.dumps(provenance))
    versions = {"python": "3.11", "torch": "2.12", "cuda": None, "nccl": "2.27.3", "driver": "570"}
    changed = {"versions": versions, "device_name": "NVIDIA <H200>"}
    events = three / "attempts" / "0" / "events.jsonl"
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    lines = [{**line, **changed} if line["kind"] == "start" else line for line in lines]
    events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    document = report(study)
    ambient = "tiny-fsdp ambient NCCL variables"
    fsdp = f"{ambient} NCCL_ALGO=Tree NCCL_PROTO=Simple torch 2.12, {ambient} none torch 2.13"
    dirty = "tiny-ddp hidden NCCL files nccl.conf:aaaaaaaaaaaa"
    said = {
        "commit": f"0123456789abcdef (tiny-ddp hidden NCCL files none, {fsdp}); fedcba98 ({dirty})",
        "uncommitted changes": f"no (tiny-ddp hidden NCCL files none, {fsdp}); yes ({dirty})",
    }
    apart = {
        "ambient NCCL variables": "tiny-fsdp (NCCL_ALGO=Tree NCCL_PROTO=Simple on 1 rank; none on 2 ranks). "
        "With --join=nccl_ambient",
        "hidden NCCL files": "tiny-ddp (nccl.conf:aaaaaaaaaaaa on 2 ranks; none on 1 rank). With --join=nccl_files",
        "torch": "tiny-fsdp (2.12 on 1 rank; 2.13 on 2 ranks). With --join=torch",
    }
    sentences = {
        title: f"The ok points do not have the same {title}: {values}. Compare them with care."
        for title, values in said.items()
    } | {title: f"Points that differ in {title} are not joined: {values} they are." for title, values in apart.items()}
    sentences = [sentences[title] for title in (*apart, "commit", "uncommitted changes")] + [
        "Some ok points do not tell what others do: device (NVIDIA <H200>), NCCL (2.27.3), driver (570). "
        "Compare them with care."
    ]
    assert document["warnings"] == sentences
    for sentence in sentences:
        assert escape(sentence) in read(document, "page")
        assert escape(sentence, quote=False) in read(document, "summary")


def test_points_that_are_not_ok_are_not_compared(tmp_path):
    study = demo_study(tmp_path)
    path = add_point(study, make_config(gpus=4), status="oom")
    environment(path, {"NCCL_ALGO": "Ring"})
    assert report(study)["warnings"] == []


def test_a_point_whose_records_make_no_sense_keeps_its_row(tmp_path):
    study = demo_study(tmp_path)
    path = sorted((study / "points").iterdir())[0]
    events = path / "attempts" / "0" / "events.jsonl"
    kept = [line for line in events.read_text().splitlines() if json.loads(line)["kind"] not in ("step", "end")]
    events.write_text("\n".join(kept) + "\n")
    # steps that ended at no time
    events.with_name("progress.json").write_text(json.dumps(make_progress(EPOCH + 9, first=1, finished=3)))
    document = report(study)
    assert len(document["points"]) == 4
    [row] = [row for row in document["points"] if row["slug"] == path.name]
    assert (row["status"], row["gpus"], row["tokens_per_s"], row["efficiency"]) == ("ok", 1, None, None)
    assert row["warnings"] == "its records have values that make no sense, so that nothing is taken from them"
    assert document["warnings"] == []


def test_what_a_point_does_not_tell_is_one_sentence(tmp_path):
    study = demo_study(tmp_path)
    one, two, *_ = sorted((study / "points").iterdir())
    (one / "provenance.json").write_text("{")
    (two / "attempts" / "0" / "events.jsonl").unlink()
    document = report(study)
    assert document["warnings"] == [
        "Some ok points do not tell what others do: processor (a made processor), cores of a host (2), "
        "commit (0123456789abcdef), uncommitted changes (no). Compare them with care."
    ]
    remarks = {row["slug"]: row["warnings"] for row in document["points"]}
    assert remarks[one.name] == "provenance.json is not readable"
    assert "attempt 0: events.jsonl is missing" in remarks[two.name]
