"""Strategies and NCCL settings against each other, scale by scale, as a table."""

from collections.abc import Sequence
from html import escape
from typing import Any

from harness.analysis.intervals import Interval
from harness.analysis.summary import Row
from harness.quantities import NONE
from harness.report.figures.figure import Cell, Figure, Numbers, windows
from harness.report.words import percent, unit

HEADS = ("curve", "against", "ratio of tokens/s", "95 % interval", "p after Holm", "verdict")
TITLES = {"parallel": "strategy", "nccl": "NCCL"}


def compared(entries: Sequence[dict[str, Any]], rows: Sequence[Row]) -> Figure:
    """A line for each two curves and scale; `entries` are comparisons."""
    over = unit(rows)
    heads = "".join(f'<th scope="col"{_kind(head)}>{head}</th>' for head in (*HEADS[:2], over, *HEADS[2:]))
    body = "\n".join(f"<tr>{_cells(entry)}</tr>" for entry in entries)
    caption = (
        "Tokens/s of the curve ÷ those of the one that it stands against, at the same scale and of the same work; a "
        "strategy against the others of its NCCL setting, a setting against the default of its strategy. Repeats of "
        "one number ran in the same round and are compared in pairs, else each side has its own spread; p is the "
        "t-test's, corrected for all comparisons of the study (Holm), and below 5 % tells a difference. With a single "
        "run on a side there is none. What else the two do not have alike stands beneath. "
        f"{windows(rows)} The baseline is the other curve at that scale."
    )
    html = f"<table><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table>"
    title = "Strategies and NCCL settings compared"
    return Figure("comparisons", title, caption, _numbers(entries), html=html)


def _kind(head: str) -> str:
    return "" if head in ("curve", "against", "verdict") else ' class="number"'


def _cells(entry: dict[str, Any]) -> str:
    ratio = Interval(**entry["ratio"])
    bounds = NONE if ratio.lo is None or ratio.hi is None else f"[{100 * ratio.lo:.1f}, {100 * ratio.hi:.1f}]"
    p = NONE if entry["p_holm"] is None else f"{entry['p_holm']:.2g}"
    numbers = (str(entry["gpus"]), percent(ratio.value), bounds, p)
    return (
        f'<th scope="row">{escape(entry["curve"])}<small>by {TITLES[entry["differs"]]}</small></th>'
        f"<td>{escape(entry['other'])}</td>"
        + "".join(f'<td class="number">{number}</td>' for number in numbers)
        + f"<td>{_verdict(entry)}{_unlike(entry)}</td>"
    )


def _verdict(entry: dict[str, Any]) -> str:
    if entry["significant"] is None:
        return "single runs can't tell"
    if not entry["significant"]:
        return "no difference shown"
    return "faster" if entry["ratio"]["value"] > 1 else "slower"


def _unlike(entry: dict[str, Any]) -> str:
    return f"<small>not the same {escape(', '.join(entry['unlike']))}</small>" if entry["unlike"] else ""


def _numbers(entries: Sequence[dict[str, Any]]) -> Numbers:
    own = ("differs", "curve", "other", "label", "other_label", "nodes", "gpus")
    heads = (
        *own,
        "repeats",
        "other_repeats",
        "paired",
        "ratio",
        "ratio_lo",
        "ratio_hi",
        "interval",
        "p",
        "p_holm",
        "significant",
        "unlike",
    )
    lines: list[list[Cell]] = []
    for entry in entries:
        ratio: list[Cell] = [entry["ratio"][key] for key in ("value", "lo", "hi", "kind")]
        ends: list[Cell] = [entry["p"], entry["p_holm"], entry["significant"], ", ".join(entry["unlike"]) or None]
        lines.append([*(entry[name] for name in own), *entry["repeats"], entry["paired"], *ratio, *ends])
    return Numbers(heads, lines)
