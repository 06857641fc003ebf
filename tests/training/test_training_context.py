"""Ranks that share sequences train as one that has them whole, and a test would notice if they did not."""

import functools

import pytest
import tiny_training as tiny
import torch
from ranks import run_ranks
from tiny_training import reference
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.models.attention import FlexAttend, attend
from harness.models.initialize import initialize
from harness.models.transformer import Transformer
from harness.parallel import collectives, prefix
from harness.parallel.context import ContextParallel
from harness.parallel.kernels import KERNELS, Part, choose


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


def from_parts(device: str, dtype: torch.dtype, backend: str, kv_heads: int, width: int, values: int) -> float:
    """The largest difference, as a share of the largest number, of attention in two parts to that in one.

    Queries are the last half of a sequence: half of the keys are before them.
    """
    generator = torch.Generator().manual_seed(2)
    sizes = [(4, 96, width), (kv_heads, 192, width), (kv_heads, 192, values), (4, 96, values)]
    query, key, value, gradient = (torch.randn(2, *size, generator=generator).to(device, dtype) for size in sizes)
    whole = [x.double().requires_grad_() for x in (query, key, value)]
    seen = torch.ones(96, 192, dtype=torch.bool, device=device).tril(96)
    repeated = (x.repeat_interleave(4 // kv_heads, dim=1) for x in whole[1:])
    wanted = torch.nn.functional.scaled_dot_product_attention(whole[0], *repeated, attn_mask=seen)
    wanted.backward(gradient.double())

    wished = SDPBackend.__members__[backend]
    with sdpa_kernel(wished):
        kernel = choose(value, width)
    assert kernel is KERNELS[device, wished.value]
    parts = [Part(query, key[:, :, own], value[:, :, own], causal, width**-0.5) for own, causal in HALVES]
    before, itself = (kernel.see(part) for part in parts)
    output, sums = prefix.merge(*itself[:2], *before[:2])
    told = [
        kernel.gradients(part, gradient, output, sums, rest)
        for part, (_, _, rest) in zip(parts, (before, itself), strict=True)
    ]
    (query_1, *others_1), (query_2, *others_2) = told
    others = [torch.cat(pair, dim=2) for pair in zip(others_1, others_2, strict=True)]
    pairs = zip((output, query_1 + query_2, *others), (wanted, *(x.grad for x in whole)), strict=True)
    return max(((part - x).abs().max() / x.abs().max()).item() for part, x in pairs)


HALVES = [(slice(0, 96), False), (slice(96, 192), True)]
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
# by name: ranks on GPUs are spawned, and these do not pickle
CUDNN, FLASH, EFFICIENT = "CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION"


@pytest.mark.parametrize(
    ("device", "dtype", "backend", "kv_heads", "width", "values"),
    [
        ("cpu", torch.float32, FLASH, 4, 24, 24),
        ("cpu", torch.float32, FLASH, 2, 24, 20),
        pytest.param("cuda", torch.bfloat16, CUDNN, 2, 64, 64, marks=GPU),
        pytest.param("cuda", torch.bfloat16, CUDNN, 4, 192, 128, marks=GPU),
        pytest.param("cuda", torch.bfloat16, FLASH, 2, 128, 128, marks=GPU),
        pytest.param("cuda", torch.bfloat16, FLASH, 4, 192, 128, marks=GPU),
        pytest.param("cuda", torch.float32, EFFICIENT, 2, 64, 64, marks=GPU),
        pytest.param("cuda", torch.float32, EFFICIENT, 4, 24, 20, marks=GPU),
    ],
)
def test_attention_in_parts_is_that_of_the_whole(device, dtype, backend, kv_heads, width, values):
    how = (device, dtype, backend, kv_heads, width, values)
    (told,) = run_ranks(1, from_parts, *how, backend="nccl" if device == "cuda" else "gloo")
    assert told < (2e-2 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize("how", ["all_gather", pytest.param("ulysses", marks=pytest.mark.slow)])
def test_attention_of_shared_sequences_compiles_to_one_graph(how):
    assert max(run_ranks(2, largest_difference, how, 4, 20, True)) < 5e-6


def in_turn(how: str) -> list[int]:
    context = shared(torch.distributed.get_world_size(), how)
    return context.mine(torch.arange(8)[None])[0].tolist()


def test_ranks_share_out_the_work_under_the_causal_mask():
    assert run_ranks(2, in_turn, "all_gather") == [[0, 1, 6, 7], [2, 3, 4, 5]]
    assert run_ranks(2, in_turn, "ulysses") == [[0, 1, 2, 3], [4, 5, 6, 7]]


PARITY = [
    (2, "ddp", {"cp": 2}, "all_gather", "moe"),
    (2, "fsdp", {"cp": 2}, "all_gather", "mla"),
    (4, "fsdp", {"cp": 4}, "all_gather", "moe"),
    (4, "hsdp", {"cp": 2, "replicas": 2}, "all_gather", "dense"),
    (2, "fsdp", {"cp": 2}, "ulysses", "moe"),
    (4, "fsdp", {"cp": 4}, "ulysses", "mla"),
]
MORE = [
    (2, "fsdp", {"cp": 2}, "all_gather", "dense"),
    (4, "ddp", {"cp": 2}, "all_gather", "mla"),
    (2, "ddp", {"cp": 2}, "ulysses", "dense"),
    (4, "fsdp", {"cp": 2}, "ulysses", "dense"),
]


@pytest.mark.parametrize(
    ("world", "kind", "degrees", "how", "shape"),
    [*PARITY, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)],
    ids=[
        "-".join([kind, *(f"{k}{v}" for k, v in d.items()), f"of{w}", how, s]) for w, kind, d, how, s in PARITY + MORE
    ],
)
def test_shared_sequences_equal_the_bare_module(world, kind, degrees, how, shape):
    train = functools.partial(tiny.through_strategy, degrees=degrees, context=how, shape=shape)
    for told in run_ranks(world, train, kind):
        assert tiny.agree(told, reference(shape)), (told, reference(shape))


@pytest.mark.parametrize(
    ("degree", "how", "shape"),
    [
        ("tp", "all_gather", "dense"),
        pytest.param("tp", "ulysses", "mla", marks=pytest.mark.slow),
        pytest.param("pp", "all_gather", "mla", marks=pytest.mark.slow),
        ("pp", "ulysses", "dense"),
    ],
)
def test_shared_layers_or_stages_of_shared_sequences_equal_the_bare_module(degree, how, shape):
    train = functools.partial(tiny.through_strategy, degrees={"cp": 2, degree: 2}, context=how, shape=shape)
    assert tiny.agree(run_ranks(4, train, "fsdp", 2)[0], reference(shape))


@pytest.mark.parametrize(
    ("how", "checkpointing"),
    [
        ("all_gather", "selective"),
        pytest.param("all_gather", "full", marks=pytest.mark.slow),
        ("ulysses", "full"),
    ],
)
def test_recomputed_microbatches_equal_one_batch(how, checkpointing):
    train = functools.partial(
        tiny.through_strategy, degrees={"cp": 2}, context=how, shape="moe", checkpointing=checkpointing
    )
    assert tiny.agree(run_ranks(2, train, "fsdp", 2)[0], reference("moe"))


def no_scatter(x: torch.Tensor, group: collectives.Group) -> torch.Tensor:
    return x[group.rank : group.rank + 1].clone()


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
        pytest.param("ulysses", "positions", marks=pytest.mark.slow),
        ("all_gather", "whole sequences' counts"),
        ("all_gather", "scale of gradients"),
    ],
)
def test_what_is_left_out_is_noticed(how, what):
    assert not tiny.agree(run_ranks(2, spoiled, what, how)[0], reference("moe"))


def refusal(kernel: str) -> str:
    context = shared(torch.distributed.get_world_size(), "all_gather")
    with pytest.raises(ValueError) as error, sdpa_kernel(SDPBackend.MATH):
        context.attend(FlexAttend() if kernel == "flex" else attend)(*(context.mine(x) for x in heads(8, 24)[:3]))
    return str(error.value)


def masks() -> list[int]:
    """The lengths that flex attention has made masks for."""
    model = Transformer(**tiny.DENSE, kernel="flex")
    initialize(model, tiny.DENSE["layers"], tiny.SEED, torch.device("cpu"))
    context = shared(torch.distributed.get_world_size(), "ulysses")
    context.apply(model)
    tokens = torch.zeros(1, tiny.SEQ, dtype=torch.int64)
    with torch.no_grad():
        model(context.share(tokens, tokens)[0])
    return [seq for seq, _ in model.attend.masks]


@pytest.mark.slow
def test_exchanged_heads_are_masked_over_whole_sequences():
    """And no mask is made within a block, where a compiler could not."""
    assert run_ranks(2, masks)[0] == [tiny.SEQ]


@pytest.mark.parametrize("kernel", ["flex", "math"])
def test_gathered_keys_are_refused_to_kernels_that_tell_no_sums(kernel):
    assert run_ranks(2, refusal, kernel)[0].startswith(f"attention={kernel}: ")
