"""Every curve at every scale in one table: what is kept there, or how its points ended."""

from collections import Counter
from collections.abc import Sequence
from html import escape

from harness.analysis.efficiency import Curve, Scale, curves
from harness.analysis.summary import Row
from harness.quantities import number
from harness.report.figures.figure import WITHIN_RUN, Cell, Figure, Numbers, doubt
from harness.report.words import TOO_WIDE, UNSURE, percent, span, unit

SHADES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Efficiencies from which on a shade is the next stronger one."""
Place = tuple[int, int]
"""GPUs and nodes."""


def heat(rows: Sequence[Row]) -> Figure:
    """A line a curve, a column a scale; shaded by efficiency where it is known, which the cell says as well."""
    over = unit(rows)
    members: dict[str, dict[Place, list[Row]]] = {}
    for row in rows:
        members.setdefault(row["curve"], {}).setdefault((row["gpus"], row["nodes"]), []).append(row)
    places = sorted({place for scales in members.values() for place in scales})
    found = {curve.name: curve for curve in curves(rows)}
    lines: list[list[Cell]] = []
    body = []
    for name, scales in members.items():
        curve = found.get(name)
        kept = {(scale.gpus, scale.nodes): scale for scale in curve.scales} if curve else {}
        alone = curve is not None and len(curve.scales) == 1
        of = f"{curve.scaling}, {'one scale' if alone else f'of {curve.baseline.label}'}" if curve else "no baseline"
        cells = [f'<th scope="row">{escape(name)}<small>{escape(of)}</small></th>']
        for place in places:
            if place not in scales:
                cells.append('<td class="absent">–<span class="unseen"> not in the study</span></td>')
                continue
            scale, ends = kept.get(place), Counter(str(row["status"]) for row in scales[place])
            cells.append(_cell(curve, scale, ends, over))
            share = scale.efficiency if scale and not alone else None
            told: list[Cell] = [share.value, share.lo, share.hi] if share else [None] * 3
            rate = scale.tokens_per_s.value / scale.gpus if scale else None
            lines.append([name, place[1], place[0], len(scales[place]), _ended(ends), *told, rate])
        body.append(f"<tr>{''.join(cells)}</tr>")
    heads = "".join(
        f'<th scope="col" class="number">{gpus}<small>{nodes} × {gpus // nodes}</small></th>' for gpus, nodes in places
    )
    html = (
        f'<table class="heat"><thead><tr><th scope="col">curve<small>nodes × {over} on each</small></th>{heads}</tr>'
        f"</thead><tbody>\n{chr(10).join(body)}\n</tbody></table>"
    )
    caption = (
        f"Efficiency against the line's own baseline, mean over the ok repeats; small: its 95 % interval and tokens/s/"
        f"{over[:-1]}, which stand alone where a line has one scale and so no efficiency. The more is kept, the "
        f"stronger the shade; there is none behind an efficiency with {UNSURE}. {UNSURE}: too uncertain to tell, with "
        f"{TOO_WIDE}. Efficiencies of different baselines do not compare down a column; tokens/s do where the work is "
        "the same. Points that did not end well are named by how they ended. The measured window of each run, without "
        "warm-up and sampled steps."
    )
    names = ("curve", "nodes", "gpus", "points", "status", "efficiency", "efficiency_lo", "efficiency_hi")
    return Figure(
        "heat",
        f"Every strategy at every number of {over}",
        caption,
        Numbers((*names, "tokens_per_s_gpu"), lines),
        html=html,
    )


def _cell(curve: Curve | None, scale: Scale | None, ends: Counter[str], over: str) -> str:
    others = Counter({status: count for status, count in ends.items() if status != "ok"})
    ended = f'<span class="status bad">{escape(_ended(others))}</span>' if others else ""
    if curve is None or scale is None:
        return f'<td class="number">{ended or "ok, nothing measured"}</td>'
    rate = f"{number(scale.tokens_per_s.value / scale.gpus)} tokens/s/{over[:-1]}{doubt(scale.tokens_per_s)}"
    if len(curve.scales) == 1:
        return f'<td class="number">{rate}<small>one scale</small>{ended}</td>'
    if scale is curve.baseline:
        return f'<td class="number">baseline<small>{rate}</small>{ended}</td>'
    share = scale.efficiency
    shade = f" heat-{_shade(share.value)}" * share.tells
    within = f"{span(share)}{WITHIN_RUN * (share.kind == 'within-run')}"
    small = "".join(f"<small>{text}</small>" for text in (within, rate) if text)
    return f'<td class="number{shade}">{percent(share.value)}{doubt(share)}{small}{ended}</td>'


def _shade(share: float) -> int:
    return sum(share >= step for step in SHADES)


def _ended(ends: Counter[str]) -> str:
    """`oom`, or `2 ok, 1 oom` of several."""
    if sum(ends.values()) == 1:
        return next(iter(ends))
    return ", ".join(f"{count} {status}" for status, count in sorted(ends.items(), key=lambda end: end[0] != "ok"))
