"""The page of a stranger's study: what its files say appears as text, and nothing of it runs."""

import json
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from browser import CHROMIUM, browser
from node_files import add_samples
from run_dirs import add_point, demo_study, make_config, make_timed

from harness.cli import parse
from harness.config import Workload
from harness.report import report, table

RUNS = "document.documentElement.dataset.ran=1"
PAYLOAD = f"<script>{RUNS}</script><img src=x onerror={RUNS}><a href=javascript:{RUNS}>|\"'</title></style>$title[/b]`"
STEERING = "\x1b[31mRED\x1b]0;title\x07\x9b\r\n\u2028\u202e"
# What a reader of the files goes by; any other value of these leaves a record or a point out.
STRUCTURE = {
    *("kind", "role", "op", "source", "type", "parameters", "compute", "reduce", "accumulate", "master", "moments"),
    *("status", "scaling", "schedule", "wandb", "dtype", "state", "activation_checkpointing", "attention", "balance"),
    *("mode", "ambient", "context", "backend", "device"),
}


def poison(value, payload, key=None):
    """The value with the payload behind every text in it that is free."""
    if isinstance(value, dict):
        if value.get("kind") == "phase":
            return value
        return {name: poison(item, payload, name) for name, item in value.items()}
    if isinstance(value, list):
        return [poison(item, payload, key) for item in value]
    return f"{value}{payload}" if isinstance(value, str) and key not in STRUCTURE else value


def poison_files(point, payload):
    """Poison every file of a point."""
    for path in point.rglob("*"):
        if path.suffix == ".json":
            path.write_text(json.dumps(poison(json.loads(path.read_text()), payload)))
        elif path.suffix == ".jsonl":
            records = [json.dumps(poison(json.loads(line), payload)) for line in path.read_text().splitlines()]
            path.write_text("\n".join([*records, '{"torn <script>']))
        elif path.name == "config.yaml":
            path.write_text(yaml.safe_dump(poison(yaml.safe_load(path.read_text()), payload)))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The report of a study whose every file, and every folder's name, was written by somebody who means ill."""
    study = demo_study(tmp_path_factory.mktemp("hostile"), "study<img src=x onerror=alert(1)>", reason="reason")
    config = make_config("ddp", 2, workload=Workload("collectives", "collectives"))
    add_point(study, config, [make_timed(config, {"all_reduce": {1024: 1e-4, 2**20: 1e-3}})])
    for point in study.glob("points/*-n1x2-*"):
        add_samples(point, {0: {1: 0.01}, 1: {}}, range(5, 8))
    for number, point in enumerate(sorted((study / "points").iterdir())):
        poison_files(point, PAYLOAD)
        if number == 4:
            status = json.loads((point / "status.json").read_text())
            (point / "status.json").write_text(json.dumps({**status, "status": PAYLOAD}))
        point.rename(point.with_name(f"{number}<img src=x onerror={RUNS}>"))
    (study / "points" / "<b onclick=alert(1)>damaged").mkdir()
    return report(study)


def test_every_point_is_there_in_spite_of_its_texts(hostile):
    assert len(hostile["points"]) == 5
    assert len(hostile["warnings"]) >= 1
    assert any("damaged" in warning for warning in hostile["warnings"])
    table(hostile)


def test_hosts_names_are_text_where_one_points_at_a_rank(hostile):
    page = Path(hostile["paths"]["page"]).read_text()
    data = re.search(r'id="figure-waiting-plot-data">(.*?)</script>', page, re.S).group(1)
    words = [text for trace in json.loads(data)["data"] for text in trace["customdata"]]
    assert len(words) == 2
    assert all(f" on host0{escape(PAYLOAD)} " in text for text in words)


def test_the_summary_holds_no_html(hostile):
    summary = Path(hostile["paths"]["summary"]).read_text()
    assert "&lt;script&gt;" in summary
    assert not re.search(r"<[a-zA-Z/!]", summary)


def test_no_text_steers_a_terminal_or_breaks_a_line(tmp_path, capsys):
    study = demo_study(tmp_path, "steering", reason="reason")
    config = make_config("ddp", 2, workload=Workload("collectives", "collectives"))
    add_point(study, config, [make_timed(config, {"all_reduce": {1024: 1e-4}})])
    for number, point in enumerate((study / "points").iterdir()):
        poison_files(point, STEERING)
        renamed = point.rename(point.with_name(f"{number}\x1b[31mRED\u202e\n"))
    said = {}
    for verb, *named in (["report", study], ["status", study], ["watch", study], ["goodput", renamed], ["compare"]):
        arguments = parse([verb, *map(str, named or (study, demo_study(tmp_path, "other")))])
        assert arguments.verb(arguments) == 0
        said[verb] = capsys.readouterr().out
    said |= {path.name: path.read_text() for path in (study / "report").glob("*.*[dv]")}
    for text in said.values():
        assert "\\x1b[31mRED" in text
        assert all(character.isprintable() or character == "\n" for character in text)
    lines = {name: text.count("\n") for name, text in said.items()}
    assert (lines["status"], lines["points.csv"], lines["collectives.csv"]) == (6, 6, 2)


class Elements(HTMLParser):
    """The elements of a page that the payload would bring, were it not text, and all of the page's text."""

    def __init__(self, page):
        super().__init__()
        self.foreign, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        told = [value for name, value in attributes if name.startswith("on") or str(value).startswith("javascript:")]
        if tag in ("img", "b") or told:
            self.foreign.append((tag, attributes))

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_has_no_element_that_comes_of_a_text(hostile):
    page = Path(hostile["paths"]["page"]).read_text()
    found = Elements(page)
    assert found.foreign == []
    assert page.count("</title>") == 1
    assert page.count("<script") == 2 + page.count('<script type="application/json" id="figure-')
    assert sum(PAYLOAD in text for text in found.text) > 10


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian package `chromium`)")
def test_nothing_of_it_runs_in_a_browser_and_all_of_it_is_text(hostile, tmp_path):
    with browser(tmp_path) as tab:
        tab.size(320)
        tab.open(hostile["paths"]["page"])
        assert tab.run("document.documentElement.scrollWidth - innerWidth") <= 0
        tab.size(1280)
        tab.run("dispatchEvent(new Event('beforeprint'))")
        tab.run("document.querySelectorAll('summary').forEach(summary => summary.click())")
        tab.until("[...document.querySelectorAll('details')].every(details => details.querySelector('td'))")
        # where a figure has no such point nothing is hovered
        hover = "try { Plotly.Fx.hover(plot, [{curveNumber: 0, pointNumber: 0}]) } catch (nothing) {}"
        tab.run(f"for (const plot of document.querySelectorAll('.plot')) {{ {hover} }}")
        tab.until("document.querySelectorAll('.hovertext').length >= 3")
        assert tab.complaints == []
        assert tab.run("document.querySelectorAll('.main-svg').length") >= 5
        assert tab.run("document.documentElement.dataset.ran") is None
        shown = tab.run("document.documentElement.outerHTML")
    found = Elements(shown)
    assert found.foreign == []
    assert sum(f"<script>{RUNS}</script>" in text for text in found.text) > 20
    # figures take some HTML in their texts, and drop the rest
    legends = re.findall(r'class="legendtext"[^>]*>(.*?)</text>', shown)
    named = [text for text in legends if "tiny" in text]
    assert named
    assert all("&lt;script&gt;" in text for text in named)
