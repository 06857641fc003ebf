"""Both themes of the page can be read: contrast after WCAG 2.2, 4.5 for text and 3 for what is drawn."""

import re
from pathlib import Path

import pytest

import harness.report

STYLE = (Path(harness.report.__file__).parent / "style.css").read_text()
TEXTS = ("text", "muted", "link", "ok", "live", "bad", "held")


def theme(name):
    light, dark = re.match(
        r"(:root \{.*?\n\})\n@media screen and \(prefers-color-scheme: dark\) \{(.*?)\n\}", STYLE, re.S
    ).groups()
    return dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", light if name == "light" else dark))


def luminance(color):
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_what_wcag_says():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("name", ["light", "dark"])
def test_texts_and_lines_stand_out_in_both_themes(name):
    colors = theme(name)
    pairs = [(text, ground) for text in TEXTS for ground in ("page", "panel")]
    pairs += [(text, ground) for text in ("text", "bad") for ground in colors if ground.startswith("heat-")]
    # texts inside of bars
    pairs += [("page", f"series-{index}") for index in (1, 2, 3)]
    found = {pair: contrast(*(colors[part] for part in pair)) for pair in pairs}
    assert {pair: value for pair, value in found.items() if value < 4.5} == {}
    drawn = [part for part in colors if part.startswith(("series-", "part-")) or part == "edge"]
    assert {part: value for part in drawn if (value := contrast(colors[part], colors["page"])) < 3} == {}
    assert len(drawn) > 10


def test_a_theme_has_every_colour_of_the_other():
    assert theme("light").keys() == theme("dark").keys()
