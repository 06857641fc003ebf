"""What the recorder tells of collectives on NCCL: the forms in which PyTorch issues them, from a real ring."""

import time

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from ranks import run_ranks

from harness.recorder import nccl
from harness.recorder.groups import Groups

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]


def forms() -> dict[str, list[tuple]]:
    """By form, the operations told: what, group, bytes, whether uneven, in a batch, and timed."""
    rank = dist.get_rank()
    group = dist.new_group([0, 1])
    groups = Groups({group.group_name: ("tp", 2)})
    part, full = torch.ones(1000, device="cuda"), torch.ones(2000, device="cuda")
    sent, got = ([1, 3], [1, 2]) if rank == 0 else ([2, 5], [3, 5])

    def coalesced(call, *arguments):
        with dist._coalescing_manager(group=group):
            for given in arguments:
                call(*given, group=group)

    def around():
        onward = dist.P2POp(dist.isend, part, group=group, group_peer=1 - rank)
        back = dist.P2POp(dist.irecv, torch.empty_like(part), group=group, group_peer=1 - rank)
        for work in dist.batch_isend_irecv([onward, back]):
            work.wait()

    def in_turn():
        (dist.send if rank == 0 else dist.recv)(
            part, group=group, **{"group_dst" if rank == 0 else "group_src": 1 - rank}
        )

    programs = {
        "all_reduce": lambda: dist.all_reduce(part, group=group),
        "all_reduce coalesced": lambda: coalesced(dist.all_reduce, (part,), (full,)),
        "all_gather": lambda: dist.all_gather_into_tensor(full, part, group=group),
        "all_gather coalesced": lambda: coalesced(dist.all_gather_into_tensor, (full, part), (full.clone(), part)),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(part, full, group=group),
        "all_to_all uneven": lambda: dist.all_to_all_single(
            torch.empty(sum(got), 8, device="cuda"), torch.ones(sum(sent), 8, device="cuda"), got, sent, group=group
        ),
        "reduce": lambda: dist.reduce(part, group=group, group_dst=0),
        "broadcast": lambda: dist.broadcast(part, group=group, group_src=0),
        "batched send and recv": around,
        "send and recv": in_turn,
        "functional all_gather": lambda: functional.all_gather_tensor(part, 0, group).sum(),
        "functional reduce_scatter": lambda: functional.reduce_scatter_tensor(full, "sum", 0, group).sum(),
    }
    told = {}
    for name, program in programs.items():
        dist.barrier()
        began = time.time_ns()
        program()
        ended = time.time_ns()
        torch.cuda.synchronize()
        # durations come from the watchdog's thread
        time.sleep(0.5)
        own = [entry for entry in nccl.dump() if began <= entry["time_created_ns"] < ended]
        told[name] = [
            (o.op, o.group, o.bytes, o.uneven, o.batched, o.duration is not None) for o in nccl.read(own, groups)
        ]
    return told


@pytest.fixture(scope="module")
def told():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_NCCL_ENABLE_TIMING", "1")
        return run_ranks(2, forms, backend="nccl")


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("all_reduce", ("all_reduce", 4000)),
        ("all_reduce coalesced", ("all_reduce", 12000)),
        ("all_gather", ("all_gather", 8000)),
        ("all_gather coalesced", ("all_gather", 16000)),
        ("reduce_scatter", ("reduce_scatter", 8000)),
        ("reduce", ("reduce", 4000)),
        ("broadcast", ("broadcast", 4000)),
        ("functional all_gather", ("all_gather", 8000)),
        ("functional reduce_scatter", ("reduce_scatter", 8000)),
    ],
)
def test_every_form_has_its_operation_and_bytes_and_is_timed(told, form, expected):
    op, size = expected
    for rank in told:
        assert rank[form] == [(op, "tp", size, False, False, True)]


def test_an_uneven_all_to_all_has_the_bytes_of_each_rank(told):
    for rank, rows in zip(told, (4, 7), strict=True):
        assert rank["all_to_all uneven"] == [("all_to_all", "tp", rows * 8 * 4, True, False, True)]


def test_what_a_rank_sends_counts_and_what_it_receives_does_not(told):
    for rank in told:
        assert [operation[:5] for operation in rank["batched send and recv"]] == [
            ("send_recv", "tp", 4000, False, True)
        ]
    first, second = (rank["send and recv"] for rank in told)
    assert [operation[:5] for operation in first] == [("send_recv", "tp", 4000, False, False)]
    assert second == []
