"""Training that goes on from a checkpoint has the losses of one that was never interrupted, whoever wrote it."""

from pathlib import Path

import pytest
import tiny_training as tiny
import torch
from checkpointed_training import SAVED, Case, build, opened, resumed, saved, steps
from ranks import run_ranks

TP, PP, CP, EP = ({"degrees": {name: 2}} for name in ("tp", "pp", "cp", "ep"))
PIPELINE = {**PP, "microbatches": 2}
FSDP: Case = ("fsdp", {})
MLA: Case = ("fsdp", {"shape": "mla"})

WRITTEN: dict[str, Case] = {
    "ddp": ("ddp", {}),
    "fsdp": FSDP,
    "mla": MLA,
    "tied": ("fsdp", {"tied": True}),
    "wrapped": ("fsdp", {"checkpointing": "full"}),
    "narrow": ("ddp", {"state": torch.bfloat16}),
    "zero1": ("zero1", {}),
    "zero2": ("zero2", {"shape": "mla"}),
    "zero3": ("zero3", {}),
    "zero3_bf16": ("zero3", {"compute": torch.bfloat16}),
}
"""By the folder's name, what two ranks write."""

OTHERS: list[tuple[str, Case]] = [
    ("fsdp", ("ddp", {})),
    ("ddp", ("fsdp", TP)),
    ("wrapped", ("fsdp", PIPELINE)),
    ("ddp", ("ddp", PIPELINE)),
    ("fsdp", ("fsdp", {**PIPELINE, "schedule": "interleaved", "virtual_stages": 2})),
    ("fsdp", ("fsdp", CP)),
    ("mla", ("fsdp", {"shape": "mla", **EP})),
    ("tied", ("fsdp", {"tied": True, **TP})),
]
"""Folders that others take up, two ranks as well."""

FOUR: list[tuple[str, Case]] = [
    ("fsdp", FSDP),
    ("fsdp", ("fsdp", TP)),
    ("ddp", ("hsdp", {"degrees": {"replicas": 2}})),
    ("fsdp", ("fsdp", {"degrees": {"tp": 2, "pp": 2}, "microbatches": 2})),
    ("mla", ("fsdp", {"shape": "mla", "degrees": {"ep": 2, "tp": 2}})),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("written")


@pytest.fixture(scope="module")
def whole(root: Path) -> dict[str, list[tuple[float, float]]]:
    """The numbers of trainings that nothing interrupts, each of which leaves a checkpoint."""
    return run_ranks(2, saved, WRITTEN, str(root))[0]


def check(told, cases: list[tuple[str, Case]], whole) -> None:
    for (name, case), numbers in zip(cases, told, strict=True):
        assert tiny.agree(numbers, whole[name][SAVED:]), (name, case, numbers, whole[name][SAVED:])


def test_the_same_ranks_go_on(root: Path, whole) -> None:
    cases = list(WRITTEN.items())
    check(run_ranks(2, resumed, cases, str(root))[0], cases, whole)


def test_other_strategies_and_degrees_go_on(root: Path, whole) -> None:
    check(run_ranks(2, resumed, OTHERS, str(root))[0], OTHERS, whole)


def test_half_the_ranks_go_on(root: Path, whole) -> None:
    cases = [("fsdp", FSDP), ("ddp", ("ddp", {})), ("mla", MLA)]
    check(run_ranks(1, resumed, cases, str(root))[0], cases, whole)


def test_twice_the_ranks_go_on_with_other_degrees(root: Path, whole) -> None:
    check(run_ranks(4, resumed, FOUR, str(root))[0], FOUR, whole)


@pytest.mark.slow
def test_what_four_ranks_write_in_any_arrangement_two_take_up(tmp_path: Path) -> None:
    written: dict[str, Case] = {
        "hsdp_tp": ("hsdp", {"degrees": {"replicas": 2, "tp": 2}}),
        "tp_pp": ("fsdp", {"degrees": {"tp": 2, "pp": 2}, "microbatches": 2}),
        "cp": ("fsdp", {"degrees": {"cp": 2}}),
        "ep_tp": ("fsdp", {"shape": "mla", "degrees": {"ep": 2, "tp": 2}}),
        "ep": ("fsdp", {"shape": "moe", "degrees": {"ep": 2}}),
        "hsdp_ep": ("hsdp", {"shape": "moe", "degrees": {"replicas": 2, "ep": 2}}),
        "uneven": ("fsdp", {"shape": "uneven"}),
        "ddp_pp": ("ddp", PIPELINE),
    }
    whole = run_ranks(4, saved, written, str(tmp_path))[0]
    same = list(written.items())
    check(run_ranks(4, resumed, same, str(tmp_path))[0], same, whole)
    fewer = [(name, ("fsdp", {"shape": how.get("shape", "dense")})) for name, (_, how) in same]
    check(run_ranks(2, resumed, fewer, str(tmp_path))[0], fewer, whole)


def test_what_is_written_in_the_background_is_the_state_of_its_step(tmp_path: Path) -> None:
    """Training goes on at once, and must not be seen in it."""
    cases = {"ddp": ("ddp", {}), "fsdp": FSDP, "tp": ("fsdp", TP)}
    whole = run_ranks(2, saved, cases, str(tmp_path), "async")[0]
    check(run_ranks(2, resumed, list(cases.items()), str(tmp_path))[0], list(cases.items()), whole)


def without_moments(root: str) -> list[tuple[float, float]]:
    trained, _ = build(FSDP)
    opened(trained, Path(root) / "fsdp")[0].restore()
    for state in trained.optimizer.state.values():
        state["exp_avg"].zero_()
    return [numbers for _, numbers in steps(trained, range(SAVED + 1, tiny.STEPS + 1))]


def test_an_optimizer_that_begins_anew_is_noticed(root: Path, whole) -> None:
    assert not tiny.agree(run_ranks(2, without_moments, str(root))[0], whole["fsdp"][SAVED:])


def test_deepspeeds_are_taken_up_by_half_and_twice_the_ranks(root: Path, whole) -> None:
    zeros = [(name, case) for name, case in WRITTEN.items() if name in ("zero1", "zero2", "zero3")]
    check(run_ranks(1, resumed, zeros, str(root))[0], zeros, whole)
    check(run_ranks(4, resumed, zeros, str(root))[0], zeros, whole)


def random_numbers(folder: str, restored: bool) -> list[float]:
    trained, _ = build(FSDP)
    checkpoints, _ = opened(trained, Path(folder))
    torch.manual_seed(100 + torch.distributed.get_rank())
    if restored:
        torch.manual_seed(0)
        checkpoints.restore()
    else:
        list(steps(trained, range(1, 2)))
        torch.rand(3)
        checkpoints.write(1)
    return torch.rand(2).tolist()


def test_each_rank_goes_on_with_its_own_random_numbers(tmp_path: Path) -> None:
    first = run_ranks(2, random_numbers, str(tmp_path), False)
    assert first[0] != first[1]
    assert run_ranks(2, random_numbers, str(tmp_path), True) == first
    # a rank that was not there before has its own
    assert run_ranks(4, random_numbers, str(tmp_path), True)[:2] == first


def shares() -> list[tuple[int, int]]:
    """Of each case, the bytes that this rank writes and those of the whole state."""
    told = []
    for case in (("ddp", {}), ("hsdp", {"degrees": {"replicas": 2}})):
        trained, _ = build(case)
        list(steps(trained, range(1, 2)))
        held = [x.to_local() if hasattr(x, "to_local") else x for x in trained.share().values()]
        told.append((sum(x.nbytes for x in held), 3 * 4 * sum(p.numel() for p in trained.model.parameters())))
    return told


def test_ranks_with_the_same_state_share_its_writing() -> None:
    for case in zip(*run_ranks(2, shares), strict=True):
        written, whole = [mine for mine, _ in case], case[0][1]
        assert sum(written) == pytest.approx(whole, rel=0.01)
        assert max(written) < 0.6 * whole
