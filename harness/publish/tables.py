"""A report's document as flat tables, and the part of them that charts show."""

import json
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]


def tables(document: dict[str, Any]) -> dict[str, list[Row]]:
    """Every list of rows of the document by its name, none of them empty; `points` are the rows of points.csv.

    A curve has a row for each of its scales.
    """
    lists = {name: rows for name, rows in document.items() if isinstance(rows, list) and _are_rows(rows)}
    if "curves" in lists:
        lists["curves"] = [
            {**{f"curve_{key}" if key == "name" else key: of for key, of in curve.items() if key != "scales"}, **scale}
            for curve in lists["curves"]
            for scale in curve["scales"]
        ]
    return {name: [flat(row) for row in rows] for name, rows in lists.items() if rows}


def flat(row: Row) -> Row:
    """A row of scalars alone: an interval becomes its value, `_lo`, `_hi` and `_interval`, a list its parts' text."""
    made: Row = {}
    for key, value in row.items():
        if isinstance(value, dict) and "value" in value:
            names = {"value": key, "kind": f"{key}_interval"}
            made |= {names.get(part, f"{key}_{part}"): of for part, of in value.items()}
        elif isinstance(value, dict):
            made |= {f"{key}_{part}": of for part, of in flat(value).items()}
        elif isinstance(value, list):
            made[key] = " ".join(value) if all(isinstance(part, str) for part in value) else json.dumps(value)
        else:
            made[key] = value
    return made


def columns(rows: Iterable[Row]) -> list[str]:
    """The keys of rows, in the order in which they first come."""
    return list(dict.fromkeys(key for row in rows for key in row))


def largest(rows: Iterable[Row]) -> list[Row]:
    """Of the rows of curves, each curve's largest scale."""
    return list({row["curve_name"]: row for row in rows}.values())


def _are_rows(rows: list[Any]) -> bool:
    return all(isinstance(row, dict) for row in rows)
