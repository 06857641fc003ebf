"""What the recorder tells of collectives on gloo: each form in which PyTorch issues them, on several groups at once."""

from collections import Counter

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from ranks import run_ranks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from harness.recorder import gloo
from harness.recorder.gloo import GlooSampler
from harness.recorder.operations import StepOperations

RANKS = 4
TOKENS = torch.tensor([[0, 3, 1, 2], [5, 0, 2, 2], [1, 1, 0, 7], [4, 0, 3, 0]])
"""How many rows each rank sends to each other one."""


def sampled(sampler: GlooSampler, work) -> StepOperations:
    sampler.before_sampled_step(1)
    work()
    (told,) = sampler.after_sampled_step(1)
    return told


def summary(told: StepOperations) -> list[tuple]:
    return [(o.op, o.group, o.group_size, o.bytes, o.uneven) for o in told.operations]


def forms() -> dict[str, tuple[list[tuple], bool, bool]]:
    """By form: the operations told, whether all have a duration, whether they are partial."""
    rank = dist.get_rank()
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "columns"))
    rows, columns, library = mesh["rows"].get_group(), mesh["columns"].get_group(), dist.new_group([0, 1, 2, 3])
    labels = {
        dist.group.WORLD.group_name: ("world", RANKS),
        rows.group_name: ("dp", 2),
        columns.group_name: ("tp", 2),
    }
    part, half, full = torch.ones(1000), torch.ones(1000, dtype=torch.bfloat16), torch.ones(2000)
    sent, got = TOKENS[rank].tolist(), TOKENS[:, rank].tolist()

    def coalesced(call, *arguments):
        with dist._coalescing_manager(group=columns):
            for given in arguments:
                call(*given, group=columns)

    def uneven():
        dist.all_to_all_single(torch.empty(RANKS, dtype=torch.int64), TOKENS[rank].contiguous(), group=library)
        for _ in range(2):
            dist.all_to_all_single(torch.empty(sum(got), 8), torch.ones(sum(sent), 8), got, sent, group=library)

    def around():
        onward = dist.P2POp(dist.isend, part, group=rows, group_peer=1 - dist.get_rank(rows))
        back = dist.P2POp(dist.irecv, torch.empty(1000), group=rows, group_peer=1 - dist.get_rank(rows))
        for work in dist.batch_isend_irecv([onward, back]):
            work.wait()

    def in_turn():
        if dist.get_rank(columns) == 0:
            dist.send(half, group=columns, group_dst=1)
        else:
            dist.recv(half, group=columns, group_src=0)

    def redistributed():
        DTensor.from_local(part, mesh["columns"], [Partial()]).redistribute(placements=[Shard(0)])
        DTensor.from_local(part, mesh["columns"], [Partial()]).redistribute(placements=[Replicate()])
        DTensor.from_local(part, mesh["columns"], [Shard(0)]).redistribute(placements=[Replicate()]).to_local()

    def at_once():
        works = [
            dist.all_reduce(torch.ones(1000), group=group, async_op=True)
            for _ in range(10)
            for group in (rows, columns, library)
        ]
        for work in works:
            work.wait()

    def in_backward():
        given = torch.ones(1000, requires_grad=True)
        (functional.all_gather_tensor_autograd(given, 0, columns) * full).sum().backward()

    programs = {
        "all_reduce": lambda: dist.all_reduce(part, group=columns),
        "all_reduce coalesced": lambda: coalesced(dist.all_reduce, (part,), (full,)),
        "all_gather": lambda: dist.all_gather([torch.empty(1000), torch.empty(1000)], part, group=columns),
        "all_gather one tensor": lambda: dist.all_gather_into_tensor(full, part, group=columns),
        "all_gather coalesced": lambda: coalesced(
            dist.all_gather_into_tensor, (full, part), (torch.empty(100), torch.ones(50))
        ),
        "reduce_scatter": lambda: dist.reduce_scatter(part, [torch.ones(1000), torch.ones(1000)], group=columns),
        "reduce_scatter one tensor": lambda: dist.reduce_scatter_tensor(part, full, group=columns),
        "reduce_scatter coalesced": lambda: coalesced(
            dist.reduce_scatter_tensor, (part, full), (torch.empty(50), torch.ones(100))
        ),
        "all_to_all": lambda: dist.all_to_all_single(torch.empty(1000), part, group=columns),
        "all_to_all uneven": uneven,
        "broadcast": lambda: dist.broadcast(half, group=rows, group_src=0),
        "reduce": lambda: dist.reduce(half, group=rows, group_dst=0),
        "send and recv": in_turn,
        "batched send and recv": around,
        "functional all_reduce": lambda: functional.all_reduce(part, "sum", columns).wait(),
        "functional all_gather": lambda: functional.all_gather_tensor(half, 0, columns).wait(),
        "functional all_gather coalesced": lambda: [
            made.sum() for made in functional.all_gather_into_tensor_coalesced([part, torch.ones(50)], columns)
        ],
        "functional reduce_scatter": lambda: functional.reduce_scatter_tensor(full, "sum", 0, columns).wait(),
        "functional reduce_scatter coalesced": lambda: [
            made.sum()
            for made in functional.reduce_scatter_tensor_coalesced([full, torch.ones(100)], "sum", [0, 0], columns)
        ],
        "functional all_to_all uneven": lambda: functional.all_to_all_single(
            torch.ones(sum(sent), 8), got, sent, library
        ).wait(),
        "functional in backward": in_backward,
        "DTensor": redistributed,
        "several groups at once": at_once,
        "barrier": lambda: dist.barrier(columns),
        "nothing": lambda: None,
    }
    told = {}
    for name, program in programs.items():
        dist.barrier()
        found = sampled(GlooSampler(labels), program)
        told[name] = summary(found), all(o.duration is not None for o in found.operations), found.partial
    return told


@pytest.fixture(scope="module")
def told():
    return run_ranks(RANKS, forms)


def tp(op: str, size: int) -> tuple:
    return op, "tp", 2, size, False


def dp(op: str, size: int) -> tuple:
    return op, "dp", 2, size, False


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("all_reduce", [tp("all_reduce", 4000)]),
        ("all_reduce coalesced", [tp("all_reduce", 12000)]),
        ("all_gather", [tp("all_gather", 8000)]),
        ("all_gather one tensor", [tp("all_gather", 8000)]),
        ("all_gather coalesced", [tp("all_gather", 8400)]),
        ("reduce_scatter", [tp("reduce_scatter", 8000)]),
        ("reduce_scatter one tensor", [tp("reduce_scatter", 8000)]),
        ("reduce_scatter coalesced", [tp("reduce_scatter", 8400)]),
        ("all_to_all", [tp("all_to_all", 4000)]),
        ("broadcast", [dp("broadcast", 2000)]),
        ("reduce", [dp("reduce", 2000)]),
        ("batched send and recv", [dp("send_recv", 4000)]),
        ("functional all_reduce", [tp("all_reduce", 4000)]),
        ("functional all_gather", [tp("all_gather", 4000)]),
        ("functional all_gather coalesced", [tp("all_gather", 8400)]),
        ("functional reduce_scatter", [tp("reduce_scatter", 8000)]),
        ("functional reduce_scatter coalesced", [tp("reduce_scatter", 8400)]),
        ("functional in backward", [tp("all_gather", 8000), tp("reduce_scatter", 8000)]),
        ("DTensor", [tp("reduce_scatter", 4000), tp("all_reduce", 4000), tp("all_gather", 8000)]),
        ("barrier", []),
        ("nothing", []),
    ],
)
def test_every_form_has_its_operation_group_and_bytes(told, form, expected):
    for rank in told:
        operations, timed, partial = rank[form]
        assert operations == expected
        assert timed != ("send" in form), "gloo tells no time of a send"
        assert not partial


def test_what_a_rank_sends_counts_and_what_it_receives_does_not(told):
    assert [rank["send and recv"][0] for rank in told] == [[tp("send_recv", 2000)], []] * 2


@pytest.mark.parametrize("form", ["all_to_all uneven", "functional all_to_all uneven"])
def test_an_uneven_all_to_all_has_the_bytes_of_each_rank(told, form):
    for rank, counts in zip(told, TOKENS, strict=True):
        operations, timed, partial = rank[form]
        tokens = ("all_to_all", "world", RANKS, int(counts.sum()) * 8 * 4, True)
        # the counts that go before the tokens have one size
        first = [("all_to_all", "world", RANKS, RANKS * 8, False)] if form == "all_to_all uneven" else []
        assert operations == first + [tokens] * (2 if first else 1)
        assert timed and not partial


def test_operations_of_several_groups_at_once_keep_their_groups(told):
    for rank in told:
        operations, timed, partial = rank["several groups at once"]
        assert Counter(group for _, group, *_ in operations) == {"dp": 10, "tp": 10, "world": 10}
        assert partial == (not timed)


def sent_after_a_window() -> float:
    told = sampled(GlooSampler({}), lambda: None)
    assert told.operations == []
    got = torch.zeros(1)
    if dist.get_rank() == 0:
        dist.send(torch.ones(1), 1)
    else:
        dist.recv(got, 0)
    return got.item()


def test_sends_outside_a_window_are_left_alone():
    assert run_ranks(2, sent_after_a_window) == [0, 1]


def lost() -> bool:
    everything = gloo.dump
    sampler = GlooSampler({dist.group.WORLD.group_name: ("dp", 2)})

    def work():
        for _ in range(3):
            dist.all_reduce(torch.ones(1000))
        gloo.dump = lambda: [entry for entry in everything() if entry["record_id"] != 1]

    return sampled(sampler, work).partial


def test_a_lost_entry_makes_the_step_partial():
    assert run_ranks(2, lost) == [True, True]


def window_after_window() -> list[tuple[bool, bool, list[tuple]]]:
    """Of three windows alike: whether sizes were recorded, whether it is partial, what is told."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "columns"))
    groups = [mesh[name].get_group() for name in ("rows", "columns")]
    sampler = GlooSampler({groups[0].group_name: ("dp", 2), groups[1].group_name: ("tp", 2)})

    def work():
        for size in (1000, 2000):
            for group in groups:
                dist.all_reduce(torch.ones(size), group=group)

    windows = []
    for _ in range(3):
        shapes = sampler.shapes
        told = sampled(sampler, work)
        timed = [(*told_of, o.duration is not None) for told_of, o in zip(summary(told), told.operations, strict=True)]
        windows.append((shapes, told.partial, timed))
    return windows


def test_windows_go_without_sizes_once_threads_are_known():
    first, *later = run_ranks(RANKS, window_after_window)[0]
    assert first[0] and not first[1] and len(first[2]) == 4
    assert later == [(False, False, first[2])] * 2
