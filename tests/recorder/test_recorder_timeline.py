"""Where a step's time went, on timelines constructed with a known answer."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from harness.recorder.timeline import Communication, Parts, parts, without


def collective(start, end, transfer=None, op="all_reduce", group="dp"):
    return Communication(op, group, start, end, transfer)


def send(start, end, group="pp"):
    return collective(start, end, op="send_recv", group=group)


def told(compute, communications, pipeline=True) -> Parts:
    """Of a step from 0 to 100."""
    return parts(0, 100, compute, communications, pipeline)


def made(**spent) -> Parts:
    return Parts(
        **{**dict.fromkeys(("compute", "overlapped", "exposed_transfer", "exposed_wait", "bubble"), 0), **spent}
    )


def test_a_step_with_nothing_in_it_is_idle():
    assert told([], []) == made(idle=100)


def test_waiting_comes_first_and_transfer_last():
    assert told([(0, 50)], [collective(50, 90, transfer=10)]) == made(
        compute=50, exposed_wait=30, exposed_transfer=10, idle=10
    )


def test_what_runs_under_computation_is_not_exposed():
    """30 to 80: waits to 70; computes to 60."""
    assert told([(0, 60)], [collective(30, 80, transfer=10)]) == made(
        compute=30, overlapped=30, exposed_wait=10, exposed_transfer=10, idle=20
    )


def test_where_one_group_transfers_while_another_waits_it_is_transfer():
    spans = [collective(0, 60, transfer=30), collective(20, 80, transfer=20, group="tp")]
    assert told([], spans) == made(exposed_wait=30 + 0, exposed_transfer=30 + 20, idle=20)


def test_computations_on_several_streams_count_once():
    assert told([(0, 40), (20, 60), (30, 35)], []) == made(compute=60, idle=40)


def test_what_is_not_split_is_transfer():
    assert told([], [collective(10, 30, op="broadcast")]) == made(exposed_transfer=20, idle=80)


def test_a_bubble_is_a_pipelines_send_with_nothing_else_going_on():
    spans = [send(0, 70), collective(40, 50, transfer=4)]
    assert told([(10, 30)], spans) == made(compute=20, bubble=40, exposed_wait=6, exposed_transfer=4, idle=30)


def test_what_stages_wait_for_each_other_is_bubble():
    span = collective(20, 90, transfer=10, group="world")
    assert told([(0, 20)], [span]) == made(compute=20, bubble=60, exposed_transfer=10, idle=10)
    assert told([(0, 20)], [span], pipeline=False) == made(compute=20, exposed_wait=60, exposed_transfer=10, idle=10)


def test_sends_without_a_pipeline_are_communication():
    assert told([(10, 30)], [send(0, 70)], pipeline=False) == made(overlapped=20, exposed_transfer=50, idle=30)


def test_sends_of_other_groups_are_communication():
    assert told([(10, 30)], [send(0, 70, group="cp")]) == made(overlapped=20, exposed_transfer=50, idle=30)


def test_what_lies_outside_the_step_is_cut_off():
    """From before its begin, and beyond its end: of 40 to 140 it waits to 90."""
    spans = [collective(40, 140, transfer=50), collective(-20, 10, transfer=20)]
    assert told([(-50, -10), (95, 200)], spans) == made(overlapped=5, exposed_transfer=10 + 5, exposed_wait=50, idle=30)


def test_nobody_waits_in_a_collective_that_is_all_transfer():
    assert told([], [collective(0, 100, transfer=100)]).exposed_wait == 0


intervals = st.tuples(st.integers(-50, 150), st.integers(0, 120)).map(lambda drawn: (drawn[0], sum(drawn)))
communications = st.builds(
    lambda op, group, span, transfer: Communication(op, group, *span, transfer),
    st.sampled_from(("all_reduce", "broadcast", "send_recv")),
    st.sampled_from(("dp", "pp", "world")),
    intervals,
    st.none() | st.integers(0, 150),
)


@given(st.lists(intervals, max_size=8), st.lists(communications, max_size=8))
def test_parts_tile_the_step(compute, spans):
    found = dataclasses.astuple(told(compute, spans))
    assert sum(found) == 100
    assert min(found) >= 0


@given(st.lists(intervals, max_size=8), st.lists(communications, max_size=8))
def test_parts_are_what_each_moment_by_itself_says(compute, spans):
    """The same by looking at one nanosecond after another."""
    spent = dict.fromkeys((field.name for field in dataclasses.fields(Parts)), 0)
    for moment in range(100):
        computing = any(start <= moment < end for start, end in compute)
        on = [span for span in spans if span.start <= moment < span.end]
        sends = [span for span in on if (span.op, span.group) == ("send_recv", "pp")]
        collectives = [span for span in on if span not in sends]
        moving = [span for span in collectives if span.transfer is None or moment >= span.end - span.transfer]
        across = [span for span in collectives if span not in moving and span.group in ("pp", "world")]
        waiting = [span for span in collectives if span not in moving and span not in across]
        if computing:
            spent["overlapped" if moving or waiting else "compute"] += 1
        elif moving or waiting:
            spent["exposed_transfer" if moving else "exposed_wait"] += 1
        else:
            spent["bubble" if sends or across else "idle"] += 1
    assert told(compute, spans) == Parts(**spent)


def test_intervals_without_others():
    assert without([(0, 10), (5, 20), (30, 40)], [(8, 12), (35, 50)]) == [(0, 8), (12, 20), (30, 35)]
    assert without([(0, 10)], []) == [(0, 10)]
    assert without([(0, 10)], [(0, 10)]) == []
