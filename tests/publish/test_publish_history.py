"""Records into rows."""

import pytest
import run_dirs

from harness.analysis.points import points
from harness.analysis.read import read_point, read_study
from harness.publish.history import History, summary


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


def test_a_summary_has_all_columns_but_those_of_a_study(tmp_path):
    study, config = run_dirs.make_study(tmp_path), run_dirs.make_config()
    begin = {"data": {"name": "bytes", "sha256": "a" * 64, "tokens": 1000}}
    path = run_dirs.add_point(study, config, [run_dirs.make_attempt(config, [0.1] * 11, begin=begin)])
    [row] = points(read_study(study)).to_dicts()
    told = summary(read_point(path))
    assert told["data_sha256"] == "a" * 64
    of_a_study = {"study", "label", "curve", "position", "baseline", "efficiency", "goodput_efficiency", "goodput_peak"}
    known = {name: value for name, value in row.items() if value is not None and name not in of_a_study}
    assert {name: told.get(name) for name in known} == known


def test_a_step_of_no_duration_has_no_rate():
    history = History()
    (row,) = history.rows(0, run_dirs.make_step(2, "measured", 0.0, 0.0, 128))
    assert row["perf/step_s"] == 0.0
    assert "perf/tokens_per_s" not in row


def only(record: dict) -> dict:
    """The one row of a record."""
    (row,) = History().rows(0, record)
    return row


def test_transfer_and_waiting_are_summed_over_groups():
    groups = {
        "dp": {
            "all_gather": {
                "seconds": 0.003,
                "bytes": 1,
                "count": 1,
                "small_bytes": 0,
                "transfer_s": 0.002,
                "wait_s": 0.001,
            },
            "reduce_scatter": {
                "seconds": 0.004,
                "bytes": 1,
                "count": 1,
                "small_bytes": 0,
                "transfer_s": 0.004,
                "wait_s": 0.0,
            },
        },
        "tp": {
            "all_gather": {
                "seconds": 0.008,
                "bytes": 1,
                "count": 1,
                "small_bytes": 0,
                "transfer_s": 0.005,
                "wait_s": 0.003,
            },
            "send_recv": {
                "seconds": 0.001,
                "bytes": 1,
                "count": 1,
                "small_bytes": 0,
                "transfer_s": None,
                "wait_s": None,
            },
        },
    }
    row = only(run_dirs.make_collectives(7, 0.0, groups=groups) | {"last": {"rank": 1, "share": 0.75}})
    assert row["comm/all_gather_transfer_s"] == pytest.approx(0.007)
    assert row["comm/all_gather_wait_s"] == pytest.approx(0.004)
    assert (row["comm/reduce_scatter_transfer_s"], row["comm/reduce_scatter_wait_s"]) == (0.004, 0.0)
    assert not any(key.startswith("comm/send_recv") for key in row)
    assert (row["comm/last_rank"], row["comm/last_share"]) == (1, 0.75)


@pytest.mark.parametrize("more", [{}, {"last": None, "groups": {"dp": {"all_reduce": {"seconds": 0.002}}}}])
def test_records_without_waiting_have_no_keys_for_it(more):
    row = only(run_dirs.make_collectives(7, 0.0) | more)
    assert set(row) == {"train/step", "comm/all_reduce_s", "comm/all_reduce_busbw"}


def test_where_its_time_went_is_a_row_of_its_sampled_step():
    told = {
        "step": 11,
        "source": "profiler",
        "partial": False,
        "ranks": 2,
        "transfer_s": 0.028,
        "wait_s": 0.017,
        "step_s": 0.1,
        "compute_s": 0.07,
        "overlapped_s": 0.02,
        "exposed_transfer_s": 0.01,
        "exposed_wait_s": 0.015,
        "bubble_s": None,
        "idle_s": 0.005,
    }
    row = only({"schema": 1, "kind": "exposure", "time": 0.0, "attempt": 0, **told})
    assert row == {
        "train/step": 11,
        "comm/transfer_s": 0.028,
        "comm/wait_s": 0.017,
        "comm/overlapped_s": 0.02,
        "comm/exposed_transfer_s": 0.01,
        "comm/exposed_wait_s": 0.015,
        "perf/compute_s": 0.07,
        "perf/idle_s": 0.005,
    }
