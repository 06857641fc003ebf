"""`harness goodput`: where one point's wall-clock went, whatever state its folder is in."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from run_dirs import EPOCH, add_point, make_attempt, make_config, make_progress, make_study, make_timed, validator

from harness.analysis.goodput import BUCKETS
from harness.analysis.points import points
from harness.analysis.read import read_point, read_study
from harness.analysis.summary import summarise
from harness.config import Workload
from harness.report.goodput import goodput, waterfall

ROOT = Path(__file__).parents[2]
CONFIG = make_config(gpus=2)


def killed_and_again():
    """Ten steps, killed; the whole again 7 s later, a second of it before its first record."""
    lost = make_attempt(CONFIG, [0.5] * 9, ended=False)
    again = make_attempt(CONFIG, [0.5] * 20, number=1, start=lost[0]["end"] + 7)
    return [lost, again]


def printed(document) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(waterfall(document))
    return capture.get()


def test_the_document_follows_the_schema_and_sums_to_the_wall_clock(tmp_path):
    document = goodput(add_point(make_study(tmp_path), CONFIG, killed_and_again()))
    validator().validate(document)
    assert list(document["buckets"]) == list(BUCKETS)
    assert sum(document["buckets"].values()) == pytest.approx(document["wall_s"])
    assert document["buckets"]["restart_gap"] == pytest.approx(7)
    assert (document["attempts"], document["kept_steps"], document["lost_steps"]) == (2, 21, 10)
    assert (document["gpus"], document["status"]) == (2, "ok")
    assert document["goodput_tokens_per_s"] == pytest.approx(document["kept_tokens"] / document["wall_s"])
    assert (document["goodput_efficiency"], document["goodput_peak"], document["warnings"]) == (None, None, [])


def test_a_person_sees_every_bucket_its_share_and_what_it_comes_to(tmp_path):
    text = printed(goodput(add_point(make_study(tmp_path), CONFIG, killed_and_again())))
    rows = {cells[1]: cells[2:] for line in text.splitlines() if len(cells := re.split(r"\s*│\s*", line)) > 4}
    assert set(BUCKETS) <= rows.keys()
    wall = float(rows["wall-clock"][0])
    assert float(rows["restart_gap"][0]) == 7
    assert rows["restart_gap"][1] == f"{100 * 7 / wall:.1f} %"
    assert len(rows["restart_gap"][2]) == round(40 * 7 / wall)
    assert "steps kept 21, lost 10; attempts 2; queued before – s" in text


def test_efficiency_is_known_where_the_study_has_a_point_on_one_gpu(tmp_path):
    study = make_study(tmp_path)
    add_point(study, make_config(), [make_attempt(make_config(), [0.25] * 20)])
    document = goodput(add_point(study, CONFIG, [make_attempt(CONFIG, [0.5] * 20)]))
    assert document["goodput_peak"] == "tiny-ddp-n1x1"
    peak = 128 * make_config().local_batch / 0.25
    assert document["goodput_efficiency"] == pytest.approx(document["goodput_tokens_per_s"] / (2 * peak))
    assert "of tiny-ddp-n1x1 on each rank" in printed(document)


def test_the_peak_is_named_and_taken_as_in_the_report_of_the_whole_study(tmp_path):
    """The other points, none of them on one GPU, lengthen names and keep points of another driver apart."""
    study = make_study(tmp_path)
    versions = {"python": "3.11", "torch": "2.13", "cuda": None, "nccl": None}
    one, two = ({"versions": {**versions, "driver": driver}} for driver in ("1", "2"))
    add_point(study, make_config(), [make_attempt(make_config(), [0.25] * 20, begin=one)])
    run_dir = add_point(study, CONFIG, [make_attempt(CONFIG, [0.5] * 20, begin=one)])
    apart = add_point(study, make_config(gpus=4), [make_attempt(make_config(gpus=4), [0.5] * 20, begin=two)])
    longer = make_config(gpus=2, steps=60)
    add_point(study, longer, [make_attempt(longer, [0.5] * 20, begin=one)])
    (add_point(study, CONFIG) / "config.yaml").write_text("nodes: [1")
    for path in (run_dir, apart):
        document = goodput(path)
        [row] = [row for row in points(read_study(study)).to_dicts() if row["slug"] == path.name]
        assert document["goodput_peak"] == row["goodput_peak"]
        assert document["goodput_efficiency"] == row["goodput_efficiency"]
    assert goodput(run_dir)["goodput_peak"] == "tiny-ddp-n1x1 steps=30 driver 1"
    assert goodput(apart)["goodput_peak"] is None


def test_a_point_that_has_not_started_has_no_figures(tmp_path):
    document = goodput(add_point(make_study(tmp_path), CONFIG, status="pending"))
    validator().validate(document)
    assert (document["wall_s"], document["lost_steps"], set(document["buckets"].values())) == (None, None, {None})
    assert "nobody has stamped a start" in printed(document)


@pytest.mark.parametrize("status", ["invalid", "failed"])
def test_a_person_is_told_why_a_point_ended_as_it_did(tmp_path, status):
    attempts = killed_and_again() if status == "failed" else []
    run_dir = add_point(make_study(tmp_path), CONFIG, attempts, status=status, reason="tp=3: must divide 4 heads")
    document = goodput(run_dir)
    validator().validate(document)
    assert document["reason"] == "tp=3: must divide 4 heads"
    assert f"{status}: tp=3: must divide 4 heads" in printed(document)
    assert "nobody has stamped" not in printed(document)


def test_collectives_alone_have_neither_tokens_nor_steps(tmp_path):
    config = make_config(gpus=2, workload=Workload("collectives", "collectives"))
    timed = make_timed(config, {"all_reduce": {1 << 20: 1e-3}})
    document = goodput(add_point(make_study(tmp_path), config, [timed]))
    validator().validate(document)
    counted = ("goodput_tokens_per_s", "goodput_efficiency", "kept_tokens", "kept_steps", "lost_steps")
    assert [document[name] for name in counted] == [None] * 5
    assert document["buckets"]["step"] == pytest.approx(0.2)
    text = printed(document)
    assert "of the wall-clock in timed calls, over 2 ranks" in text
    assert "tokens" not in text


def test_the_share_of_collectives_alone_is_not_told_without_their_records(tmp_path):
    config = make_config(gpus=2, workload=Workload("collectives", "collectives"))
    run_dir = add_point(make_study(tmp_path), config, [make_timed(config, {"all_reduce": {1 << 20: 1e-3}})])
    (run_dir / "attempts" / "0" / "events.jsonl").unlink()
    document = goodput(run_dir)
    assert (document["status"], document["goodput_fraction"]) == ("ok", None)
    assert summarise(read_point(run_dir))["goodput_fraction"] is None
    assert "– of the wall-clock in timed calls" in printed(document)


def test_a_running_point_and_half_written_files_have_what_can_be_read(tmp_path):
    launch, events = make_attempt(CONFIG, [0.5] * 9, ended=False)
    end, launch["end"] = launch["end"], None
    run_dir = add_point(make_study(tmp_path), CONFIG, [(launch, events)], status="running")
    with (run_dir / "attempts" / "0" / "events.jsonl").open("a") as file:
        file.write('{"schema": 1, "kind": "st')
    (run_dir / "attempts" / "0" / "progress.json").write_text('{"schema": 1, "ki')
    document = goodput(run_dir)
    validator().validate(document)
    assert (document["status"], document["kept_steps"]) == ("running", 10)
    assert document["wall_s"] == pytest.approx(end - EPOCH)
    assert document["warnings"] == [
        "attempt 0: events.jsonl: skipped a torn last line",
        "progress.json is not readable",
    ]
    told = make_progress(end + 1, first=1, first_time=end - 4.5, step=12, finished=12)
    (run_dir / "attempts" / "0" / "progress.json").write_text(json.dumps(told))
    document = goodput(run_dir)
    assert (document["kept_steps"], document["wall_s"]) == (12, pytest.approx(end - EPOCH + 1))


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "harness.cli", *words], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("what", ["a study", "nothing", "a file"])
def test_what_is_no_run_directory_is_a_mistake_in_one_sentence(tmp_path, what):
    study = make_study(tmp_path)
    add_point(study, CONFIG, killed_and_again())
    path = {"a study": study, "nothing": tmp_path / "nothing", "a file": study / "study.json"}[what]
    ended = command("goodput", str(path))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"harness: {path}: is no run directory, which has a config.yaml; give a folder like studies/STUDY/points/SLUG\n"
    )


def test_the_example_of_the_docs_prints_what_it_shows():
    page = (ROOT / "docs" / "report.md").read_text()
    [(words, shown)] = re.findall(r"```\n\$ harness (goodput .*)\n((?:.*\n)*?)```", page)
    lines = [line.rstrip() for line in command(*words.split()).stdout.splitlines()]
    assert lines == shown.splitlines()
    document = json.loads(command(*words.split(), "--json").stdout)
    validator().validate(document)
    assert sum(document["buckets"].values()) == pytest.approx(document["wall_s"])
