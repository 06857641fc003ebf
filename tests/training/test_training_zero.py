"""DeepSpeed's stages train as the bare module does, in the types of the other strategies, and hold what they should."""

import functools
from collections import Counter
from math import prod
from unittest import mock

import pytest
import tiny_training as tiny
import torch
from ranks import run_ranks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from harness.models.initialize import initialize
from harness.models.transformer import Transformer
from harness.parallel import zero

KINDS = {"zero1": zero.ZeRO1, "zero2": zero.ZeRO2, "zero3": zero.ZeRO3}
CPU = torch.device("cpu")


def one_after_another(kinds, accumulation, **how):
    return [tiny.through_strategy(kind, accumulation, **how) for kind in kinds]


@functools.cache
def trained(world, kinds, accumulation=1, **how):
    """What rank 0 saw of the steps, by kind; one set of processes trains them all."""
    run = functools.partial(one_after_another, kinds, accumulation, **how)
    return dict(zip(kinds, run_ranks(world, run)[0], strict=True))


@functools.cache
def bare(shape="dense", tied=False):
    return run_ranks(1, tiny.bare, shape, tied)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_stages_equal_the_bare_module(kind, world, shape):
    told = trained(world, tuple(KINDS), shape=shape)[kind]
    assert tiny.agree(told, bare(shape)), (told, bare(shape))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["dense", pytest.param("moe", marks=pytest.mark.slow)])
def test_accumulated_microbatches_equal_one_batch(kind, shape):
    assert tiny.agree(trained(2, tuple(KINDS), 2, shape=shape)[kind], bare(shape))


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_leaves_the_numbers_alone(kind):
    assert tiny.agree(trained(2, tuple(KINDS), checkpointing="full")[kind], bare())


@pytest.mark.parametrize("kind", KINDS)
def test_tied_embeddings_stay_tied(kind):
    assert tiny.agree(trained(2, tuple(KINDS), tied=True)[kind], bare(tied=True))


def silent(kind):
    """The kind whose gradients stay where they are."""

    class Silent(kind):
        def backward(self, loss):
            backend = zero.deepspeed.comm.comm.cdb
            with (
                mock.patch.object(backend, "all_reduce", lambda *arguments, **how: None),
                mock.patch.object(backend, "reduce_scatter_tensor", lambda *arguments, **how: None),
            ):
                super().backward(loss)

    return Silent


def double(strategy):
    for gradients in strategy.engine.optimizer.averaged_gradients.values():
        for gradient in gradients:
            gradient.mul_(2)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_missing_reduction_is_noticed(kind):
    assert not tiny.agree(run_ranks(2, tiny.through_strategy, silent(kind))[0], bare())


@pytest.mark.parametrize("kind", KINDS)
def test_doubled_gradients_are_noticed(kind):
    assert not tiny.agree(run_ranks(2, tiny.through_strategy, kind, 1, double)[0], bare())


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_differs_from_fsdp_by_rounding_alone(kind):
    told = trained(2, ("fsdp", *KINDS), 2, compute=torch.bfloat16)
    for (loss, norm), (other_loss, other_norm) in zip(told[kind], told["fsdp"], strict=True):
        assert loss == pytest.approx(other_loss, abs=2e-4)
        assert norm == pytest.approx(other_norm, rel=1e-3)


def masters(kind, compute):
    """Every parameter's fp32 master as DeepSpeed puts it together, by the parameter's name in the bare module."""
    engine = tiny.build(kind, CPU, compute=compute).engine
    return {
        ".".join(part for part in name.split(".") if not part.startswith("_")): (
            zero.deepspeed.utils.safe_get_full_fp32_param(parameter).numpy()
        )
        for name, parameter in engine.module.named_parameters()
    }


@pytest.mark.parametrize("compute", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize("kind", KINDS)
def test_masters_begin_with_the_exact_fp32_values(kind, compute):
    """Three ranks split no parameter evenly."""
    found = run_ranks(3, masters, kind, compute)[0]
    model = Transformer(**tiny.DENSE)
    initialize(model, tiny.DENSE["layers"], tiny.SEED, CPU)
    wanted = dict(model.named_parameters())
    assert found.keys() == wanted.keys()
    for name, parameter in wanted.items():
        assert (found[name] == parameter.detach().numpy()).all(), name


class Held(TorchDispatchMode):
    """Counts the elements that stand in memory at a time."""

    def __init__(self):
        super().__init__()
        self.storages, self.most = {}, 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for x in result if isinstance(result, list | tuple) else [result]:
            if isinstance(x, torch.Tensor) and x.device.type != "meta":
                kept = StorageWeakRef(x.untyped_storage())
                self.storages[kept.cdata] = (kept, x.untyped_storage().nbytes() // 4)
        alive = {key: found for key, found in self.storages.items() if not found[0].expired()}
        self.storages, self.most = alive, max(self.most, sum(elements for _, elements in alive.values()))
        return result


def most_held_while_placed(kind):
    class Watched(KINDS[kind]):
        def place(self, part, initialise):
            with Held() as held:
                optimizer = super().place(part, initialise)
            self.most = held.most
            return optimizer

    return tiny.build(Watched, CPU).most


def test_split_parameters_never_stand_whole_together():
    """Beside its quarter of the model a rank has a parameter or two: values just drawn, and their copy."""
    elements = {name: parameter.numel() for name, parameter in Transformer(**tiny.DENSE).named_parameters()}
    whole, largest = sum(elements.values()), max(elements.values())
    assert max(run_ranks(4, most_held_while_placed, "zero3")) <= whole / 4 + 3 * largest < 0.6 * whole
    assert min(run_ranks(4, most_held_while_placed, "zero1")) >= whole


class Collectives(TorchDispatchMode):
    """Adds up elements: of what is reduced, of what is gathered in the end."""

    def __init__(self):
        super().__init__()
        self.elements = Counter()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function.namespace == "c10d":
            tensors = [x for one in arguments for x in (one if isinstance(one, list) else [one])]
            whole = max((x for x in tensors if isinstance(x, torch.Tensor)), key=torch.Tensor.numel)
            if whole.numel() > 100:
                self.elements[function._overloadpacket.__name__, whole.dtype] += whole.numel()
        return function(*arguments, **(options or {}))


def collectives(kind):
    tiny.SHAPES["wide"] = {**tiny.DENSE, "vocab_size": 1024}
    strategy = tiny.build(kind, CPU, shape="wide", compute=torch.bfloat16, microbatches=2)
    data = tiny.data(*strategy.coordinates, 2, CPU)
    for step in (1, 2, 3):
        with Collectives() as seen:
            strategy.forward_backward(data.batch(step))
            strategy.update(tiny.LR)
    return dict(seen.elements)


WIDE = {name: prod(p.shape) for name, p in Transformer(**{**tiny.DENSE, "vocab_size": 1024}).named_parameters()}
ALL, LAST = sum(WIDE.values()), WIDE["norm.weight"] + WIDE["output.weight"]


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("zero1", {("allreduce_", torch.float32): ALL, ("_allgather_base_", torch.bfloat16): ALL}),
        ("zero2", {("allreduce_", torch.float32): 2 * ALL, ("_allgather_base_", torch.bfloat16): ALL}),
        (
            "zero3",
            {
                ("_reduce_scatter_base_", torch.float32): 2 * ALL,
                # for forward and for backward, save what backward begins with, in each of two microbatches
                ("_allgather_base_", torch.bfloat16): 2 * (2 * ALL - LAST),
            },
        ),
    ],
    ids=KINDS,
)
def test_gradients_travel_in_fp32_and_parameters_in_bf16(kind, wanted):
    assert run_ranks(2, collectives, kind)[0] == wanted


def test_deepspeed_prints_nothing(capfd):
    run_ranks(1, tiny.through_strategy, "zero3")
    assert capfd.readouterr().out == ""


def breaks(kind):
    told = tiny.through_strategy(kind, compile=True, checkpointing="full")
    return told, sum(torch._dynamo.utils.counters["graph_break"].values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_compile_in_one_piece(kind):
    told, graph_breaks = run_ranks(2, breaks, kind)[0]
    assert graph_breaks == 0
    assert tiny.agree(told, bare())
