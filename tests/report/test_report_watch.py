"""What a study that is followed has measured so far: run directories that grow, are half-written, and go away."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from run_dirs import EPOCH, add_point, demo_study, make_attempt, make_config, make_ranks, make_step, make_study

from harness.quantities import number
from harness.report import report
from harness.report.watch import Watched
from harness.study.overview import overview


def point(slug: str, status: str, time: float = EPOCH, lost: bool = False) -> dict[str, Any]:
    """As in the overview, as far as it counts here."""
    return {"slug": slug, "status": status, "time": time, "lost": lost}


@pytest.fixture
def running(tmp_path: Path) -> Path:
    """A point of 30 steps, just started."""
    study = make_study(tmp_path)
    config = make_config()
    return add_point(study, config, [make_attempt(config, [], ended=False)], status="running")


def grow(run_dir: Path, *records: dict[str, Any], tail: str = "", attempt: int = 0) -> None:
    folder = run_dir / "attempts" / str(attempt)
    folder.mkdir(exist_ok=True)
    with open(folder / "events.jsonl", "a") as file:
        file.write("".join(json.dumps(record) + "\n" for record in records) + tail)


def test_a_running_point_tells_step_speed_loss_and_time_left_as_it_grows(running: Path) -> None:
    watched = Watched(running.parents[1])
    look = lambda: watched([point(running.name, "running")])[0][running.name]  # noqa: E731
    assert look() == "step 1 of 30  loss 5.000"
    grow(running, make_step(9, "warmup", EPOCH, 0.1, 128), make_step(10, "measured", EPOCH, 0.1, 128))
    assert look() == "step 10 of 30  1,280 tokens/s  loss 0.500  2 s left"
    grow(running, make_step(11, "measured", EPOCH, 0.1, 128), make_ranks(9, [0.1, 0.2, 0.2], window_s=0.4))
    assert look() == "step 11 of 30  640.0 tokens/s  loss 0.455  4 s left", "on the slowest rank"
    grow(running, tail='{"schema": 1, "kind": "st')
    assert look() == "step 11 of 30  640.0 tokens/s  loss 0.455  4 s left"
    grow(running, make_step(1, "first", EPOCH, 1.0, 128, attempt=1, loss=None), attempt=1)
    assert look() == "step 1 of 30", "of the latest attempt alone"


def test_of_a_point_that_nobody_holds_no_time_is_left(running: Path) -> None:
    grow(running, make_step(10, "measured", EPOCH, 0.1, 128))
    figures, _ = Watched(running.parents[1])([point(running.name, "running", lost=True)])
    assert figures[running.name] == "step 10 of 30  1,280 tokens/s  loss 0.500"


def test_records_are_read_once(running: Path) -> None:
    watched = Watched(running.parents[1])
    assert watched([point(running.name, "running")])[0][running.name]
    events = running / "attempts/0/events.jsonl"
    events.write_bytes(b"#" * events.stat().st_size)
    assert watched([point(running.name, "running")])[0][running.name] == "step 1 of 30  loss 5.000"


def test_ended_points_say_what_the_report_says(tmp_path: Path) -> None:
    study = demo_study(tmp_path)
    document = report(study)
    slugs = [row["slug"] for row in document["points"]]
    figures, headline = Watched(study)([point(slug, "ok") for slug in slugs])
    assert headline == document["headline"]
    first = document["points"][0]
    assert figures[slugs[0]] == f"{number(first['tokens_per_s'])} tokens/s  loss {first['loss_last']:.3f}"


def test_a_point_whose_ranks_were_started_by_hand_says_what_the_report_says(tmp_path: Path) -> None:
    study = demo_study(tmp_path)
    document = report(study)
    for row in document["points"]:
        (study / "points" / row["slug"] / "status.json").unlink()
    points = overview(study)["points"]
    assert {one["time"] for one in points} == {None}
    figures, headline = Watched(study)(points)
    assert headline == document["headline"]
    for row in document["points"]:
        if row["status"] == "ok":
            assert figures[row["slug"]].startswith(f"{number(row['tokens_per_s'])} tokens/s")


def test_a_point_that_ended_and_ran_again_is_read_again(tmp_path: Path) -> None:
    study = demo_study(tmp_path)
    slugs = sorted(path.name for path in (study / "points").iterdir())
    watched = Watched(study)
    _, before = watched([point(slug, "ok") for slug in slugs])
    shutil.rmtree(study / "points" / slugs[1])
    assert watched([point(slug, "ok") for slug in slugs])[1] == before
    assert watched([point(slug, "ok", EPOCH + slugs.index(slug)) for slug in slugs])[1] != before


def test_half_written_and_vanished_points_say_nothing_and_cost_the_others_nothing(tmp_path: Path) -> None:
    study = demo_study(tmp_path)
    one, two, three, _ = sorted((study / "points").iterdir())
    (one / "config.yaml").write_text("nodes: [1")
    shutil.rmtree(two)
    points = [point(one.name, "running"), point(two.name, "ok"), point("never", "pending"), point(three.name, "ok")]
    figures, headline = Watched(study)(points)
    assert [figures[slug] for slug in (one.name, two.name, "never")] == ["", "", ""]
    assert "tokens/s" in figures[three.name]
    assert len(headline) == 1
