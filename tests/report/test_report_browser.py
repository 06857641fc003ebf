"""The page in a real browser, from a file and without a network."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from run_dirs import add_point, demo_study, make_attempt, make_config, make_study

from harness.config import Nccl, Precision
from harness.report import report

CHROMIUM = shutil.which("chromium")
FIGURES = ("throughput", "efficiency", "step-times", "collectives", "goodput")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian package `chromium`)")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return report(demo_study(tmp_path_factory.mktemp("browser")))["paths"]["page"]


def browse(page, tmp_path, *options, width=1280):
    """Load the page in headless Chromium; its names resolve to nothing and its proxy is a closed port."""
    quiet = "no-first-run disable-background-networking disable-component-update disable-sync disable-quic"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *(f"--{flag}" for flag in quiet.split())]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9"]
    view = [f"--window-size={width},3000", "--virtual-time-budget=10000", "--enable-logging=stderr"]
    options = [f"--user-data-dir={tmp_path}", *offline, *view, *options]
    return subprocess.run(
        [*command, *options, f"file://{page}"], capture_output=True, text=True, timeout=120, check=True
    )


def test_all_figures_are_drawn_and_nothing_complains(page, tmp_path):
    loaded = browse(page, tmp_path, "--dump-dom")
    assert "CONSOLE" not in loaded.stderr
    for key in FIGURES:
        [drawn] = re.findall(rf'<div class="plot[^"]*" id="figure-{key}".*?</figure>', loaded.stdout, re.S)
        assert 'class="main-svg"' in drawn, key
    assert "tiny-ddp keeps 90.0 %" in loaded.stdout


def test_dark_is_dark_in_the_figures_too(page, tmp_path):
    light = browse(page, tmp_path / "light", "--dump-dom").stdout
    dark = browse(page, tmp_path / "dark", "--dump-dom", "--blink-settings=preferredColorScheme=0").stdout
    assert "fill: rgb(27, 33, 40)" in light
    assert "fill: rgb(230, 234, 239)" in dark
    assert "fill: rgb(27, 33, 40)" not in dark


def test_a_picture_can_be_taken(page, tmp_path):
    picture = tmp_path / "page.png"
    browse(page, tmp_path / "profile", f"--screenshot={picture}")
    # An empty page of this size is a few kilobytes.
    assert picture.stat().st_size > 50_000


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


def measured(page, tmp_path, width, expression):
    """What a JavaScript expression says once the page is drawn at this width."""
    script = f"<script>addEventListener('load', () => document.body.dataset.found = {expression})</script>"
    asking = tmp_path / "asking.html"
    asking.write_text(Path(page).read_text().replace("</body>", f"{script}</body>"))
    [found] = re.findall(r'data-found="([^"]*)"', browse(asking, tmp_path, "--dump-dom", width=width).stdout)
    return found


def test_the_points_fit_a_page_of_1400_pixels(wide, tmp_path):
    spill = "(box => box.scrollWidth - box.clientWidth)(document.querySelector('.scroll'))"
    assert measured(wide, tmp_path, 1400, spill) == "0"


@pytest.mark.parametrize("width", [600, 1400])
def test_no_texts_of_the_panels_overlap(wide, tmp_path, width):
    boxes = "[...document.querySelectorAll('#figure-efficiency text')].filter(t => t.textContent).map("
    boxes += "t => t.getBoundingClientRect()).filter(b => b.width)"
    apart = "a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 1 || b.bottom <= a.top + 1"
    pairs = f"(all => all.flatMap((a, i) => all.slice(i + 1).filter(b => !({apart}))).length)({boxes})"
    assert measured(wide, tmp_path, width, pairs) == "0"


def test_figures_far_below_the_view_are_drawn_when_they_come_near(page, tmp_path):
    tall = tmp_path / "tall.html"
    tall.write_text(Path(page).read_text().replace("<main>", '<main><div style="height: 20000px"></div>'))
    drawn = "document.querySelectorAll('.plot .main-svg').length > 0"
    assert measured(tall, tmp_path, 1280, drawn) == "false"
    told = f"addEventListener('scroll', () => document.body.dataset.found = {drawn})"
    assert measured(tall, tmp_path, 1280, f"(scrollTo(0, 1e9), {told}, 'unseen')") == "true"
