"""Layers split over ranks train as whole ones do, move what they must and no more, and a test would notice if not."""

import functools
from collections import Counter

import pytest
import tiny_training as tiny
import torch
from ranks import run_ranks
from tiny_training import reference
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.parallel import gradients, tensor


def trained(world, accumulation=1, kind="fsdp", degrees=None, **how):
    """What the first rank tells; all tell the same."""
    train = functools.partial(tiny.through_strategy, degrees=degrees or {"tp": 2}, **how)
    first, *others = run_ranks(world, train, kind, accumulation)
    assert all(told == first for told in others)
    return first


PARITY = [
    pytest.param(4, "fsdp", {"tp": 2}, "dense", marks=pytest.mark.slow),
    (4, "fsdp", {"tp": 2}, "moe"),
    (4, "fsdp", {"tp": 2}, "mla"),
    (4, "fsdp", {"tp": 2}, "uneven"),
    (4, "fsdp", {"tp": 4}, "dense_4"),
    (4, "fsdp", {"tp": 4}, "moe_4"),
    pytest.param(4, "fsdp", {"tp": 4}, "mla", marks=pytest.mark.slow),
    (4, "hsdp", {"replicas": 2, "tp": 2}, "dense"),
    pytest.param(4, "hsdp", {"replicas": 2, "tp": 2}, "moe", marks=pytest.mark.slow),
    pytest.param(4, "hsdp", {"replicas": 2, "tp": 2}, "mla", marks=pytest.mark.slow),
    (4, "fsdp", {"cp": 2, "tp": 2}, "moe"),
    # copies that are sharded too
    pytest.param(8, "hsdp", {"replicas": 2, "tp": 2}, "dense", marks=pytest.mark.slow),
    pytest.param(8, "hsdp", {"replicas": 2, "tp": 2}, "mla", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(
    ("world", "kind", "degrees", "shape"),
    PARITY,
    ids=lambda told: "-".join(f"{k}{v}" for k, v in told.items()) if isinstance(told, dict) else str(told),
)
def test_split_layers_equal_the_bare_module(world, kind, degrees, shape):
    told = trained(world, kind=kind, degrees=degrees, shape=shape)
    assert tiny.agree(told, reference(shape)), (told, reference(shape))


@pytest.mark.parametrize("shape", ["moe", "mla"])
def test_recomputed_microbatches_equal_one_batch(shape):
    assert tiny.agree(trained(2, 2, shape=shape, checkpointing="full"), reference(shape))


def test_split_embeddings_stay_tied():
    assert tiny.agree(trained(4, tied=True), reference(tied=True))


def compiled(checkpointing):
    """Training whose blocks and loss the compiler follows, without making code of them, which takes it minutes."""
    torch.compile = functools.partial(torch.compile, backend="aot_eager")
    torch.nn.Module.compile = functools.partialmethod(torch.nn.Module.compile, backend="aot_eager")
    told = tiny.through_strategy("fsdp", degrees={"tp": 2}, compile=True, checkpointing=checkpointing)
    counters = torch._dynamo.utils.counters
    return told, sum(counters["graph_break"].values()), counters["stats"]["unique_graphs"]


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
def test_all_blocks_are_one_compiled_graph_and_equal_the_bare_module(checkpointing):
    told, breaks, graphs = run_ranks(2, compiled, checkpointing)[0]
    assert tiny.agree(told, reference())
    # that of a block, and that of the loss
    assert (breaks, graphs) == (0, 2)


OPERATIONS = GATHER, SCATTER, REDUCE = "all_gather_into_tensor", "reduce_scatter_tensor", "all_reduce"


class Moved(TorchDispatchMode):
    """Calls of collectives by tensor parallelism, by operation and bytes in nccl-tests' convention."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if DTensor in types:
            return NotImplemented
        result = function(*args, **(kwargs or {}))
        if function.namespace == "_c10d_functional" and (name := function.name().partition("::")[2]) in OPERATIONS:
            self.calls[name, max(args[0].nbytes, result.nbytes)] += 1
        return result


def moved(shape, checkpointing):
    cpu = torch.device("cpu")
    built = tiny.build("fsdp", cpu, {"tp": 2}, shape, compute=torch.bfloat16, checkpointing=checkpointing)
    batch = tiny.data(*built.coordinates, 1, cpu).batch(1)
    with Moved() as mode:
        built.forward_backward(batch)
    return mode.calls


TOKENS, BF16, FP32, INT64 = tiny.SEQUENCES * tiny.SEQ, 2, 4, 8
LAYERS, DIM = tiny.DENSE["layers"], tiny.DENSE["dim"]


@pytest.mark.parametrize("again", [False, True], ids=["kept", "recomputed"])
def test_a_layer_gathers_its_input_once_and_scatters_its_sum_once(again):
    """And so does its backward; the embedding only scatters, the head only gathers, the logits stay where they are."""
    stream = TOKENS * DIM * BF16
    assert run_ranks(2, moved, "dense", "full" if again else "none")[0] == {
        (GATHER, stream): 4 * LAYERS + 2 + again * 2 * LAYERS,
        # a block's last sum is not needed again
        (SCATTER, stream): 4 * LAYERS + 2 + again * LAYERS,
        # the highest logit, the sum of exponentials and the target's logit of each token
        (REDUCE, TOKENS * FP32): 3,
    }


def test_routes_and_latents_cost_next_to_nothing():
    mla = tiny.MLA
    routers, chosen = mla["layers"] - mla["dense_layers"], TOKENS * mla["experts_per_token"]
    expected = Counter(run_ranks(2, moved, "dense", "none")[0])
    expected[GATHER, chosen * BF16] += routers
    expected[GATHER, chosen * INT64] += routers
    expected[SCATTER, chosen * BF16] += routers
    assert run_ranks(2, moved, "mla", "none")[0] == expected


def own_summand(group, layer, inputs, output):
    return output.chunk(group.size, 1)[group.rank]


def not_along(name, parameter):
    return False


def counted_by_every_rank(router, group, route=tensor.route_in_parts):
    route(router, group)
    router.aux_share *= group.size


@pytest.mark.parametrize(
    ("module", "name", "wrong", "shape"),
    [
        (tensor, "part_of_sum", own_summand, "dense"),
        (gradients, "whole_along", not_along, "dense"),
        (gradients, "whole_along", not_along, "mla"),
        (tensor, "route_in_parts", counted_by_every_rank, "moe"),
    ],
    ids=["sum of a layer", "gradients of norms", "gradients of gates and latents", "auxiliary gradients"],
)
def test_what_is_left_unsummed_or_summed_twice_is_noticed(module, name, wrong, shape, monkeypatch):
    monkeypatch.setattr(module, name, wrong)
    told = run_ranks(2, functools.partial(tiny.through_strategy, degrees={"tp": 2}, shape=shape), "fsdp")
    assert not any(tiny.agree(steps, reference(shape)) for steps in told)


def double(built):
    for parameter in built.model.parameters():
        parameter.grad.mul_(2)


def test_doubled_gradients_are_noticed():
    assert not tiny.agree(trained(2, spoil=double), reference())
