"""The page's figures."""

from collections.abc import Sequence
from typing import Any

from harness.analysis.efficiency import Curve
from harness.analysis.points import Gathered
from harness.analysis.summary import Row
from harness.report.figures.bandwidth import bandwidth_figures
from harness.report.figures.comparisons import compared
from harness.report.figures.figure import COMMUNICATION, Figure
from harness.report.figures.goodput import goodput
from harness.report.figures.heat import heat
from harness.report.figures.losses import losses
from harness.report.figures.memory import memory
from harness.report.figures.scaling import efficiency, throughput
from harness.report.figures.steps import collectives, step_times
from harness.report.figures.stragglers import stragglers
from harness.report.figures.waiting import waiting


def figures(document: dict[str, Any], curves: Sequence[Curve], gathered: Gathered) -> list[Figure]:
    """All figures that the study has data for: what scaled, where the loss is, then what each point did."""
    rows: list[Row] = document["points"]
    trained = [row for row in rows if row["model"] is not None]
    ok = [row for row in trained if row["status"] == "ok" and row["step_s_p50"] is not None]
    made = []
    if curves:
        made.append(throughput(curves, rows))
    if any(len(curve.scales) > 1 for curve in curves):
        made.append(efficiency(curves, rows))
    if lost := [entry for entry in document["breakdown"] if entry["label"] != entry["baseline"]]:
        made.append(losses(lost, rows, curves))
    if trained:
        made.append(heat(trained))
    if document["comparisons"]:
        made.append(compared(document["comparisons"], rows))
    if ok:
        made.append(step_times(ok, curves))
    if any(row[f"{name}_s_p50"] is not None for row in ok for name in COMMUNICATION):
        made.append(collectives(ok))
    made += bandwidth_figures(rows, gathered)
    made += [figure for figure in (stragglers(ok), waiting(document["waiting"], curves, rows)) if figure]
    if held := [row for row in rows if row["peak_memory_bytes"] is not None]:
        made.append(memory(held))
    if started := [row for row in rows if row["wall_s"]]:
        made.append(goodput(started))
    return made
