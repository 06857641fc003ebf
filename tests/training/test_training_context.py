"""Ranks that share sequences train as one that has them whole, and a test would notice if they did not."""

import functools

import pytest
import tiny_training as tiny
import torch
from ranks import run_ranks
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.models.attention import FlexAttend, attend
from harness.parallel import collectives, prefix
from harness.parallel.context import ContextParallel

HOW = ("all_gather", "ulysses")


@pytest.fixture(scope="module")
def reference():
    """The bare module's steps, by shape."""
    return functools.cache(lambda shape: run_ranks(1, tiny.bare, shape)[0])


def shared(world: int, how: str) -> ContextParallel:
    return ContextParallel(init_device_mesh("cpu", (world,), mesh_dim_names=("cp",)), how)


def heads(kv_heads: int, value_width: int) -> list[torch.Tensor]:
    """Queries, keys, values and a gradient: 2 sequences of 48 tokens, 8 heads of width 24."""
    generator = torch.Generator().manual_seed(1)
    sizes = [(8, 24), (kv_heads, 24), (kv_heads, value_width), (8, value_width)]
    return [torch.randn(2, 48, *size, generator=generator) for size in sizes]


def largest_difference(how: str, kv_heads: int, value_width: int, compiled: bool = False) -> float:
    """Of what attention gives and its gradients, shared out and whole."""
    world = torch.distributed.get_world_size()
    context = shared(world, how)
    *whole, gradient = heads(kv_heads, value_width)
    mine = [context.mine(x).requires_grad_() for x in whole]
    whole = [x.requires_grad_() for x in whole]
    together, apart = attend, context.attend(attend)
    if compiled:
        apart = torch.compile(apart, fullgraph=True, backend="aot_eager")
    wanted, told = together(*whole), apart(*mine)
    wanted.backward(gradient)
    told.backward(context.mine(gradient))
    pairs = [(told, wanted), *((part.grad, x.grad) for part, x in zip(mine, whole, strict=True))]
    return max((part - context.mine(x)).abs().max().item() for part, x in pairs)


@pytest.mark.parametrize(
    ("world", "how", "kv_heads", "value_width"),
    [
        (2, "all_gather", 8, 24),
        (3, "all_gather", 2, 24),
        (4, "all_gather", 4, 20),
        (2, "ulysses", 2, 24),
        (4, "ulysses", 4, 20),
    ],
)
def test_attention_of_shared_sequences_is_that_of_whole_ones(world, how, kv_heads, value_width):
    assert max(run_ranks(world, largest_difference, how, kv_heads, value_width)) < 5e-6


@pytest.mark.parametrize("how", HOW)
def test_attention_of_shared_sequences_compiles_to_one_graph(how):
    assert max(run_ranks(2, largest_difference, how, 4, 20, True)) < 5e-6


def in_turn(how: str) -> list[int]:
    context = shared(torch.distributed.get_world_size(), how)
    return context.mine(torch.arange(8)[None])[0].tolist()


def test_ranks_share_out_the_work_under_the_causal_mask():
    assert run_ranks(2, in_turn, "all_gather") == [[0, 1, 6, 7], [2, 3, 4, 5]]
    assert run_ranks(2, in_turn, "ulysses") == [[0, 1, 2, 3], [4, 5, 6, 7]]


PARITY = [
    (2, "fsdp", {"cp": 2}, "all_gather", "dense"),
    (2, "ddp", {"cp": 2}, "all_gather", "moe"),
    (2, "fsdp", {"cp": 2}, "all_gather", "mla"),
    (4, "fsdp", {"cp": 4}, "all_gather", "moe"),
    (4, "hsdp", {"cp": 2, "replicas": 2}, "all_gather", "dense"),
    (4, "ddp", {"cp": 2}, "all_gather", "mla"),
    (2, "ddp", {"cp": 2}, "ulysses", "dense"),
    (2, "fsdp", {"cp": 2}, "ulysses", "moe"),
    (4, "fsdp", {"cp": 4}, "ulysses", "mla"),
    (4, "fsdp", {"cp": 2}, "ulysses", "dense"),
]


@pytest.mark.parametrize(
    ("world", "kind", "degrees", "how", "shape"),
    PARITY,
    ids=["-".join([kind, *(f"{k}{v}" for k, v in d.items()), f"of{w}", how, s]) for w, kind, d, how, s in PARITY],
)
def test_shared_sequences_equal_the_bare_module(world, kind, degrees, how, shape, reference):
    train = functools.partial(tiny.through_strategy, degrees=degrees, context=how, shape=shape)
    for told in run_ranks(world, train, kind):
        assert tiny.agree(told, reference(shape)), (told, reference(shape))


@pytest.mark.parametrize("how", HOW)
def test_recomputed_microbatches_equal_one_batch(how, reference):
    train = functools.partial(tiny.through_strategy, degrees={"cp": 2}, context=how, shape="moe", checkpointing="full")
    assert tiny.agree(run_ranks(2, train, "fsdp", 2)[0], reference("moe"))


def no_scatter(x: torch.Tensor, group: collectives.Group) -> torch.Tensor:
    return x[group.rank : group.rank + 1].clone()


def nothing_moves(rows: torch.Tensor, *way: object) -> torch.Tensor:
    return rows.clone()


def spoiled(what: str, how: str) -> list[tuple[float, float]]:
    """Training where one thing is left out."""
    train = functools.partial(tiny.through_strategy, "fsdp", degrees={"cp": 2}, context=how, shape="moe")
    if what == "reduction of gradients":
        prefix.start_reduce_scatter = no_scatter
    if what == "exchange of gradients":
        collectives.AllToAll.backward = staticmethod(lambda ctx, gradient: (gradient, None, None, None))
    if what == "positions":
        ContextParallel.share = lambda self, *both: tuple(self.mine(x) for x in both)
    if what == "whole sequences' counts":
        ContextParallel.apply = without_counts(ContextParallel.apply)
    return train(spoil=scale if what == "scale of gradients" else None)


def without_counts(apply):
    def wrong(self, part) -> None:
        apply(self, part)
        for block in part.blocks.values():
            del block.feed_forward.router.over_sequence, block.feed_forward.router.sequence_ranks

    return wrong


def scale(trained) -> None:
    """As if gradients were not the mean over ranks that share sequences."""
    for parameter in trained.model.parameters():
        parameter.grad.mul_(2)


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("all_gather", "reduction of gradients"),
        ("ulysses", "exchange of gradients"),
        ("all_gather", "positions"),
        ("ulysses", "positions"),
        ("all_gather", "whole sequences' counts"),
        ("all_gather", "scale of gradients"),
    ],
)
def test_what_is_left_out_is_noticed(how, what, reference):
    assert not tiny.agree(run_ranks(2, spoiled, what, how)[0], reference("moe"))


def refusal(kernel: str) -> str:
    context = shared(torch.distributed.get_world_size(), "all_gather")
    with pytest.raises(ValueError) as error, sdpa_kernel(SDPBackend.MATH):
        context.attend(FlexAttend() if kernel == "flex" else attend)(*(context.mine(x) for x in heads(8, 24)[:3]))
    return str(error.value)


@pytest.mark.parametrize("kernel", ["flex", "math"])
def test_gathered_keys_are_refused_to_kernels_that_tell_no_sums(kernel):
    assert run_ranks(2, refusal, kernel)[0].startswith(f"attention={kernel}: ")
