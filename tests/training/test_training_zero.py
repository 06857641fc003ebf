"""DeepSpeed's stages train as the bare module does, in the types of the other strategies, and hold what they should."""

import functools
from collections import Counter
from unittest import mock

import pytest
import tiny_training as tiny
import torch
from ranks import run_ranks
from tiny_training import reference
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_stages_equal_the_bare_module(kind, world, shape):
    told = trained(world, tuple(KINDS), shape=shape)[kind]
    assert tiny.agree(told, reference(shape)), (told, reference(shape))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["dense", pytest.param("moe", marks=pytest.mark.slow)])
def test_accumulated_microbatches_equal_one_batch(kind, shape):
    assert tiny.agree(trained(2, tuple(KINDS), 2, shape=shape)[kind], reference(shape))


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_leaves_the_numbers_alone(kind):
    assert tiny.agree(trained(2, tuple(KINDS), checkpointing="full")[kind], reference())


@pytest.mark.parametrize("kind", KINDS)
def test_tied_embeddings_stay_tied(kind):
    assert tiny.agree(trained(2, tuple(KINDS), tied=True)[kind], reference(tied=True))


class Silent:
    """Gradients stay where they are."""

    def backward(self, loss):
        with mock.patch.multiple(
            zero.deepspeed.comm.comm.cdb, all_reduce=mock.DEFAULT, reduce_scatter_tensor=mock.DEFAULT
        ):
            super().backward(loss)


SILENT = {name: type(name, (Silent, kind), {}) for name, kind in KINDS.items()}


def double(strategy):
    for gradients in strategy.engine.optimizer.averaged_gradients.values():
        for gradient in gradients:
            gradient.mul_(2)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_reduction_is_noticed(kind):
    assert not tiny.agree(trained(2, tuple(SILENT.values()))[SILENT[kind]], reference())


@pytest.mark.parametrize("kind", KINDS)
def test_doubled_gradients_are_noticed(kind):
    assert not tiny.agree(trained(2, tuple(KINDS), spoil=double)[kind], reference())


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_differs_from_fsdp_by_rounding_alone(kind):
    told = trained(2, ("fsdp", *KINDS), 2, compute=torch.bfloat16)
    for (loss, norm), (other_loss, other_norm) in zip(told[kind], told["fsdp"], strict=True):
        assert loss == pytest.approx(other_loss, abs=2e-4)
        assert norm == pytest.approx(other_norm, rel=1e-3)


def masters(compute):
    """By kind every parameter's fp32 master, as DeepSpeed puts it together, by its name in the bare module."""
    return {
        kind: {
            ".".join(part for part in name.split(".") if not part.startswith("_")): (
                zero.deepspeed.utils.safe_get_full_fp32_param(parameter).numpy()
            )
            for name, parameter in tiny.build(kind, CPU, compute=compute).engine.module.named_parameters()
        }
        for kind in KINDS
    }


@pytest.mark.parametrize("compute", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_masters_begin_with_the_exact_fp32_values(compute):
    """Three ranks split no matrix evenly."""
    model = Transformer(**tiny.DENSE)
    initialize(model, tiny.DENSE["layers"], tiny.SEED, CPU)
    wanted = dict(model.named_parameters())
    for kind, found in run_ranks(3, masters, compute)[0].items():
        assert found.keys() == wanted.keys(), kind
        for name, parameter in wanted.items():
            assert (found[name] == parameter.detach().numpy()).all(), (kind, name)


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
    """Adds up elements: of what is reduced, of what is gathered in the end; scalars left out."""

    def __init__(self, labels):
        super().__init__()
        self.labels, self.elements = labels, Counter()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function.namespace == "c10d":
            given = [x for one in arguments for x in (one if isinstance(one, list) else [one])]
            whole = max((x for x in given if isinstance(x, torch.Tensor)), key=torch.Tensor.numel)
            group = next(x for x in given if isinstance(x, torch.ScriptObject) and "ProcessGroup" in str(x._type()))
            label, _ = self.labels[torch.distributed.ProcessGroup.unbox(group).group_name]
            if whole.numel() > 1:
                self.elements[label, function._overloadpacket.__name__, whole.dtype] += whole.numel()
        return function(*arguments, **(options or {}))


def collectives(kind):
    strategy = tiny.build(kind, CPU, shape="wide", compute=torch.bfloat16, microbatches=2)
    data = tiny.data(*strategy.coordinates, 2, CPU)
    for step in (1, 2, 3):
        with Collectives(strategy.mesh.labels) as seen:
            strategy.forward_backward(data.batch(step))
            strategy.update(tiny.LR)
    return dict(seen.elements)


def test_gradients_travel_in_fp32_and_parameters_in_bf16():
    elements = {name: parameter.numel() for name, parameter in Transformer(**tiny.sizes("wide")).named_parameters()}
    every, last = sum(elements.values()), elements["norm.weight"] + elements["output.weight"]
    reduced, scattered = ("dp", "allreduce_", torch.float32), ("dp", "_reduce_scatter_base_", torch.float32)
    gathered = ("dp", "_allgather_base_", torch.bfloat16)
    wanted = {
        "zero1": {reduced: every, gathered: every},
        # in each of two microbatches
        "zero2": {reduced: 2 * every, gathered: every},
        # for forward and for backward, save what backward begins with
        "zero3": {scattered: 2 * every, gathered: 2 * (2 * every - last)},
    }
    assert run_ranks(2, lambda: {kind: collectives(kind) for kind in KINDS})[0] == wanted


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
    assert tiny.agree(told, reference())
