"""Who kept the others waiting, out of dumps as ranks write them: what one dump alone can't tell."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_study_outcome import PRINTED, RESET, UNENDED, Attempt

from harness.study.diagnosis import Hang, diagnose, listed, read
from harness.study.outcome import Outcome, outcome
from launch.environment import SOURCE

TORCH = ["/x/lib/python3.12/site-packages/torch/distributed/distributed_c10d.py", 9, "wait"]
CODE = [f"{SOURCE}/harness/training/data.py", 40, "batch"]
USERS = ["/home/ada/model.py", 7, "forward"]


def group(label: str, ranks: list[int], joined: int | None) -> dict[str, Any]:
    return {"name": f"pg-{label}-{ranks[0]}", "label": label, "ranks": ranks, "joined": joined}


def open_op(told: dict[str, Any], op: str, sequence: int, issued: float = 1.0, **more: Any) -> dict[str, Any]:
    plain = {"op": op, "said": f"nccl:{op}", "group": told["name"], "sequence": sequence, "issued": issued}
    return {**plain, "p2p": False, "state": "scheduled", **more}


def dump(rank: int, groups: list[dict[str, Any]], *under_way: dict[str, Any], **more: Any) -> dict[str, Any]:
    frames = [TORCH, CODE] if under_way else [["<frozen os>", 1, "x"], CODE, TORCH]
    return {
        "schema": 1,
        "kind": "flight",
        "rank": rank,
        "cause": "timeout",
        "phase": "step",
        "step": 4,
        "limit_s": 20.0,
        "error": None,
        "peak_memory_bytes": 2**30,
        "threads": [{"name": "MainThread", "frames": frames}],
        "groups": groups,
        "operations": [*under_way],
        **more,
    }


def judged(*dumps: dict[str, Any]) -> Hang:
    told = {dump["rank"]: dump for dump in dumps}
    hang = diagnose(told, None, lambda rank: [], lambda rank: "")
    assert hang is not None
    return hang


def test_who_waits_for_another_is_not_the_one_that_all_wait_for() -> None:
    """Rank 1 is missing in dp because it waits in tp for rank 3: a mesh of dp {0, 1}, {2, 3} and tp {0, 2}, {1, 3}."""
    dp, tp, other = [0, 1], [1, 3], [0, 2]
    dps, tps = group("dp", dp, 40), group("tp", tp, 9)
    hang = judged(
        dump(0, [{**dps, "joined": 41}, group("tp", other, 9)], open_op(dps, "all_gather", 41, 1.0)),
        dump(1, [dps, {**tps, "joined": 10}], open_op(tps, "all_reduce", 10, 2.0)),
        dump(3, [group("dp", [2, 3], 40), tps]),
        dump(2, [group("dp", [2, 3], 41), group("tp", other, 9)], open_op(group("dp", [2, 3], 40), "all_gather", 41)),
    )
    assert hang == Hang(
        3,
        "rank 3 did not join all_gather 41 of dp (2 ranks) within 20 s, in step 5; "
        "it stood in harness/training/data.py:40 batch",
        True,
    )


def test_of_what_a_device_has_in_its_queue_the_first_is_told_and_all_who_are_absent() -> None:
    dp = group("dp", [0, 1, 2], 40)
    hang = judged(
        dump(0, [{**dp, "joined": 43}], *(open_op(dp, "all_gather", number) for number in (43, 41, 42))),
        dump(1, [dp]),
        dump(2, [dp]),
    )
    assert hang.reason == (
        "rank 1 did not join all_gather 41 of dp (3 ranks) within 20 s, in step 5 (nor did rank 2); "
        "it stood in harness/training/data.py:40 batch"
    )


def test_a_rank_without_a_dump_is_missing_if_it_should_have_left_one() -> None:
    dp = group("dp", [0, 1, 99], 5)
    hang = judged(dump(0, [dp], open_op(dp, "all_reduce", 5)))
    assert hang.reason == "rank 1 did not join all_reduce 5 of dp (3 ranks) within 20 s, in step 5; it left no dump"


def test_a_ring_that_has_lost_a_groups_operations_accuses_nobody() -> None:
    dp = group("dp", [0, 1], 5)
    hang = judged(dump(0, [dp], open_op(dp, "all_reduce", 5)), dump(1, [{**dp, "joined": None}]))
    assert hang.reason.startswith("rank 1 showed no sign of progress within 20 s, in step 5; it stood in")


def test_a_receive_waits_for_its_sender() -> None:
    pp = group("pp", [0, 2], 0)
    receives = open_op(pp, "recv", 3, said="nccl:recv 1<-0", p2p=True)
    hang = judged(dump(2, [pp], receives), dump(0, [pp]))
    assert hang.reason.startswith("rank 0 did not join recv 3 of pp (2 ranks)")


def test_ranks_that_wait_for_each_other_are_both_told() -> None:
    dp, tp = group("dp", [0, 1], 4), group("tp", [0, 1], 8)
    hang = judged(
        dump(0, [{**dp, "joined": 5}, tp], open_op(dp, "all_reduce", 5)),
        dump(1, [dp, {**tp, "joined": 9}], open_op(tp, "all_gather", 9, 2.0)),
    )
    assert hang.reason.startswith(
        "rank 0 waited in all_reduce 5 of dp (2 ranks) for rank 1, "
        "which waited in all_gather 9 of tp (2 ranks) for rank 0"
    )


def test_another_operation_than_the_others_is_told() -> None:
    dp = group("dp", [0, 1, 2], 5)
    ops = ("all_reduce", "all_gather", "all_reduce")
    hang = judged(*(dump(rank, [dp], open_op(dp, op, 5)) for rank, op in enumerate(ops)))
    assert hang.reason.startswith("rank 1 called all_gather as operation 5 of dp, where the others called all_reduce")


def test_a_device_that_is_late_where_all_hosts_have_called_is_told() -> None:
    dp = group("dp", [0, 1], 5)
    started = open_op(dp, "all_reduce", 5, state="started")
    hang = judged(dump(0, [dp], started), dump(1, [dp], open_op(dp, "all_reduce", 5)))
    assert hang.reason.startswith("the device of rank 1 did not come to all_reduce 5 of dp (2 ranks) within 20 s")


def test_alone_in_its_own_code_a_rank_is_no_error_of_communication() -> None:
    told = dump(0, [], phase="compile_and_first_step", step=None, threads=[{"name": "M", "frames": [TORCH, USERS]}])
    told["threads"][0]["frames"] = [USERS, CODE]
    hang = judged(told)
    assert not hang.communicates
    assert hang.reason == (
        "rank 0 showed no sign of progress within 20 s, in its first step; it stood in /home/ada/model.py:7 forward"
    )


def test_ranks_are_listed_in_few_words() -> None:
    assert [listed(list(range(n))) for n in (1, 2, 5)] == ["rank 0", "ranks 0 and 1", "ranks 0, 1, 2 and 2 more"]


def left(folder: Path, *dumps: dict[str, Any]) -> Attempt:
    """An attempt's folder with dumps in it, one of which is torn."""
    attempt = Attempt(folder)
    (folder / "flight").mkdir()
    for told in dumps:
        (folder / "flight" / f"rank{told['rank']}.json").write_text(json.dumps(told))
    (folder / "flight" / "rank63.json").write_text('{"rank": 6')
    return attempt


def hung() -> list[dict[str, Any]]:
    dp = group("dp", [0, 1], 5)
    return [dump(0, [dp], open_op(dp, "all_reduce", 5)), dump(1, [{**dp, "joined": 4}])]


def test_a_hang_outweighs_how_torchrun_saw_its_ranks_end(tmp_path: Path) -> None:
    attempt = left(tmp_path, *hung())
    attempt.raises(0, RESET, at=10)
    attempt.dies(-9)  # it did not heed the launcher's SIGTERM
    ended = outcome(tmp_path, 1, ["a", "b"], 1)
    assert (ended.status, ended.rank, ended.host) == ("comm_error", 1, "b")
    assert ended.reason and ended.reason.startswith("rank 1 on b did not join all_reduce 5 of dp (2 ranks) within 20 s")
    assert sorted(read(tmp_path)) == [0, 1]


def test_a_host_that_did_not_end_with_the_others_is_why_its_ranks_did_not_join(tmp_path: Path) -> None:
    attempt = left(tmp_path, dump(0, [(dp := group("dp", [0, 1], 5))], open_op(dp, "all_reduce", 5)))
    (tmp_path / "logs" / "node0.log").write_text(PRINTED.format(code=1, name="", file="x").replace(": 1 (", ": 0 ("))
    (tmp_path / "logs" / "launcher.log").write_text(UNENDED)
    reason = (
        "b: did not end with the others; it may be down or cut off; "
        "rank 1 on b did not join all_reduce 5 of dp (2 ranks) within 20 s, in step 5; it left no dump"
    )
    assert outcome(attempt.folder, 1, ["a", "b"], 1) == Outcome("failed", reason, 1, "b")


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (-9, RESET, Outcome("failed", "rank 1: ended with SIGKILL", 1, "here")),
        (-9, "ValueError: x", Outcome("failed", "rank 0: ValueError: x", 0, "here")),
    ],
)
def test_a_rank_that_died_or_raised_first_outweighs_its_peers_dumps(
    tmp_path: Path, code: int, message: str, expected: Outcome
) -> None:
    attempt = left(tmp_path, {**hung()[0], "cause": "error"})
    attempt.raises(0, message, at=10)
    attempt.dies(code)
    assert outcome(tmp_path, 1, ["here"], 2) == expected


def test_a_watchdogs_end_without_dumps_is_told_by_the_stack_that_was_printed(tmp_path: Path) -> None:
    said = (
        "Timeout (0:00:20)!\n"
        'Thread 0x00007f1 (most recent call first):\n  File "/usr/lib/python3.12/threading.py", line 3 in wait\n'
        "Thread 0x00007f2 (most recent call first):\n"
        f'  File "{TORCH[0]}", line 9 in wait\n  File "{CODE[0]}", line 40 in batch\n'
    )
    Attempt(tmp_path).dies(1, said, "")
    assert outcome(tmp_path, 1, ["here"], 2) == Outcome(
        "failed",
        "rank 1 kept the interpreter and showed no sign of progress; it stood in harness/training/data.py:40 batch",
        1,
        "here",
    )


def test_running_out_of_memory_tells_the_peak(tmp_path: Path) -> None:
    attempt = left(tmp_path, dump(1, [], cause="oom", peak_memory_bytes=3 * 2**29))
    attempt.raises(1, "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", at=10)
    reason = outcome(tmp_path, 1, ["here"], 2).reason
    assert reason and reason.endswith("Tried to allocate 2.00 GiB; it had held up to 1.50 GiB")
