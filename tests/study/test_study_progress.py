"""What a person sees of a running point, on a real pseudo-terminal."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from run_dirs import EPOCH, add_point, make_attempt, make_benchmark, make_config, make_ranks, make_step, make_study

from harness.analysis.points import points
from harness.analysis.read import read_study
from harness.pace import Pace

# Two looks at a growing record, with lines before and after.
WATCH = """
import sys, time
from pathlib import Path
from harness.pace import Pace
from harness.study.progress import Progress
folder, late = Path(sys.argv[1]), sys.argv[2]
progress = Progress()
progress.say("[1/1] tiny[bold]: started")
pace = Pace(folder)
with progress.point("[1/1] tiny", 20, pace) as watch:
    for _ in range(2):
        time.sleep(0.6)
        watch()
        time.sleep(0.2)
        with open(folder / "events.jsonl", "a") as file:
            file.write(late)
progress.say("[1/1] tiny[bold]: ok")
"""


def step(number: int, seconds: float, role: str = "measured", **changes: Any) -> str:
    return line(make_step(number, role, EPOCH, seconds, 1000, loss=5.0, **changes))


def line(record: dict[str, Any]) -> str:
    return json.dumps(record) + "\n"


def write(folder: Path, *lines: str) -> None:
    with open(folder / "events.jsonl", "a") as file:
        file.write("".join(lines))


def words(pace: Pace) -> str:
    pace.read_on()
    return pace.words(20)


def test_nothing_recorded_yet_has_no_figures(tmp_path: Path) -> None:
    pace = Pace(tmp_path)
    assert (words(pace), pace.figures()) == ("", [])


def test_warm_up_has_a_step_and_no_speed(tmp_path: Path) -> None:
    write(tmp_path, step(1, 9.0, "first"))
    pace = Pace(tmp_path)
    assert (words(pace), pace.figures()) == ("step 1 of 20  loss 5.000", ["loss 5.000"])


def test_speed_and_time_left_come_from_the_window_of_the_slowest_rank(tmp_path: Path) -> None:
    write(
        tmp_path, step(1, 9.0, "first"), step(2, 0.5), "not a record\n[]\n", step(3, 0.5), '{"schema": 1, "kind": "st'
    )
    pace = Pace(tmp_path)
    assert words(pace) == "step 3 of 20  2,000 tokens/s  loss 5.000  8 s left"
    # another rank was slowest in each step: their sum, 2 s, is longer than any rank took
    write(tmp_path, 'ep_torn"}\n', line(make_ranks(1, [9.5, 1.0, 1.0], window_s=1.6)))
    assert words(pace) == "step 3 of 20  1,250 tokens/s  loss 5.000  14 s left"
    assert pace.figures() == ["1,250 tokens/s", "loss 5.000"]
    write(tmp_path, step(4, 0.5))
    assert words(pace) == "step 4 of 20  1,250 tokens/s  loss 5.000  13 s left", "as slow as before"


def test_a_running_point_and_its_report_have_one_speed(tmp_path: Path) -> None:
    config = make_config(gpus=2)
    launch, events = make_attempt(config, [0.1] * 20, ended=False)
    events.append(make_ranks(1, [3.0] + [0.12] * 18, window_s=1.75))
    study = make_study(tmp_path)
    pace = Pace(add_point(study, config, [(launch, events)], status="running") / "attempts" / "0")
    pace.read_on()
    assert pace.tokens_per_s == pytest.approx(points(read_study(study))["tokens_per_s"].item())


def test_records_that_lack_fields_or_are_of_another_kind_or_schema_are_passed_over(tmp_path: Path) -> None:
    whole = json.loads(step(3, 0.5))
    damaged = [{name: value for name, value in whole.items() if name != missing} for missing in whole]
    damaged += [{**whole, "schema": 2}, {**whole, "step": None}, {**whole, "loss": "low"}, {**whole, "kind": ["step"]}]
    write(tmp_path, step(2, 0.5), *map(line, damaged))
    pace = Pace(tmp_path)
    assert words(pace) == "step 2 of 20  2,000 tokens/s  loss 5.000  9 s left"


def test_collectives_alone_have_figures_and_the_fastest(tmp_path: Path) -> None:
    write(tmp_path, *(line(make_benchmark("all_reduce", 10**9, seconds, EPOCH)) for seconds in (0.01, 0.02)))
    pace = Pace(tmp_path)
    assert words(pace) == "figure 2 of 20  all_reduce up to 100 GB/s busbw"
    assert pace.words(None) == "figure 2  all_reduce up to 100 GB/s busbw"


def test_a_terminal_has_a_bar_that_moves_and_goes(tmp_path: Path) -> None:
    write(tmp_path, step(1, 9.0, "first"), step(5, 0.5))
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(
        [sys.executable, "-c", WATCH, str(tmp_path), step(10, 0.5)], stdin=theirs, stdout=theirs, env=environment
    ) as process:
        os.close(theirs)
        seen = b""
        while chunk := read(ours):
            seen += chunk
    os.close(ours)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    assert "[1/1] tiny[bold]: started" in text
    speed = "2,000 tokens/s  loss 5.000"
    for shown in ("starting", f"step 5 of 20  {speed}  8 s left", f"step 10 of 20  {speed}  5 s left", "50%"):
        assert shown in text
    # The bar is taken away before the last line.
    assert text.splitlines()[-1].endswith("[1/1] tiny[bold]: ok")
    assert "left" not in text.splitlines()[-1].rpartition("\r")[2]


def read(terminal: int) -> bytes:
    """What the terminal shows next; nothing once its program has ended."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""
