"""Who is named for keeping others waiting, from constructed samples."""

import json

import numpy as np
import pytest
from run_dirs import EPOCH, add_point, make_attempt, make_config, make_ranks, make_study, record

from harness.analysis.read import read_point
from harness.analysis.stragglers import FOREMOST, Cause, Straggler, arrivals, sentence
from harness.analysis.summary import summarise
from harness.analysis.throughput import throughput

STEP_S = 0.1
STEPS = range(1, 9)
PARTS = ("compute_s", "overlapped_s", "exposed_transfer_s", "exposed_wait_s", "bubble_s", "idle_s")


def sample(step, rank, waited_for, last=0, source="profiler"):
    """A rank's record: `waited_for` is seconds by rank."""
    return record(
        "sample",
        EPOCH,
        step=step,
        rank=rank,
        source=source,
        partial=False,
        transfer_s=0.001,
        wait_s=sum(waited_for.values()),
        operations=10,
        last=last,
        waited_for=[{"rank": other, "wait_s": seconds} for other, seconds in waited_for.items()],
        step_s=STEP_S,
        **dict.fromkeys(PARTS, None),
    )


def named(samples, step_s=STEP_S):
    return arrivals(samples, {(0, step): step_s for step in STEPS}).straggler


def late(rank, ranks, seconds, steps=STEPS):
    return [sample(s, r, {} if r == rank else {rank: seconds}) for s in steps for r in range(ranks)]


@pytest.mark.parametrize("ranks", [2, 8])
def test_a_rank_that_all_others_wait_for_is_named_with_what_it_costs(ranks):
    found = named(late(1, ranks, 0.012))
    assert (found.rank, found.caused_s, found.share) == (1, pytest.approx(0.012), pytest.approx(0.12))


def test_who_only_passes_on_that_it_was_kept_waiting_is_not_named():
    """Rank 1 is late; 0 waits for it in tp, and 2 and 3, in dp, for 0 and 1."""
    waits = {0: {1: 0.02}, 1: {}, 2: {0: 0.02}, 3: {1: 0.02}}
    assert named([sample(s, r, waited) for s in STEPS for r, waited in waits.items()]).rank == 1


def test_nobody_is_named_where_ranks_take_turns():
    assert named([one for step in STEPS for one in late(step % 4, 4, 0.03, [step])]) is None


def test_nobody_is_named_for_a_small_share_of_the_step():
    assert named(late(1, 4, 0.004)) is None


def test_nobody_is_named_for_few_steps():
    assert named(late(1, 4, 0.05, range(1, 3))) is None


def test_nobody_is_named_where_two_ranks_are_as_late():
    both = [sample(s, r, {1: 0.02, 2: 0.02 + 0.001 * (s % 3)} if r in (0, 3) else {}) for s in STEPS for r in range(4)]
    assert named(both) is None


@pytest.mark.parametrize("ranks", [2, 4, 16])
def test_noise_names_nobody(ranks):
    """In 500 runs in which each rank waits for random ones a tenth of the step, next to nobody."""
    random = np.random.default_rng(0)
    found = 0
    for _ in range(500):
        samples = []
        for step in STEPS:
            came = random.exponential(0.01, ranks)
            slowest = int(came.argmax())
            for rank in range(ranks):
                waited = float(came[slowest] - came[rank])
                samples.append(sample_of(step, rank, {slowest: waited} if rank != slowest else {}))
        found += named(samples) is not None
    assert found <= 5


def sample_of(step, rank, waited_for):
    """As `sample`, without the check of its form, for many."""
    waits = [{"rank": other, "wait_s": seconds} for other, seconds in waited_for.items()]
    known = {"attempt": 0, "step": step, "rank": rank, "source": "profiler", "operations": 1, "last": 0}
    return {**known, "wait_s": sum(waited_for.values()), "waited_for": waits}


def test_who_came_last_how_often():
    samples = [sample(s, r, {}, last=8 if r == 3 else 1) for s in STEPS for r in range(4)]
    found = arrivals(samples, {})
    assert (found.last_rank, found.last_share, found.straggler) == (3, 0.8, None)


def test_without_samples_nobody_came_last():
    assert arrivals([], {}).last_rank is None


def test_every_rank_has_what_it_causes_the_foremost_first():
    """Rank 2 is late by 12 ms, once by 500; once rank 0 is, by 300."""
    disturbed = [*late(2, 4, 0.5, [1]), *late(0, 4, 0.3, [2])]
    found = arrivals([*disturbed, *late(2, 4, 0.012, range(3, 9))], {}).waiting
    assert (found.ranks, found.sampled_steps) == (4, 8)
    told = [(one.rank, pytest.approx(one.caused_s)) for one in found.foremost]
    assert told == [(2, 0.012), (0, -0.012), (1, -0.012), (3, -0.012)], "the others wait as long themselves"


def test_of_many_ranks_those_that_cause_most_are_told():
    waits = {rank: 0.001 * rank for rank in range(1, 100)}
    found = arrivals([sample(s, r, {} if r else waits, last=r % 3) for s in STEPS for r in range(100)], {}).waiting
    assert found.ranks == 100
    assert [one.rank for one in found.foremost] == list(range(99, 99 - FOREMOST, -1))
    assert found.foremost[0] == Cause(99, pytest.approx(0.099), 0.0)
    assert found.foremost[1].last_share == 0.2


def test_what_is_not_known_of_a_rank_is_not_told():
    told = late(1, 4, 0.012)
    unknown = [
        one | {"wait_s": None} if one["rank"] == 3 or (one["rank"], one["step"]) == (1, 2) else one for one in told
    ]
    found = arrivals(unknown, {}).waiting
    assert [(one.rank, pytest.approx(one.caused_s)) for one in found.foremost] == [(1, 0.012), (0, -0.012), (2, -0.012)]
    assert arrivals([one | {"wait_s": None} for one in told], {}).waiting is None
    assert arrivals([sample(step, 0, {}) for step in STEPS], {}).waiting is None, "one rank keeps nobody waiting"


def written(path, samples):
    """A point's folder with what its ranks wrote."""
    folder = path / "attempts" / "0" / "nodes" / "000"
    folder.mkdir(parents=True)
    (folder / "host0.jsonl").write_text("".join(json.dumps(one) + "\n" for one in samples) + '{"torn')
    return read_point(path)


@pytest.mark.parametrize("planned", [2, 4])
def test_a_points_row_names_the_straggler_and_its_host(tmp_path, planned):
    """Of the hosts that were there, two of as many as planned or more."""
    config = make_config(gpus=2, nodes=planned)
    there = {"world_size": 4, "nodes": 2, "hosts": ["host0", "host1"]}
    path = add_point(make_study(tmp_path), config, [make_attempt(config, [STEP_S] * 20, begin=there)])
    row = summarise(written(path, late(3, 4, 0.02)))
    assert "rank 3 on host1 keeps others waiting 20 ms of a step (20.0 %)" in row["warnings"]
    assert (row["last_rank"], row["last_share"]) == (None, None), "none of the four more often than another"


def test_a_points_row_has_its_exposure(tmp_path):
    config = make_config(gpus=2)
    launch, events = make_attempt(config, [STEP_S] * 20)
    for step, transfer, wait in ((10, 0.01, 0.02), (11, 0.03, 0.001), (12, 0.02, 0.03)):
        known = {"compute_s": 0.05, "overlapped_s": 0.0, "bubble_s": None, "idle_s": 0.01, "step_s": STEP_S}
        told = {"exposed_transfer_s": transfer, "exposed_wait_s": wait, "ranks": 2, "partial": False, **known}
        told |= {"transfer_s": transfer + 0.04, "wait_s": wait + 0.01}
        events.append(record("exposure", EPOCH, step=step, source="profiler", **told))
    unknown = dict.fromkeys((*PARTS, "transfer_s", "wait_s"), None) | {"step_s": STEP_S}
    events.append(record("exposure", EPOCH, step=13, source="profiler", partial=True, ranks=0, **unknown))
    row = summarise(read_point(add_point(make_study(tmp_path), config, [(launch, events)])))
    assert row["exposed_comm_s"] == pytest.approx(0.031), "the median of sums, not the sum of medians"
    assert (row["exposed_transfer_s_p50"], row["exposed_wait_s_p50"], row["bubble_s_p50"]) == (0.02, 0.02, None)
    assert (row["transfer_s_p50"], row["wait_s_p50"]) == (pytest.approx(0.06), pytest.approx(0.03))


def test_the_slowest_rank_is_that_of_most_steps_and_by_how_much():
    config = make_config(gpus=2)
    _, events = make_attempt(config, [STEP_S] * 6)
    events.append(make_ranks(4, [0.2, 0.11, 0.12, 0.13], window_s=0.56) | {"slowest_rank": [0, 1, 1, 1]})
    slowest = throughput({0: events}).slowest
    assert (slowest.rank, slowest.by) == (1, pytest.approx(0.2))
    assert throughput({0: make_attempt(config, [STEP_S] * 6)[1]}).slowest is None


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.02, "20 ms"), (0.9994, "999 ms"), (0.9996, "1,000 ms"), (1.03, "1,030 ms")]
)
def test_what_a_straggler_causes_is_in_plain_figures(seconds, told):
    assert f" waiting {told} of a step" in sentence(Straggler(1, seconds, 0.5), [], 2)
