"""The page in a real browser, from a file and without a network."""

import re
import shutil
import subprocess

import pytest
from run_dirs import demo_study

from harness.report import report

CHROMIUM = shutil.which("chromium")
FIGURES = ("throughput", "efficiency", "step-times", "collectives", "goodput")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian package `chromium`)")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return report(demo_study(tmp_path_factory.mktemp("browser")))["paths"]["page"]


def browse(page, tmp_path, *options):
    """Load the page in headless Chromium; its names resolve to nothing and its proxy is a closed port."""
    quiet = "no-first-run disable-background-networking disable-component-update disable-sync disable-quic"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *(f"--{flag}" for flag in quiet.split())]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9"]
    view = ["--window-size=1280,3000", "--virtual-time-budget=10000", "--enable-logging=stderr"]
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
