"""What a person sees of a running point, on a real pseudo-terminal."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.study.events import Pace
from harness.study.progress import shown

# Two looks at a growing record, with lines before and after.
WATCH = """
import sys, time
from pathlib import Path
from harness.study.events import Pace
from harness.study.progress import Progress
events, late = Path(sys.argv[1]), sys.argv[2]
progress = Progress()
progress.say("[1/1] tiny[bold]: started")
pace = Pace(events)
with progress.point("[1/1] tiny", 20, pace) as watch:
    for _ in range(2):
        time.sleep(0.6)
        watch()
        time.sleep(0.2)
        with events.open("a") as file:
            file.write(late)
progress.say("[1/1] tiny[bold]: ok")
"""


def step(number: int, seconds: float, role: str = "measured") -> str:
    record = {"kind": "step", "step": number, "role": role, "tokens": 1000, "duration_s": seconds, "loss": 5.0}
    return json.dumps(record) + "\n"


@pytest.fixture
def events(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_nothing_recorded_yet_is_a_start(events: Path) -> None:
    pace = Pace(events)
    pace.read_on()
    assert (shown(pace, 20), pace.figures()) == ("starting", [])


def test_warm_up_has_a_step_and_no_speed(events: Path) -> None:
    events.write_text(step(1, 9.0, "first"))
    pace = Pace(events)
    pace.read_on()
    assert (shown(pace, 20), pace.figures()) == ("step 1/20", ["loss 5"])


def test_speed_and_time_left_come_from_measured_steps_and_their_slowest_ranks(events: Path) -> None:
    events.write_text(step(1, 9.0, "first") + step(2, 0.5) + "not a record\n[]\n" + step(3, 0.5) + '{"kind": "st')
    pace = Pace(events)
    pace.read_on()
    assert shown(pace, 20) == "step 3/20  2,000 tokens/s  8 s left"
    with events.open("a") as file:
        file.write('ep_torn"}\n{"kind": "ranks", "step_first": 1, "duration_max_s": [9.5, 1.0, 1.0]}\n')
    pace.read_on()
    assert shown(pace, 20) == "step 3/20  1,000 tokens/s  17 s left"
    assert pace.figures() == ["1,000 tokens/s", "loss 5"]


def test_a_terminal_has_a_bar_that_moves_and_goes(events: Path) -> None:
    events.write_text(step(1, 9.0, "first") + step(5, 0.5))
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(
        [sys.executable, "-c", WATCH, str(events), step(10, 0.5)], stdin=theirs, stdout=theirs, env=environment
    ) as process:
        os.close(theirs)
        seen = b""
        while chunk := read(ours):
            seen += chunk
    os.close(ours)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    assert "[1/1] tiny[bold]: started" in text
    for words in ("starting", "step 5/20  2,000 tokens/s  8 s left", "step 10/20  2,000 tokens/s  5 s left", "50%"):
        assert words in text
    # The bar is taken away before the last line.
    assert text.splitlines()[-1].endswith("[1/1] tiny[bold]: ok")
    assert "left" not in text.splitlines()[-1].rpartition("\r")[2]


def read(terminal: int) -> bytes:
    """What the terminal shows next; nothing once its program has ended."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""
