"""Two studies side by side, as a document and for a terminal: what changed, the ratios, and what has no partner."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.analysis.intervals import Interval
from harness.analysis.pairing import Unpaired, changed, pair
from harness.analysis.points import Gathered, gather
from harness.analysis.read import read_study
from harness.analysis.summary import Row
from harness.quantities import NONE, number
from harness.records import SCHEMA
from harness.report.words import differences, names, percent, unit


def compare(old_dir: Path, new_dir: Path, given: Sequence[Path] = ()) -> dict[str, Any]:
    """What a new study's points are to an old one's; writes nothing. ValueError where a folder is no study.

    `given` is what a person knows the two as, where that are not these folders: the bundles out of which they came.

    `changed` is what is not alike in the points that are compared, `pairs` have ratios new ÷ old with 95 % intervals,
    `unpaired` is what could not be compared, each with the reason.
    """
    studies = [read_study(folder) for folder in (old_dir, new_dir)]
    old, new = (gather(study) for study in studies)
    over = unit([*old.frame.to_dicts(), *new.frame.to_dicts()])
    pairs, olds, news = pair(old, new)
    places = given or (old_dir, new_dir)
    titles = _titles(old_dir, new_dir, places)
    unpaired = []
    for left, mine, study, other in ((olds, titles[0], old, titles[1]), (news, titles[1], new, titles[0])):
        rows = study.frame.to_dicts()
        for one in left:
            reason = f"{other} has no other ok point of that strategy, NCCL variables, hosts and {over}"
            unpaired.append(Unpaired(mine, one.scale.label, reason))
        unpaired += _not_measured(mine, rows)
    return {
        "schema": SCHEMA,
        "kind": "compare",
        "time": time.time(),
        "old": _about(titles[0], places[0], old),
        "new": _about(titles[1], places[1], new),
        "changed": [dataclasses.asdict(change) for change in changed(old, new, pairs)],
        "over": over,
        "pairs": [dataclasses.asdict(made) for made in pairs],
        # a study beside itself has all of these once
        "unpaired": [dataclasses.asdict(one) for one in dict.fromkeys(unpaired)],
        "warnings": list(
            dict.fromkeys(
                f"{name}: {line}"
                for name, study, gathered in zip(titles, studies, (old, new), strict=True)
                for line in [*study.warnings, *differences(gathered.differences, unit(gathered.frame.to_dicts()))]
            )
        ),
    }


def side_by_side(document: dict[str, Any]) -> RenderableType:
    """The document for a person: what changed, the pairs, and what has none."""
    old, new = document["old"]["study"], document["new"]["study"]
    # Text, not str: names must not be read as markup.
    changed = [f"  {_change(each)}{_in_pairs(each, document['pairs'])}" for each in document["changed"]]
    above = f"What changed from {old} to {new}:" if changed else f"Nothing known changed from {old} to {new}."
    if empty := [side["study"] for side in (document["old"], document["new"]) if not side["ok"]]:
        above = f"What changed from {old} to {new} is not known: no ok point in {' and '.join(empty)}."
    below: dict[str, list[str]] = {}
    for each in document["unpaired"]:
        below.setdefault(f"Not paired from {each['study']} ({each['reason']}): ", []).append(each["label"])
    lines = [why + ", ".join(labels) for why, labels in below.items()]
    return Group(
        Text("\n".join([above, *changed])),
        _table(document) if document["pairs"] else Text("No two points could be paired."),
        Text("\n".join([*lines, *document["warnings"]])),
    )


def _change(told: dict[str, str]) -> str:
    return f"{told['title']}: {told['old']} → {told['new']}"


def _in_pairs(told: dict[str, str], pairs: list[dict[str, Any]]) -> str:
    """In how many of the pairs something changed so, where not in all."""
    count = sum(told in (*each["refused"], *each["changed"]) for each in pairs)
    return f" (in {count} of {len(pairs)} pairs)" if 0 < count < len(pairs) else ""


def _table(document: dict[str, Any]) -> Table:
    over = document["over"]
    about = (
        "Ratios are new ÷ old, with 95 % intervals: over repeats where both have some, else within-run, which know "
        "nothing of how another run would have differed. Where 1 lies inside, they can't tell."
    )
    made = Table(caption=Text(about), caption_justify="left")
    made.add_column("point")
    for head in (over, f"tokens/s/{over[:-1]}", "new", "new ÷ old", "efficiency", "new", "new ÷ old"):
        made.add_column(head, justify="right", no_wrap=True)
    made.add_column("remarks")
    for each in document["pairs"]:
        old, new = each["old"], each["new"]
        label = old["label"] if old["label"] == new["label"] else f"{old['label']}\n→ {new['label']}"
        made.add_row(
            Text(label),
            str(each["gpus"]),
            *(number(side["tokens_per_s_gpu"]["value"]) for side in (old, new)),
            _ratio(each["tokens_per_s_gpu"]),
            *map(_kept, (old, new)),
            _ratio(each["efficiency"]),
            Text(_remark(each)),
        )
    return made


def _kept(side: dict[str, Any]) -> str:
    return "baseline" if side["label"] == side["baseline"] else percent(side["efficiency"]["value"])


def _ratio(told: dict[str, Any] | None) -> Text:
    if told is None:
        return Text(NONE)
    interval = Interval(**told)
    bounds = "" if interval.lo is None or interval.hi is None else f" [{interval.lo:.3f}, {interval.hi:.3f}]"
    return Text(f"{interval.value:.3f}{bounds}")


def _remark(each: dict[str, Any]) -> str:
    if each["refused"]:
        return f"other work, so no ratio: {'; '.join(map(_change, each['refused']))}"
    interval = Interval(**each["tokens_per_s_gpu"])
    if interval.lo is None or interval.hi is None:
        return "no interval"
    return "can't tell" if interval.lo <= 1 <= interval.hi else "faster" if interval.lo > 1 else "slower"


def _titles(old: Path, new: Path, places: Sequence[Path]) -> tuple[str, str]:
    """What the studies are called: by their names, or where these are the same by where they lie."""
    return (old.name, new.name) if old.name != new.name else (str(places[0]), str(places[1]))


def _about(title: str, place: Path, study: Gathered) -> dict[str, Any]:
    ok = study.frame["status"].to_list().count("ok")
    return {"study": title, "path": str(place.absolute()), "points": study.frame.height, "ok": ok}


def _not_measured(title: str, rows: Sequence[Row]) -> list[Unpaired]:
    """The points that are on no curve."""
    return [
        Unpaired(title, name, "times collectives alone" if row["status"] == "ok" else f"is {row['status']}")
        for row, name in zip(rows, names(rows), strict=True)
        if row["status"] != "ok" or row["model"] is None
    ]
