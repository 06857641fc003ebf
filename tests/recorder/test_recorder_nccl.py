"""Reading the flight recorder's ring. The entries are constructed in the form an H200 gave (torch 2.11, NCCL 2.28.9):
this machine has no NCCL. tests/gpu reads a real ring."""

import time

import pytest

from harness.recorder import nccl
from harness.recorder.nccl import STEPS_BACK, FlightRecorderSampler


def entry(number, created, name="nccl:all_reduce", elements=1 << 20, milliseconds=2.0):
    whole, part = [[elements]], [[elements // 4]]
    return {
        "record_id": number,
        "profiling_name": name,
        "time_created_ns": created,
        "duration_ms": milliseconds,
        "input_sizes": part if "gather" in name else whole,
        "input_dtypes": ["Float"],
        "output_sizes": part if "scatter" in name else whole,
        "output_dtypes": ["Float"],
    }


@pytest.fixture
def ring(monkeypatch):
    """A sampler that has seen steps 1 to 12, ten entries a step, and the entries it will read."""
    now = iter(range(1000, 10**9, 1000))
    monkeypatch.setattr(time, "time_ns", lambda: next(now))
    sampler = FlightRecorderSampler("dp", 4)
    for step in range(1, 13):
        sampler.step_issued(step, 1000 * (step - 1))
    entries = [entry(10 * step + k, 1000 * (step - 1) + 50 * k) for step in range(1, 13) for k in range(10)]
    monkeypatch.setattr(nccl, "dump", lambda: entries)
    return sampler, entries


def test_tells_the_operations_of_one_step_back_in_time(ring):
    sampler, _ = ring
    told = sampler.before_sampled_step(13)
    assert told.step == 13 - STEPS_BACK
    assert len(told.operations) == 10
    assert {(o.op, o.bytes, o.duration) for o in told.operations} == {("all_reduce", 4 << 20, 0.002)}
    assert not told.partial


def test_sizes_are_of_the_whole_tensor(ring):
    sampler, entries = ring
    for index, name in ((70, "nccl:_all_gather_base"), (71, "nccl:_reduce_scatter_base")):
        entries[index] = entry(entries[index]["record_id"], entries[index]["time_created_ns"], name)
    sizes = {o.op: o.bytes for o in sampler.before_sampled_step(13).operations}
    assert sizes == {"all_gather": 4 << 20, "reduce_scatter": 4 << 20, "all_reduce": 4 << 20}


def test_an_untimed_entry_makes_the_step_partial(ring):
    sampler, entries = ring
    entries[75]["duration_ms"] = None
    assert sampler.before_sampled_step(13).partial


def test_a_ring_that_wrapped_round_or_has_a_gap_makes_the_step_partial(ring):
    sampler, entries = ring
    del entries[73]
    assert sampler.before_sampled_step(13).partial
    del entries[:72]
    assert sampler.before_sampled_step(13).partial


def test_nothing_is_told_of_the_first_step():
    sampler = FlightRecorderSampler("dp", 4)
    sampler.step_issued(1, 0)
    assert sampler.before_sampled_step(2) is None
