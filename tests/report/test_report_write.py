"""The tables beside the page: what a spreadsheet may do with them, and that none is left of another report."""

import csv
import shutil
from pathlib import Path

import pytest
from run_dirs import add_point, demo_study, make_config, make_timed

from harness.config import Workload
from harness.report import report


@pytest.mark.parametrize("formula", ["=cmd|'/c calc'!A1", "\t@SUM(A1)", "-1+1", "\N{FULLWIDTH EQUALS SIGN}A1"])
def test_no_table_has_a_formula_of_a_strangers(tmp_path: Path, formula: str) -> None:
    study = demo_study(tmp_path)
    timed = make_config(gpus=2, workload=Workload(formula, "collectives"))
    at = add_point(study, make_config("zero1"), status="failed", reason=formula)
    add_point(study, timed, [make_timed(timed, {"all_reduce": {1024: 1e-4}})])
    document = report(study)
    assert [row["reason"] for row in document["points"] if row["slug"] == at.name] == [formula]
    [failed] = [row for row in read(document["paths"]["points"]) if row["slug"] == at.name]
    written = f"'{formula.replace(chr(9), ' ')}"
    assert (failed["reason"], failed["status"]) == (written, "failed")
    assert {row["label"][:2] for row in read(document["paths"]["collectives"])} == {written[:2]}


def read(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_tables_of_an_earlier_report_go_with_what_they_told_of(tmp_path: Path) -> None:
    study = demo_study(tmp_path)
    config = make_config(gpus=2, workload=Workload("collectives", "collectives"))
    alone = add_point(study, config, [make_timed(config, {"all_reduce": {1024: 1e-4}})])
    report(study)
    (study / "report" / "breakdown.csv").write_text("curve\n")
    shutil.rmtree(alone)
    document = report(study)
    assert {path.name for path in (study / "report").iterdir()} == {"index.html", "points.csv", "summary.md"}
    assert document["paths"].keys() == {"page", "points", "summary"}
