"""`make study` whole: the ready study on this machine, from configuration to its page, and once more."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import wandb_offline

import harness

HARNESS = str(Path(sys.executable).with_name("harness"))
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        bool(os.environ.get("CUDA_VISIBLE_DEVICES")) or Path("/dev/nvidia0").exists(),
        reason="states what the demo does on a machine without GPUs",
    ),
]


def run(*arguments: str, root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HARNESS, *arguments], cwd=root, capture_output=True, text=True, timeout=400)


@pytest.fixture(scope="module", params=["local_batch=2", pytest.param("local_batch=8", marks=pytest.mark.slow)])
def words(request):
    """A quarter of its sequences, and in the whole suite all of them, show the same."""
    return "run", "-m", "experiment=demo", request.param


@pytest.fixture(scope="module")
def root(tmp_path_factory, words):
    root = tmp_path_factory.mktemp("demo")
    done = run(*words, root=root)
    assert done.returncode == 0, done.stdout + done.stderr
    return root


@pytest.fixture(scope="module")
def report(root):
    done = run("report", "demo", root=root)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def rows(root, report):
    with open(root / "studies" / "demo" / "report" / "points.csv") as file:
        return list(csv.DictReader(file))


def point_dirs(root: Path) -> list[Path]:
    return sorted((root / "studies" / "demo" / "points").iterdir())


def events(point: Path) -> list[dict]:
    return [json.loads(line) for line in (point / "attempts" / "0" / "events.jsonl").read_text().splitlines()]


def test_four_points_are_ok_at_one_and_two_ranks(rows):
    assert {(row["parallel"], row["gpus"]) for row in rows} == {(p, n) for p in ("ddp", "fsdp") for n in ("1", "2")}
    assert {row["status"] for row in rows} == {"ok"}


def test_throughput_lies_inside_its_interval(rows):
    for row in rows:
        assert 0 < float(row["tokens_per_s_lo"]) < float(row["tokens_per_s"]) < float(row["tokens_per_s_hi"])


def test_collectives_are_timed_where_there_are_any(rows):
    by_point = {(row["parallel"], row["gpus"]): row for row in rows}
    assert float(by_point["ddp", "2"]["all_reduce_s_p50"]) > 0
    assert float(by_point["fsdp", "2"]["all_gather_s_p50"]) > 0
    assert float(by_point["fsdp", "2"]["reduce_scatter_s_p50"]) > 0
    for parallel in ("ddp", "fsdp"):
        alone = by_point[parallel, "1"]
        assert {alone["all_reduce_s_p50"], alone["all_gather_s_p50"], alone["reduce_scatter_s_p50"]} == {""}


def test_the_models_learn(rows):
    # of ln 256 = 5.5 at first; how hard the text is depends on Python, which it comes with
    assert all(float(row["loss_last"]) < 3.5 for row in rows)


def test_efficiency_names_its_baseline(rows):
    for row in rows:
        assert row["baseline"] == f"tiny-{row['parallel']}-n1x1"
        assert 0 < float(row["efficiency"]) < 2


def test_the_ledger_tiles_the_wall_clock(rows):
    for row in rows:
        buckets = {key: float(value) for key, value in row.items() if key.startswith("ledger_")}
        wall = float(row["wall_s"])
        assert sum(buckets.values()) == pytest.approx(wall, abs=1e-3)
        assert min(buckets.values()) >= 0
        assert buckets["ledger_other_s"] <= max(0.01 * wall, 1.0)


def test_every_record_follows_the_published_schema(root, report):
    schema = json.loads((Path(harness.__file__).parent / "records.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    for point in point_dirs(root):
        for record in events(point):
            validator.validate(record)
        names = ("status.json", "env.json", "provenance.json", "mirror.json")
        for name in (*names, "attempts/0/launch.json", "attempts/0/progress.json"):
            validator.validate(json.loads((point / name).read_text()))
    for verb in ("status", "report"):
        validator.validate(json.loads(run(verb, "demo", "--json", root=root).stdout))


def test_wandb_runs_read_back_equal_to_the_records(root, report):
    names = {"loss": "train/loss", "grad_norm": "train/grad_norm", "lr": "train/lr", "duration_s": "perf/step_s"}
    for point in point_dirs(root):
        state = json.loads((point / "mirror.json").read_text())
        assert (state["state"], state["mode_used"]) == ("done", "offline")
        history = wandb_offline.history(point / state["offline_dir"])
        logged = {row["train/step"]: row for row in history if "perf/step_s" in row}
        steps = {record["step"]: record for record in events(point) if record["kind"] == "step"}
        assert {step: {k: row[k] for k in names.values()} for step, row in logged.items()} == {
            step: {names[k]: record[k] for k in names} for step, record in steps.items()
        }


def test_the_studys_own_wandb_run_has_the_points_of_the_report(root, rows):
    study = root / "studies" / "demo"
    state = json.loads((study / "mirror.json").read_text())
    assert (state["state"], state["mode_used"], state["records"]) == ("done", "offline", 4)
    folder = study / state["offline_dir"]
    run = wandb_offline.run(folder)
    assert (run.job_type, run.run_group) == ("report", "demo")
    [row] = wandb_offline.history(folder)
    table = json.loads((folder / "files" / row["points/path"]).read_text())
    column = table["columns"].index("tokens_per_s")
    assert [values[column] for values in table["data"]] == [float(row["tokens_per_s"]) for row in rows]


def test_the_page_is_the_last_thing_printed_and_needs_no_network(report):
    page = Path(report.rstrip().splitlines()[-1])
    assert page.name == "index.html"
    # the browser itself is told to fetch nothing
    assert "default-src 'none'" in page.read_text()


def test_a_second_run_skips_all_four_and_says_so(root, words, report):
    done = run(*words, root=root)
    assert done.returncode == 0
    assert done.stdout.count("skipped, ok already") == 4
    assert "started" not in done.stdout
