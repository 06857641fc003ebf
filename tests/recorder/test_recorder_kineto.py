"""Which kernel is which collective. Activities and entries are constructed, in the form an H200 gave (torch 2.11, NCCL
2.28.9): this machine has no GPU. tests/gpu reads real ones."""

from types import SimpleNamespace

from test_recorder_nccl import LABELS, batch, entry
from torch.autograd import DeviceType

from harness.recorder.cuda import account
from harness.recorder.groups import Groups
from harness.recorder.kineto import Activity, activities

GROUPS = Groups({**LABELS, "3": ("cp", 1)})


def ran(*names, length=10):
    """Activities one after another, launched in this order."""
    return [Activity(name, 100 * i, 100 * i + length, i) for i, name in enumerate(names)]


def kernel(kind="AllReduce_Sum_f32_RING_LL"):
    return f"ncclDevKernel_{kind}"


def told(activities, entries, whole=True):
    return account(7, activities, entries, GROUPS, whole)


def test_kernels_are_the_entries_in_the_order_of_their_launch_and_the_rest_computes():
    entries = [entry(1), entry(2, name="nccl:_all_gather_base", given=100, got=200, process_group=("1", "mesh_tp"))]
    found = told(ran("gemm", kernel(), "Memcpy DtoD", kernel("AllGather_RING_LL")), entries)
    assert [(o.op, o.group, o.bytes, o.start, o.duration) for o in found.operations] == [
        ("all_reduce", "dp", 4 << 20, 100 / 1e9, 10 / 1e9),
        ("all_gather", "tp", 800, 300 / 1e9, 10 / 1e9),
    ]
    assert found.timeline.compute == [(0, 10), (200, 210)]
    assert found.timeline.whole and not found.partial


def test_a_batch_launches_one_kernel_and_a_group_of_one_none():
    alone = entry(3, process_group=("3", "mesh_cp"))
    entries = [*batch(1, ("nccl:send 0->1", 10), ("nccl:recv 0<-1", 10)), alone, entry(4)]
    found = told(ran(kernel("SendRecv"), kernel()), entries)
    assert [o.op for o in found.operations] == ["all_reduce"]
    assert [(span.op, span.group, span.start, span.transfer) for span in found.timeline.others] == [
        ("send_recv", "pp", 0, None)
    ]
    assert found.timeline.whole


def test_sends_and_receives_of_their_own_are_a_pipelines():
    names, pp = ("nccl:send 0->1", "nccl:recv 0<-1"), ("2", "mesh_pp")
    entries = [entry(i, name=name, is_p2p=True, p2p_seq_id=i, process_group=pp) for i, name in enumerate(names)]
    found = told(ran(kernel("SendRecv"), kernel("SendRecv")), entries)
    assert [(span.op, span.group) for span in found.timeline.others] == [("send_recv", "pp")] * 2


def test_other_numbers_or_kinds_of_kernels_are_partial_and_tell_no_operation():
    for names in [(), (kernel(), kernel()), (kernel("AllGather_RING_LL"),)]:
        found = told(ran("gemm", *names), [entry(1)])
        assert (found.operations, found.partial, found.timeline.whole) == ([], True, False)
        assert found.timeline.compute == [(0, 10)]


def test_a_kernel_for_many_operations_can_be_any():
    assert told(ran(kernel("Generic_1")), [entry(1)]).timeline.whole


def test_a_ring_with_gaps_is_not_matched():
    assert told(ran(kernel()), [entry(1)], whole=False).partial


def test_only_what_ran_on_the_device_is_taken_by_its_launch():
    def event(name, start, correlation, device=DeviceType.CUDA, named=False):
        return SimpleNamespace(
            name=lambda: name,
            start_ns=lambda: start,
            end_ns=lambda: start + 5,
            correlation_id=lambda: correlation,
            device_type=lambda: device,
            is_user_annotation=lambda: named,
        )

    found = activities(
        [
            event("late", 50, 2),
            event("early", 90, 1),
            event("cudaLaunchKernel", 0, 1, DeviceType.CPU),
            event("step", 0, 0, named=True),
        ]
    )
    assert found == [Activity("early", 90, 95, 1), Activity("late", 50, 55, 2)]
