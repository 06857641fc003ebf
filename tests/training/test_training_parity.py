"""ddp, fsdp and hsdp train as the bare module does: the same losses and gradient norms; a test would notice if not."""

import functools

import pytest
import tiny_training as tiny
import torch
from ranks import run_ranks

from harness.parallel.ddp import DDP
from harness.parallel.fsdp import FSDP
from harness.parallel.gradients import Gradients
from harness.parallel.mesh import Degrees, Mesh

agree = tiny.agree
KINDS = ("ddp", "fsdp")


@pytest.fixture(scope="module")
def reference():
    return tiny.reference()


def test_bare_module_learns(reference):
    assert reference[0][0] - reference[-1][0] >= 0.05


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_strategy_equals_the_bare_module(kind, world, reference):
    for told in run_ranks(world, tiny.through_strategy, kind):
        assert agree(told, reference), (told, reference)


def copies(kind="hsdp", **how):
    """What four ranks tell of two copies, each split over two of them."""
    return run_ranks(4, functools.partial(tiny.through_strategy, kind, degrees={"replicas": 2}, **how))


def test_sharded_copies_equal_the_bare_module(reference):
    for told in copies():
        assert agree(told, reference), (told, reference)


@pytest.mark.parametrize("kind", KINDS)
def test_accumulated_microbatches_equal_one_batch(kind, reference):
    assert agree(run_ranks(2, tiny.through_strategy, kind, 2)[0], reference)


def with_options(kind, **how):
    return tiny.through_strategy(kind, **how)


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("ddp", {"checkpointing": "full"}),
        ("fsdp", {"checkpointing": "full"}),
        ("fsdp", {"reshard": False}),
    ],
    ids=["ddp-checkpointing", "fsdp-checkpointing", "fsdp-no-reshard"],
)
def test_memory_options_leave_the_numbers_alone(kind, how, reference):
    assert agree(run_ranks(2, functools.partial(with_options, kind, **how))[0], reference)


@pytest.mark.parametrize("kind", KINDS)
def test_tied_embeddings_stay_tied(kind):
    wanted = tiny.reference(tied=True)
    assert agree(run_ranks(2, functools.partial(with_options, kind, tied=True))[0], wanted)


class SilentDDP(DDP):
    def synchronise(self, last: bool) -> None:
        super().synchronise(False)


class SilentFSDP(FSDP):
    def synchronise(self, last: bool) -> None:
        super().synchronise(False)


class SilentHSDP(FSDP):
    """Copies never hear of each other's gradients."""

    def synchronise(self, last: bool) -> None:
        super().synchronise(last)
        for part in self.parts:
            part.set_requires_all_reduce(False)


def double(trained) -> None:
    for parameter in trained.model.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(2)


def norm_of(elements: int) -> tuple[float, float]:
    """A gradient's norm before clipping, as the strategies take it and in fp64."""
    gradient = torch.randn(elements, generator=torch.Generator().manual_seed(0))
    parameter = torch.nn.Parameter(torch.zeros(elements))
    parameter.grad = gradient.clone()
    norm = Gradients([parameter], Mesh("cpu", Degrees()), torch.device("cpu")).clip(1e9)
    return float(norm), float(gradient.double().norm())


def test_norms_of_many_millions_of_numbers_keep_their_digits():
    ((norm, exact),) = run_ranks(1, norm_of, 2**25)
    assert norm == pytest.approx(exact, rel=1e-6)


def test_missing_all_reduce_is_noticed(reference):
    assert not agree(run_ranks(2, tiny.through_strategy, SilentDDP)[0], reference)


def test_missing_reduce_scatter_is_noticed():
    """The shards never get a gradient then."""
    with pytest.raises(AssertionError, match="a parameter got no gradient"):
        run_ranks(2, tiny.through_strategy, SilentFSDP)


def test_missing_all_reduce_between_copies_is_noticed():
    """A shard gets its gradient when copies have met."""
    with pytest.raises(AssertionError, match="a parameter got no gradient"):
        copies(SilentHSDP)


@pytest.mark.parametrize("kind", KINDS)
def test_doubled_gradients_are_noticed(kind, reference):
    assert not agree(run_ranks(2, tiny.through_strategy, kind, 1, double)[0], reference)


def test_doubled_gradients_of_copies_are_noticed(reference):
    assert not agree(copies(spoil=double)[0], reference)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_blocks_train_as_eager_ones(kind, reference):
    told = run_ranks(2, functools.partial(with_options, kind, compile=True, checkpointing="full"))[0]
    assert agree(told, reference)


def test_bf16_computes_in_the_same_types_with_either_strategy(reference):
    """Both cast weights, keep sums and states in fp32, and so differ by rounding alone."""
    ddp, fsdp = (run_ranks(2, functools.partial(with_options, kind, compute=torch.bfloat16))[0] for kind in KINDS)
    assert not agree(ddp, reference)
    for (loss, norm), (other_loss, other_norm), (exact, _) in zip(ddp, fsdp, reference, strict=True):
        assert loss == pytest.approx(other_loss, abs=1e-4)
        assert norm == pytest.approx(other_norm, rel=1e-3)
        assert loss == pytest.approx(exact, abs=1e-2)
