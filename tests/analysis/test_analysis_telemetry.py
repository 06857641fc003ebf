"""Energy, clocks, throttling and error counters, from node files whose truth is known."""

import pytest
from node_files import add_polls, make_gpu, make_poll, make_port
from run_dirs import add_point, make_attempt, make_config, make_study

from harness.analysis.nodes import records
from harness.analysis.points import points
from harness.analysis.read import read_point, read_study
from harness.analysis.summary import summarise

SECONDS = [0.5] * 42
"""Steps after the first: two of warm-up and forty measured, 20 s."""


@pytest.fixture
def point(tmp_path):
    """A point of two GPUs, and when its measured window begins."""
    config = make_config(gpus=2, steps=len(SECONDS) + 1)
    launch, events = make_attempt(config, SECONDS, begin={"device": "cuda"})
    path = add_point(make_study(tmp_path), config, [(launch, events)])
    begin = next(event["start"] for event in events if event["kind"] == "step" and event["role"] == "measured")
    return path, begin


def polls(begin, every=4.0, watts=(500.0, 700.0), count=9, **changes):
    """Looks from before the window (of 20 s) to after it; GPUs idle at 100 W outside of it."""
    made = []
    energy = [1000.0 * (index + 1) for index in range(len(watts))]
    for poll in range(count):
        time = begin - 6.0 + poll * every
        made.append(make_poll(time, [make_gpu(i, joules) for i, joules in enumerate(energy)], **changes))
        for i, power in enumerate(watts):
            inside = max(0.0, min(time + every, begin + 20.0) - max(time, begin))
            energy[i] += power * inside + 100.0 * (every - inside)
    return made


def test_energy_and_power_are_those_of_the_window(point):
    path, begin = point
    add_polls(path, polls(begin))
    row = summarise(read_point(path))
    assert row["power_w_gpu"] == pytest.approx(600.0), "not what the GPUs took before and after"
    assert row["energy_per_token_j"] == pytest.approx(1200.0 / row["tokens_per_s"])
    assert row["clock_sm_mhz_p50"] == 1500
    assert row["throttled"] == "none"
    assert row["warnings"] is None


def test_a_gpu_that_does_not_tell_its_energy_leaves_no_sum(point):
    path, begin = point
    add_polls(path, [make_poll(r["time"], [r["gpus"][0], make_gpu(1, None)]) for r in polls(begin)])
    row = summarise(read_point(path))
    assert row["power_w_gpu"] == pytest.approx(500.0)
    assert row["energy_per_token_j"] is None


def test_fewer_than_two_polls_inside_the_window_give_no_power(point):
    path, begin = point
    add_polls(path, polls(begin, every=25.0, count=3))
    row = summarise(read_point(path))
    assert (row["power_w_gpu"], row["energy_per_token_j"]) == (None, None)


def test_a_throttled_gpu_is_named_with_host_reason_and_share(point):
    path, begin = point
    made = polls(begin)
    inside = [poll for poll in made if begin <= poll["time"] <= begin + 20]
    assert len(inside) == 5
    for poll in inside[:2]:
        poll["gpus"][1]["throttling"] = ["hw_thermal_slowdown"]
    add_polls(path, made)
    row = summarise(read_point(path))
    assert row["throttled"] == "host0 GPU 1: hw_thermal_slowdown"
    assert row["warnings"] == ("throttled by hw_thermal_slowdown in 40% of the polls: host0 GPU 1 (1 of 2 GPUs)")


def test_throttling_outside_the_window_names_nobody(point):
    path, begin = point
    made = polls(begin)
    for poll in made:
        if not begin <= poll["time"] <= begin + 20:
            poll["gpus"][0]["throttling"] = ["sw_power_cap"]
    add_polls(path, made)
    assert summarise(read_point(path))["throttled"] == "none"


def test_many_throttled_gpus_are_one_sentence_a_reason(tmp_path):
    config = make_config(gpus=16, steps=len(SECONDS) + 1)
    launch, events = make_attempt(config, SECONDS)
    path = add_point(make_study(tmp_path), config, [(launch, events)])
    begin = next(event["start"] for event in events if event["kind"] == "step" and event["role"] == "measured")
    add_polls(
        path,
        [make_poll(begin + t, [make_gpu(i, 0.0, throttling=["sw_power_cap"]) for i in range(16)]) for t in (1, 2, 3)],
    )
    told = [text for text in read_warnings(path) if "throttled" in text]
    assert told == [
        "throttled by sw_power_cap in 100% of the polls: "
        "host0 GPU 0, host0 GPU 1, host0 GPU 2, host0 GPU 3, host0 GPU 4, host0 GPU 5, host0 GPU 6, host0 GPU 7 "
        "and 8 more (16 of 16 GPUs)"
    ]


def read_warnings(path):
    return (summarise(read_point(path))["warnings"] or "").split("; ")


def test_a_rising_error_counter_is_named_with_device_and_count(point):
    path, begin = point
    ports = [[make_port(symbol_error=count, link_downed=None)] for count in (40, 40, 43)]
    add_polls(path, [make_poll(begin + i, [], ports=port) for i, port in enumerate(ports)])
    add_polls(path, [make_poll(begin + i, [], "host1", ports=[make_port(symbol_error=9)]) for i in range(3)])
    assert read_warnings(path) == ["the error counter symbol_error rose: host0 mlx5_0 port 1 by 3"]


def test_counters_of_gpus_and_interfaces_are_watched_too(point):
    path, begin = point
    interface = {"name": "eth0", "state": "up", "rate_bytes_per_s": None, "tx_bytes": 0, "rx_bytes": 0, "drops": {}}
    add_polls(
        path,
        [
            make_poll(
                begin + i,
                [make_gpu(5, 0.0, errors={"ecc_uncorrected": i})],
                interfaces=[interface | {"errors": {"rx_errors": 7 * i}}],
            )
            for i in range(3)
        ],
    )
    assert read_warnings(path) == [
        "the error counter ecc_uncorrected rose: host0 GPU 5 by 2",
        "the error counter rx_errors rose: host0 eth0 by 14",
    ]


def test_a_counter_that_begins_anew_has_not_fallen(point):
    path, begin = point
    add_polls(path, [make_poll(begin + i, [], ports=[make_port(symbol_error=n)]) for i, n in enumerate((5, 6, 0, 2))])
    assert read_warnings(path) == ["the error counter symbol_error rose: host0 mlx5_0 port 1 by 3"]


def test_what_telemetry_could_not_read_is_said(point):
    path, begin = point
    add_polls(path, [make_poll(begin, [], warning="GPU is lost"), make_poll(begin, [], "host1", warning="gone")])
    assert read_warnings(path) == ["telemetry of host0 is not whole (and on 1 other hosts): GPU is lost"]


def test_only_the_attempt_that_measured_last_counts(tmp_path):
    config = make_config(gpus=2, steps=len(SECONDS) + 1)
    killed = make_attempt(config, SECONDS[:10], ended=False)
    again = make_attempt(config, SECONDS, number=1, start=killed[0]["end"] + 5)
    path = add_point(make_study(tmp_path), config, [killed, again])
    begin = next(event["start"] for event in again[1] if event["kind"] == "step" and event["role"] == "measured")
    early = next(event["start"] for event in killed[1] if event["kind"] == "step" and event["role"] == "measured")
    add_polls(path, polls(early, watts=(50.0, 50.0)))
    add_polls(path, polls(begin), attempt=1)
    assert summarise(read_point(path))["power_w_gpu"] == pytest.approx(600.0)


def test_torn_and_foreign_lines_are_skipped(point):
    path, begin = point
    add_polls(
        path, polls(begin), tail='{"kind": "sample", "note": "telemetry"}\n{"kind": "telemetry"}\n{"schema": 1, "ki'
    )
    skipped = []
    assert len(list(records(path / "attempts/0", "telemetry", skipped))) == 9
    assert [each.partition(" (")[0] for each in skipped] == ["attempts/0/nodes/000/host0.jsonl line 11"]
    assert summarise(read_point(path))["power_w_gpu"] == pytest.approx(600.0)


@pytest.mark.parametrize("odd", [{"power_limit_w": "700"}, {"clock_sm_mhz": -1}, {"throttling": None, "errors": None}])
def test_a_poll_with_a_value_that_cannot_be_is_skipped_alone_and_named(point, odd):
    path, begin = point
    made = polls(begin)
    made[3]["gpus"][1] |= odd
    add_polls(path, made)
    row = summarise(read_point(path))
    assert row["power_w_gpu"] == pytest.approx(600.0)
    assert row["power_cap"] == "700 W"
    assert row["warnings"] == "telemetry is skipped in 1 place: attempts/0/nodes/000/host0.jsonl line 4 (gpus)"


def test_a_point_without_telemetry_or_a_product_has_empty_columns(point):
    path, _ = point
    (row,) = points(read_study(path.parent.parent)).to_dicts()
    columns = ("attained", "power_w_gpu", "energy_per_token_j", "clock_sm_mhz_p50", "throttled")
    assert [row[name] for name in columns] == [None] * 5


def matmul(rate, slowest=None):
    told = {"size": 8192, "type": "bf16", "flops_per_s": rate, "slowest_flops_per_s": slowest or rate}
    return told | {"slowest_rank": 1, "duration_s": 1.0}


def test_attained_is_the_share_of_the_measured_product(tmp_path):
    config = make_config(gpus=2, steps=len(SECONDS) + 1)
    study = make_study(tmp_path)
    add_point(study, config, [make_attempt(config, SECONDS, begin={"matmul": matmul(1e10)})])
    (row,) = points(read_study(study)).to_dicts()
    # 6 N + 6 L H (d_qk + d_v) T of the small model, by hand
    block = 2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 384 + 2 * 128
    flops = 6 * (4 * block + 128 + 128 * 256) + 6 * 4 * 4 * (32 + 32) * 128
    assert row["attained"] == pytest.approx(flops * row["tokens_per_s"] / (2 * 1e10))


def test_a_gpu_with_slow_products_is_named(tmp_path):
    config = make_config(gpus=2, steps=len(SECONDS) + 1)
    study = make_study(tmp_path)
    begin = {"device": "cuda", "matmul": matmul(7e14, slowest=5.6e14)}
    path = add_point(study, config, [make_attempt(config, SECONDS, begin=begin)])
    assert read_warnings(path) == ["the GPU of rank 1 reaches 80% of the others' matrix product rate"]
    begin = {"device": "cuda", "matmul": matmul(7e14, slowest=6.9e14)}
    path = add_point(study, config, [make_attempt(config, SECONDS, begin=begin)])
    assert read_warnings(path) == [""]


def test_every_power_cap_that_held_in_the_latest_attempt_is_told(point):
    path, begin = point
    older = [make_poll(begin, [make_gpu(0, 1.0, power_limit_w=300.0)])]
    add_polls(path, older)
    assert summarise(read_point(path))["power_cap"] == "300 W"
    untold = make_gpu(2, 1.0)
    del untold["power_limit_w"]  # as in records written before it was asked for
    gpus = [make_gpu(0, 1.0, power_limit_w=500.0), make_gpu(1, 1.0, power_limit_w=None), untold]
    (path / "attempts" / "1").mkdir()
    (path / "attempts" / "1" / "events.jsonl").write_text("")
    add_polls(path, [make_poll(begin, gpus), make_poll(begin + 5, [make_gpu(0, 1.0)])], attempt=1)
    assert summarise(read_point(path))["power_cap"] == "500 W, 700 W"
