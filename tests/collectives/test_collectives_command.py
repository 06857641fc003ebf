"""`harness run workload=collectives` as a person runs it, with the real worker on this machine's CPUs."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from run_dirs import validator
from study_command import STAND_IN, Command

from harness.analysis.read import read_point
from harness.config import OPERATIONS
from harness.publish.history import History
from harness.report import report

WORDS = ("workload=collectives", "gpus_per_node=2", "workload.max_bytes=65536", "record.wandb=disabled")
SIZES = [2**power for power in range(10, 17)]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    command = Command(tmp_path_factory.mktemp("collectives"), {"CUDA_VISIBLE_DEVICES": ""})
    ended = command("run", "study=alone", *WORDS)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (command.folder / "said.txt").write_text(ended.stdout)
    return command


@pytest.fixture(scope="module")
def records(command: Command) -> list[dict[str, Any]]:
    [run_dir] = command.points("alone").values()
    return [json.loads(line) for line in (run_dir / "attempts/0/events.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def document(command: Command) -> dict[str, Any]:
    return report(command.folder / "studies" / "alone")


def test_the_point_ends_ok_and_says_how_fast(command: Command) -> None:
    [(slug, status)] = command.status("alone").items()
    assert slug.rpartition("-")[0] == "collectives-all-n1x2-default-r0"
    assert status["status"] == "ok"
    said = (command.folder / "said.txt").read_text()
    assert "2 CPU processes, all_reduce, all_gather, reduce_scatter, all_to_all, broadcast, send_recv, 1 KiB to" in said
    assert ": ok, " in said and " GB/s busbw, " in said


def test_every_record_is_valid_and_every_operation_and_size_is_there_once(records) -> None:
    for record in records:
        validator().validate(record)
    assert [record["kind"] for record in records[:3]] == ["phase", "start", "phase"]
    trained = ("steps", "tokens", "graph_breaks", "compiled_graphs")
    assert [records[-1][name] for name in ("kind", *trained)] == ["end", None, None, None, None]
    timed = [record for record in records if record["kind"] == "benchmark"]
    assert [(record["op"], record["bytes"]) for record in timed] == [(op, size) for op in OPERATIONS for size in SIZES]
    assert not any(record["wrong"] or record["graph"] for record in timed)


def test_the_ledger_tiles_the_wall_clock_and_timed_calls_are_productive(document, records) -> None:
    [row] = document["points"]
    assert row["warnings"] is None, row["warnings"]
    assert row["ledger_step_s"] == pytest.approx(sum(r["timed_s"] for r in records if r["kind"] == "benchmark"))
    assert row["ledger_other_s"] < max(1.0, 0.01 * row["wall_s"])
    assert sum(row[name] for name in row if name.startswith("ledger_")) == pytest.approx(row["wall_s"])
    assert row["goodput_fraction"] > 0 and row["goodput_tokens_per_s"] is None


def test_the_page_tells_of_collectives_and_of_no_training(document, records) -> None:
    [row] = document["points"]
    best = max(r["busbw"] for r in records if r["kind"] == "benchmark" and r["op"] == "all_gather")
    assert (row["workload"], row["op"], row["model"], row["tokens_per_s"]) == ("collectives", "all", None, None)
    assert row["all_gather_peak_busbw"] == best
    [sentence] = document["headline"]
    assert sentence.startswith("collectives-all-n1x2: alone, all_reduce ") and "efficiency" not in sentence
    page = Path(document["paths"]["page"]).read_text()
    assert 'id="figure-bandwidth"' in page and 'id="figure-small-operations"' in page
    assert 'id="figure-throughput"' not in page
    with open(document["paths"]["collectives"], encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(OPERATIONS) * len(SIZES)
    assert max(float(row["busbw"]) for row in rows if row["op"] == "all_gather") == best


def test_wandb_gets_a_row_an_operation_and_size_over_bytes(command: Command, records) -> None:
    [run_dir] = command.points("alone").values()
    history = History()
    rows = [row for record in read_point(run_dir).events[0] for row in history.rows(0, record)]
    gathers = [row for row in rows if "alone/all_gather_busbw" in row]
    assert [row["alone/bytes"] for row in gathers] == SIZES
    timed = [record for record in records if record["kind"] == "benchmark" and record["op"] == "all_gather"]
    assert [row["alone/all_gather_s"] for row in gathers] == [record["duration_s"] for record in timed]


def test_run_again_it_is_skipped_whatever_training_would_have_been(command: Command) -> None:
    ended = command("run", "study=alone", *WORDS, "model=1b", "steps=99")
    assert ended.returncode == 0
    assert "skipped, ok already" in ended.stdout


def test_a_wrong_element_fails_the_point_and_is_named(tmp_path: Path) -> None:
    command = Command(tmp_path, {"CUDA_VISIBLE_DEVICES": ""})
    program = STAND_IN.replace("study_standin", "broken_collectives")
    done = subprocess.run(
        [sys.executable, "-c", program, "run", *WORDS, "workload.op=all_gather"],
        cwd=tmp_path,
        env=command.variables(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    [status] = command.status().values()
    assert (status["status"], status["rank"]) == ("failed", 1)
    assert "all_gather of 4096 bytes: 1 of 1,024 elements are wrong here, 1 on all ranks" in status["reason"]
    [run_dir] = command.points().values()
    last = json.loads((run_dir / "attempts/0/events.jsonl").read_text().splitlines()[-1])
    assert (last["kind"], last["bytes"], last["wrong"]) == ("benchmark", 4096, 1)
