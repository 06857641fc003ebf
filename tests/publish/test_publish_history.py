"""Records into rows."""

import pytest
import run_dirs

from harness.publish.history import History


def rows_of(steps: int) -> list[dict]:
    launch, events = run_dirs.make_attempt(run_dirs.make_config(), [0.1] * steps)
    history = History()
    history.launches = {0: launch}
    return [row for event in events for row in history.rows(0, event)]


def test_goodput_is_taken_ever_more_rarely():
    rows = rows_of(4000)
    taken = [row for row in rows if "goodput/fraction" in row]
    assert len(rows) == 4001
    # Every step while there are few, then each 2 %: ln(4000 / 50) / ln(1.02) is 221.
    assert 40 + 200 < len(taken) < 60 + 240
    # The first step and what came before it took 6.5 s, none of it productive.
    productive = 0.1 * (taken[-1]["train/step"] - 1)
    assert taken[-1]["goodput/fraction"] == pytest.approx(productive / (6.5 + productive))


def test_a_step_of_no_duration_has_no_rate():
    history = History()
    (row,) = history.rows(0, run_dirs.make_step(2, "measured", 0.0, 0.0, 128))
    assert row["perf/step_s"] == 0.0
    assert "perf/tokens_per_s" not in row
