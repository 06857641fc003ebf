"""Reading the flight recorder's ring. The entries are constructed, in the form an H200 gave (torch 2.11, NCCL 2.28.9)
and by PyTorch's source: this machine has no NCCL. tests/gpu reads a real ring."""

import time

import pytest

from harness.recorder import nccl
from harness.recorder.groups import Groups
from harness.recorder.nccl import STEPS_BACK, FlightRecorderSampler, read

LABELS = {"0": ("dp", 4), "1": ("tp", 2), "2": ("pp", 2)}


def entry(number=0, created=0, name="nccl:all_reduce", given=1 << 20, got=None, milliseconds=2.0, **more):
    """An entry of `given` elements in and `got` out; `given` may be a list, of the elements of several tensors."""
    inputs = given if isinstance(given, list) else [given]
    outputs = inputs if got is None else [got]
    return {
        "record_id": number,
        "profiling_name": name,
        "process_group": ("0", "default_pg"),
        "is_p2p": False,
        "collective_seq_id": number,
        "p2p_seq_id": 0,
        "time_created_ns": created,
        "duration_ms": milliseconds,
        "input_sizes": [[elements] for elements in inputs],
        "input_dtypes": ["Float"] * len(inputs),
        "output_sizes": [[elements] for elements in outputs],
        "output_dtypes": ["Float"] * len(outputs),
        **more,
    }


@pytest.fixture
def ring(monkeypatch):
    """A sampler that has seen steps 1 to 12, ten entries a step, and the entries it will read."""
    now = iter(range(1000, 10**9, 1000))
    monkeypatch.setattr(time, "time_ns", lambda: next(now))
    sampler = FlightRecorderSampler(LABELS)
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


def test_an_untimed_entry_makes_the_step_partial(ring):
    sampler, entries = ring
    entries[75]["duration_ms"] = None
    assert sampler.before_sampled_step(13).partial


def test_an_untimed_send_does_not(ring):
    sampler, entries = ring
    entries[75] |= {"profiling_name": "nccl:send 0->1", "is_p2p": True, "p2p_seq_id": 3, "duration_ms": None}
    told = sampler.before_sampled_step(13)
    assert not told.partial
    assert [o.duration for o in told.operations if o.op == "send_recv"] == [None]


def test_a_ring_that_wrapped_round_or_has_a_gap_makes_the_step_partial(ring):
    sampler, entries = ring
    del entries[73]
    assert sampler.before_sampled_step(13).partial
    del entries[:72]
    assert sampler.before_sampled_step(13).partial


def test_operations_of_many_groups_leave_no_gap(ring):
    sampler, entries = ring
    for index in range(70, 80, 2):
        entries[index]["process_group"] = ("1", "mesh_tp")
    told = sampler.before_sampled_step(13)
    assert not told.partial
    assert [(o.group, o.group_size) for o in told.operations] == [("tp", 2), ("dp", 4)] * 5


def test_what_is_issued_between_two_steps_is_of_neither(ring):
    """The recorder's own exchanges."""
    sampler, _ = ring
    step = 13 - STEPS_BACK
    sampler.issued[0] = (step, 1000 * (step - 1) + 250, 1000 * step)
    assert len(sampler.before_sampled_step(13).operations) == 5


def test_nothing_is_told_of_the_first_step():
    sampler = FlightRecorderSampler(LABELS)
    sampler.step_issued(1, 0)
    assert sampler.before_sampled_step(2) is None


@pytest.mark.parametrize(
    ("name", "given", "got", "expected"),
    [
        ("nccl:all_reduce", 1000, 1000, ("all_reduce", 4000)),
        ("nccl:allreduce_coalesced", [1000, 50], 1050, ("all_reduce", 4200)),
        ("nccl:_all_gather_base", 1000, 4000, ("all_gather", 16000)),
        ("nccl:all_gather", 1000, 4000, ("all_gather", 16000)),
        ("nccl:all_gather_into_tensor_coalesced", [1000, 50], 4200, ("all_gather", 16800)),
        ("nccl:_reduce_scatter_base", 4000, 1000, ("reduce_scatter", 16000)),
        ("nccl:reduce_scatter", 4000, 1000, ("reduce_scatter", 16000)),
        ("nccl:reduce_scatter_tensor_coalesced", [4000, 40], 1010, ("reduce_scatter", 16160)),
        ("nccl:all_to_all", 4000, 4000, ("all_to_all", 16000)),
        ("nccl:broadcast", 1000, 1000, ("broadcast", 4000)),
        ("nccl:_broadcast_oop", 1000, 1000, ("broadcast", 4000)),
        ("nccl:reduce", 1000, 1000, ("reduce", 4000)),
        ("nccl:_reduce_oop", 1000, 1000, ("reduce", 4000)),
        ("nccl:send 0->1", 1000, 1000, ("send_recv", 4000)),
        ("nccl:recv 0<-1", 1000, 1000, None),
        ("nccl:all_reduce_barrier", 1, 1, None),
    ],
)
def test_every_form_has_its_operation_and_the_bytes_of_the_whole_tensor(name, given, got, expected):
    told = [(o.op, o.bytes) for o in read([entry(name=name, given=given, got=got)], Groups(LABELS))]
    assert told == ([expected] if expected else [])


def test_an_all_to_all_that_gives_more_than_it_gets_is_uneven_and_so_are_its_likes():
    tokens = {"name": "nccl:all_to_all", "process_group": ("1", "mesh_tp")}
    counts = entry(1, given=8, **tokens, input_dtypes=["Long"])
    entries = [counts, entry(2, given=100, got=90, **tokens), entry(3, given=95, got=95, **tokens)]
    elsewhere = entry(4, name="nccl:all_to_all", given=95, got=95)
    told = [(o.bytes, o.uneven) for o in read([*entries, elsewhere], Groups(LABELS))]
    assert told == [(64, False), (400, True), (380, True), (380, False)]


def batch(number, *members, milliseconds=3.0):
    """Entries as a coalesced call leaves them: members without durations, and one without tensors for all.

    That one is not marked as point-to-point: so on torch 2.11 with NCCL 2.28.9.
    """
    shared = {"process_group": ("2", "mesh_pp"), "p2p_seq_id": number, "collective_seq_id": 7}
    made = [
        entry(i, name=name, given=size, milliseconds=None, is_p2p=True, **shared)
        for i, (name, size) in enumerate(members)
    ]
    return [*made, entry(9, name="nccl:coalesced", given=[], milliseconds=milliseconds, is_p2p=False, **shared)]


def test_a_batch_counts_what_it_sends_once_and_its_time_once():
    """A stage's batch in one forward, one backward: it sends to both neighbours and receives from both."""
    first = batch(1, ("nccl:recv 0<-1", 1000), ("nccl:send 0->1", 10), ("nccl:send 0->1", 1000))
    second = batch(2, ("nccl:send 0->1", 1000), ("nccl:recv 0<-1", 1000), milliseconds=4.0)
    told = [(o.op, o.group, o.bytes, o.duration, o.batched) for o in read([*first, *second], Groups(LABELS))]
    assert told == [
        ("send_recv", "pp", 40, 0.0, True),
        ("send_recv", "pp", 4000, 0.003, True),
        ("send_recv", "pp", 4000, 0.004, True),
    ]


def test_a_batch_ends_with_its_own_time_beside_collectives_of_the_same_group():
    shared = {"process_group": ("2", "mesh_pp"), "is_p2p": False, "p2p_seq_id": 1}
    before, after = (
        entry(name="nccl:all_reduce", milliseconds=1.0, collective_seq_id=number, **shared) for number in (7, 8)
    )
    told = list(read([before, *batch(1, ("nccl:send 0->1", 1000)), after], Groups(LABELS)))
    assert [(o.op, o.duration, o.batched) for o in told] == [
        ("all_reduce", 0.001, False),
        ("send_recv", 0.003, True),
        ("all_reduce", 0.001, False),
    ]


def test_a_send_outside_a_batch_has_its_own_time():
    (alone,) = read([entry(name="nccl:send 0->1", is_p2p=True, p2p_seq_id=3)], Groups(LABELS))
    assert (alone.duration, alone.batched) == (0.002, False)
