"""The page in a real browser, from a file and without a network."""

import csv
import re
import time

import pytest
from browser import CHROMIUM, browser
from made_page import made_points, write_page
from run_dirs import add_point, demo_study, make_attempt, make_config, make_study

from harness.analysis.efficiency import curves
from harness.analysis.points import Gathered
from harness.config import Nccl, Precision
from harness.report import report
from harness.report.figures import figures

DRAWN = "[...document.querySelectorAll('.plot')].every(plot => plot.querySelector('.main-svg'))"
FORMULA = '=HYPERLINK("https://example.org","a, b")'

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian package `chromium`)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def tab(folder):
    with browser(folder) as tab:
        yield tab


@pytest.fixture(scope="module")
def made(folder):
    """A page with every figure but those of collectives alone, and its document."""
    rows = made_points(scales=(8, 16, 32), repeats=2)
    rows[0] |= {"reason": FORMULA, "slug": FORMULA}
    return write_page(folder, rows)


def everything(tab):
    tab.run("dispatchEvent(new Event('beforeprint'))")
    assert tab.run(DRAWN)


def test_a_study_opens_without_a_network_and_nothing_complains(tab, tmp_path):
    study = demo_study(tmp_path)
    add_point(study, make_config(gpus=4), status="oom", reason="needs 150 GiB, has 141 GiB")
    document = report(study)
    tab.size(1280)
    tab.open(document["paths"]["page"])
    assert "tiny-ddp keeps 90.0 %" in document["headline"][0]
    assert tab.run("document.querySelector('.findings li').innerText") == document["headline"][0]
    assert "oom" in tab.run("document.querySelector('.heat').innerText")
    for plot in tab.run("[...document.querySelectorAll('.plot')].map(plot => plot.id)"):
        tab.run(f"document.getElementById('{plot}').scrollIntoView()")
        tab.until(f"document.querySelector('#{plot} .main-svg')")
    assert tab.complaints == []
    assert {address.split(":")[0] for address in tab.requests} <= {"file", "data", "blob"}


def test_what_is_out_of_sight_is_drawn_for_a_printer(tab, made):
    tab.size(1280)
    tab.open(made[0])
    assert not tab.run(DRAWN)
    tab.call("Page.printToPDF")
    assert tab.run(DRAWN)
    tab.call("Emulation.setEmulatedMedia", media="print")
    assert tab.run("getComputedStyle(document.querySelector('.filters')).display") == "none"
    assert tab.run("getComputedStyle(document.querySelector('.scroll')).maxHeight") == "none"
    tab.prefer()


def test_dark_is_dark_in_the_figures_too(tab, made):
    fill = "getComputedStyle(document.querySelector('#figure-throughput .xtick text')).fill"
    tab.size(1280)
    tab.prefer(prefers_color_scheme="light")
    tab.open(made[0])
    everything(tab)
    assert tab.run(fill) == "rgb(27, 33, 40)"
    tab.prefer(prefers_color_scheme="dark")
    tab.until(f"{fill} === 'rgb(230, 234, 239)'")
    assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 27)"
    assert len(tab.picture()) > 50_000
    tab.prefer()


def test_points_are_filtered_from_the_keyboard_and_their_number_is_announced(tab, made):
    rows = made[1]["points"]
    said = "document.querySelector('.filters output[aria-live=polite]').textContent"
    shown = "[...document.querySelectorAll('#points tbody')].filter(body => body.getClientRects().length).length"
    tab.open(made[0])
    assert tab.run(said) == f"{len(rows)} of {len(rows)} points"
    tab.run("document.querySelector('.filters input').focus()")
    tab.write("ZERO3 r0")
    count = sum(row["parallel"] == "zero3" and row["repeat"] == 0 for row in rows)
    assert tab.run(said) == f"{count} of {len(rows)} points"
    assert tab.run(shown) == count
    tab.press("Tab")
    assert tab.run("document.activeElement.dataset.key") == "status"
    tab.press("o", "o")
    tab.press("o", "o")
    assert tab.run("document.activeElement.value") in ("ok", "oom")
    status = tab.run("document.activeElement.value")
    count = sum(row["parallel"] == "zero3" and row["repeat"] == 0 and row["status"] == status for row in rows)
    assert tab.run(said) == f"{count} of {len(rows)} points"
    assert tab.run(shown) == count > 0


DONE = """({
    text: document.querySelector('.filters input').value,
    status: document.querySelector('.filters select').value,
    told: document.querySelector('.filters output').textContent,
    sorted: [...document.querySelectorAll('#points [aria-sort]')].map(head => head.cellIndex + head.ariaSort),
    first: document.querySelector('#points tbody').textContent,
    open: [...document.querySelectorAll('details[open]')].map(details => details.id),
    cells: document.querySelectorAll('#figure-heat-table td').length,
})"""


def test_what_was_done_outlives_a_reload_under_the_pages_own_key(tab, made, tmp_path):
    tab.open(made[0])
    untouched = tab.run(DONE)
    tab.run("document.querySelector('.filters input').focus()")
    tab.write("ddp")
    tab.run("document.querySelector('.filters select').focus()")
    tab.press("o", "o")
    for _ in range(2):
        tab.run("document.querySelectorAll('#points .sort')[3].click()")
    for details in ("more", "figure-heat-table"):
        tab.run(f"document.querySelector('#{details} summary').click()")
    tab.until("document.querySelector('#figure-heat-table td') !== null")
    done = tab.run(DONE)
    assert all(done[name] != untouched[name] for name in done)
    tab.open(made[0], again=True)
    tab.until("document.querySelector('#figure-heat-table td') !== null")
    assert tab.run(DONE) == done
    assert tab.run("Object.keys(sessionStorage)") == [f"harness report {made[0]} Scaling study made"]
    assert tab.run("localStorage.length") == 0
    other, _ = write_page(tmp_path, made[1]["points"])
    tab.open(other, again=True)
    assert tab.run(DONE) == untouched
    assert tab.complaints == []


def test_focus_caret_and_what_is_in_sight_outlive_a_reload_of_a_page_that_has_grown(tab, tmp_path):
    rows = made_points(scales=(8, 16, 32), repeats=2)
    page, _ = write_page(tmp_path, [row for row in rows if row["parallel"] in ("ddp", "fsdp")])
    state = """(field => [document.activeElement === field, field.selectionStart, field.selectionEnd,
        Math.round(field.getBoundingClientRect().top)])(document.querySelector('.filters input'))"""
    tab.size(1000)
    tab.open(page)
    short = tab.run("document.documentElement.scrollHeight")
    tab.run("document.querySelector('.filters input').focus()")
    tab.write("1b-")
    tab.run("document.querySelector('.filters input').setSelectionRange(1, 2)")
    done = tab.run(state)
    assert done[:3] == [True, 1, 2]
    assert 0 < done[3] < 1000
    write_page(tmp_path, rows)
    tab.reload()
    assert tab.run("document.documentElement.scrollHeight") > short + 500
    assert tab.run(state) == done
    assert tab.complaints == []


def test_points_are_sorted_by_a_column_with_unknown_ones_last(tab, made):
    tab.open(made[0])
    column = "[...document.querySelectorAll('#points tbody')].map(body => body.rows[0].cells[3].firstChild.textContent)"
    for order, falling in (("ascending", False), ("descending", True)):
        tab.run("document.querySelectorAll('#points .sort')[3].focus()")
        tab.press("Enter", "\r")
        assert tab.run("document.querySelectorAll('#points th')[3].getAttribute('aria-sort')") == order
        texts = tab.run(column)
        known = [float(text.replace(",", "")) for text in texts if text != "–"]
        assert known == sorted(known, reverse=falling)
        assert texts[len(known) :] == ["–"] * (len(texts) - len(known)) != []


def test_every_figure_saves_its_numbers_and_shows_them_as_a_table(tab, made, tmp_path):
    page, document = made
    shown = figures(document, curves(document["points"]), Gathered(None, [], {}, {}, []))
    tab.open(page)
    tab.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    for figure in shown:
        # a real key: a browser saves no more than ten files that nobody has asked for, and may miss that one is asked
        tab.run(f"document.querySelector('#figure-{figure.key} .csv').focus()")
        file = tmp_path / f"{figure.key}.csv"
        for _ in range(5):
            tab.press("Enter", "\r")
            limit = time.monotonic() + 4
            while not file.exists() and time.monotonic() < limit:
                time.sleep(0.02)
            if file.exists():
                break
        with open(file, newline="") as text:
            heads, *lines = csv.reader(text)
        assert heads == list(figure.numbers.heads)
        for line, values in zip(lines, figure.numbers.lines, strict=True):
            for written, value in zip(line, values, strict=True):
                if isinstance(value, bool):
                    assert written == str(value).lower()
                elif isinstance(value, str):
                    # a spreadsheet would take it for a formula
                    assert written == (f"'{FORMULA}" if value == FORMULA else value)
                else:
                    assert written == "" if value is None else float(written) == value
        tab.run(f"document.querySelector('#figure-{figure.key} summary').click()")
        cells = f"document.querySelectorAll('#figure-{figure.key} details td, #figure-{figure.key} details th').length"
        tab.until(f"{cells} === {len(heads) * (1 + len(lines))}")
    assert any(FORMULA in line for figure in shown for line in figure.numbers.lines)
    assert tab.complaints == []


def test_the_page_has_landmarks_names_and_a_visible_focus(tab, made):
    tab.open(made[0])
    for landmark in ("header", "nav[aria-label]", "main", "footer", "[role=search][aria-label]"):
        assert tab.run(f"document.querySelectorAll('{landmark}').length") == 1, landmark
    levels = tab.run("[...document.querySelectorAll('h1, h2, h3')].map(head => head.tagName)")
    assert levels == ["H1"] + ["H2"] * (len(levels) - 1)
    told = tab.call("Accessibility.getFullAXTree")["nodes"]
    nodes = [
        (node["role"]["value"], node.get("name", {}).get("value", ""), node.get("description", {}).get("value", ""))
        for node in told
        if not node["ignored"] and "role" in node
    ]
    pictures = [(name, text) for role, name, text in nodes if role in ("image", "img") and text]
    assert len(pictures) == tab.run("document.querySelectorAll('.plot').length")
    assert all(name and "aseline" in text for name, text in pictures)
    named = ("button", "combobox", "searchbox", "link", "region")
    assert [node for node in nodes if node[0] in named and not node[1]] == []
    tab.press("Tab")
    assert tab.run("document.activeElement.className") == "skip"
    for _ in range(2):
        assert tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        tab.press("Tab")
    tab.prefer(prefers_reduced_motion="reduce")
    moves = "[...document.querySelectorAll('*')].filter(e => parseFloat(getComputedStyle(e).transitionDuration)).length"
    assert tab.run(moves) == 0
    tab.prefer()


def test_a_thousand_points_open_in_under_three_seconds(tab, tmp_path):
    scales, nccls = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512), ("default", "ring", "tree", "nvls", "simple")
    page, document = write_page(tmp_path, made_points(scales, nccls, repeats=5))
    assert len(document["points"]) == 1000
    assert page.stat().st_size < 6_000_000
    tab.size(1280)
    tab.call("Performance.enable", timeDomain="threadTicks")
    tab.open(page)
    assert tab.run("document.querySelector('#figure-throughput .main-svg') !== null")
    used = {metric["name"]: metric["value"] for metric in tab.call("Performance.getMetrics")["metrics"]}
    # of its processor: what else runs on the machine does not count
    assert used["ThreadTime"] < 3


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A page whose table has every column, long figures, remarks, and three curves."""
    study = make_study(tmp_path_factory.mktemp("wide"))
    for parallel, nccl in (("ddp", "default"), ("fsdp", "default"), ("fsdp", "ring")):
        for nodes in (1, 16):
            config = make_config(parallel, 8, nodes, nccl=Nccl(nccl), precision=Precision("bf16", "bf16"))
            begin = {"device_name": "NVIDIA H200", "backend": "nccl", "tokens_per_step": nodes * 8 * 8192}
            launch, events = make_attempt(config, [0.1 + 0.001 * (step % 3) for step in range(29)], begin=begin)
            events = [{**event, "tokens": nodes * 65536} if event["kind"] == "step" else event for event in events]
            add_point(study, config, [(launch, [*events, {}])])
    return report(study)["paths"]["page"]


def test_the_points_fit_a_page_of_1400_pixels(tab, wide):
    tab.size(1400)
    tab.open(wide)
    tab.run("document.querySelector('#points').scrollIntoView()")
    tab.run("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    assert tab.run("(box => box.scrollWidth - box.clientWidth)(document.querySelector('#points .scroll'))") == 0


@pytest.mark.parametrize("width", [600, 1400])
def test_no_texts_of_the_panels_overlap(tab, wide, width):
    tab.size(width)
    tab.open(wide)
    everything(tab)
    for key in ("efficiency", "losses"):
        boxes = f"[...document.querySelectorAll('#figure-{key} text')].filter(t => t.textContent).map("
        boxes += "t => t.getBoundingClientRect()).filter(b => b.width)"
        apart = "a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 1 || b.bottom <= a.top + 1"
        pairs = f"(all => all.flatMap((a, i) => all.slice(i + 1).filter(b => !({apart}))).length)({boxes})"
        assert tab.run(pairs) == 0, key
        assert tab.run("document.documentElement.scrollWidth - innerWidth") <= 0


@pytest.mark.parametrize("width", [320, 600])
def test_only_tables_scroll_sideways(tab, tmp_path, width):
    rows = made_points()
    for row in rows:
        row |= {"precision": "bf16" * 40 if row["nccl"] == "ring" else "bf16", "model": "m" * 100}
    page, _ = write_page(tmp_path, [row for row in rows if row["gpus"] < 64 or row["parallel"] != "hsdp"])
    tab.size(width)
    tab.open(page)
    everything(tab)
    heat = "document.querySelector('.scroll:has(.heat)')"
    assert tab.run(f"{heat}.scrollWidth > {heat}.clientWidth && {heat}.querySelector('.unseen') !== null")
    assert tab.run("document.documentElement.scrollWidth - innerWidth") <= 0


def test_figures_fill_their_place_whatever_becomes_of_the_window(tab, made):
    place = "[...document.querySelectorAll('.plot')].map(plot => [plot.id, plot.clientHeight])"
    drawn = place.replace("plot.clientHeight", "plot.querySelector('.main-svg').getBoundingClientRect().height")
    heights = []
    tab.size(1280)
    tab.open(made[0])
    everything(tab)
    for size in ((1280, 1000), (500, 900), (500, 8800), (1280, 900)):
        tab.size(*size)
        # longer than plotly takes to follow a window
        tab.run("new Promise(done => setTimeout(done, 500))")
        assert tab.run(drawn) == tab.run(place), size
        heights.append(dict(tab.run(place)))
    wide, narrow, tall, again = heights
    assert (again, tall) == (wide, narrow)
    # six panels in two rows, and in six
    assert narrow["figure-efficiency-plot"] == 3 * wide["figure-efficiency-plot"]
    assert narrow["figure-memory-plot"] == wide["figure-memory-plot"]


def test_the_skip_link_leads_to_the_content(tab, made):
    tab.open(made[0])
    tab.press("Tab")
    tab.press("Enter", "\r")
    assert re.search("#content$", tab.run("location.href"))
    assert tab.run("document.activeElement.id") == "content"
