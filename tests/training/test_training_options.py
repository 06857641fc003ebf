"""What options save, and that they leave the numbers alone: checkpointing, compilation, optimizer state, float8."""

import functools
import math
import weakref
from collections import Counter

import pytest
import tiny_training as tiny
import torch
from ranks import run_ranks
from tiny_training import reference
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from harness.models.experts import Experts, Gate
from harness.models.initialize import initialize
from harness.models.transformer import Transformer, cross_entropy
from harness.parallel import optimizer as optimizers
from harness.parallel.checkpointing import checkpoint_blocks
from harness.parallel.compilation import compile_blocks
from harness.parallel.local import local_part

HOWS = ("none", "selective", "full")
CPU = torch.device("cpu")


def train(kind, **how):
    return run_ranks(2, functools.partial(tiny.through_strategy, kind, **how))[0]


class Watch(TorchDispatchMode):
    """Counts operations, and sums up what they have made and is still there."""

    def __init__(self):
        super().__init__()
        self.operations, self.made = Counter(), {}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        self.operations[str(operation).removesuffix(".default")] += 1
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.made[storage._cdata] = weakref.ref(storage), storage.nbytes()
        return result

    def alive(self):
        return sum(size for there, size in self.made.values() if there() is not None)


def watched(shape, how):
    """Bytes kept for backward, and how often each operation ran forward and in all."""
    model = Transformer(**tiny.SHAPES[shape])
    initialize(model, tiny.SHAPES[shape]["layers"], tiny.SEED, CPU)
    checkpoint_blocks(model, how)
    ((tokens, targets),) = tiny.data(0, 1, 1, CPU).batch(1)
    with Watch() as watch:
        loss = cross_entropy(model(tokens), targets)
        kept, forward = watch.alive(), Counter(watch.operations)
        loss.backward()
    return kept, forward, watch.operations


@pytest.fixture(scope="module", params=tiny.SHAPES)
def watches(request):
    return {how: run_ranks(1, watched, request.param, how)[0] for how in HOWS}


def test_selective_checkpointing_keeps_less_than_all_and_more_than_full(watches):
    none, selective, full = (watches[how][0] for how in HOWS)
    assert none > 1.4 * selective
    assert selective > 1.4 * full


def test_selective_checkpointing_repeats_the_rest_but_no_product_and_no_attention(watches):
    (_, forward, plain), (_, _, selective), (_, _, full) = (watches[how] for how in HOWS)
    for dear in ("aten.mm", "aten._grouped_mm", "aten._scaled_dot_product_flash_attention_for_cpu"):
        assert selective[dear] == plain[dear]
        assert full[dear] > plain[dear] or not forward[dear]
    assert forward["aten.mm"] and forward["aten._scaled_dot_product_flash_attention_for_cpu"]
    assert selective["aten.silu"] == full["aten.silu"] == plain["aten.silu"] + forward["aten.silu"]


KINDS = [("dense", {}), ("mla", {}), ("dense", {"tp": 2}), ("mla", {"cp": 2}), ("moe", {"ep": 2}), ("mla", {"ep": 2})]


@pytest.mark.parametrize(
    ("shape", "degrees", "how"),
    [
        *((*kind, "selective") for kind in KINDS),
        *(pytest.param(*kind, "full", marks=pytest.mark.slow if kind[1] else ()) for kind in KINDS),
    ],
    ids=["-".join((shape, *degrees, how)) for how in ("selective", "full") for shape, degrees in KINDS],
)
def test_checkpointing_leaves_the_numbers_alone(shape, degrees, how):
    told = train("fsdp", shape=shape, degrees=degrees, checkpointing=how)
    assert tiny.agree(told, reference(shape))


def exchanged(shape, degrees):
    """How often each collective is called inside the blocks in a step, by what is checkpointed."""
    return [calls(shape, degrees, how) for how in HOWS]


def calls(shape, degrees, how):
    trained = tiny.build("fsdp", CPU, degrees, shape, checkpointing=how)
    batch = tiny.data(*trained.coordinates, 1, CPU).batch(1)
    with Watch() as watch:
        trained.forward_backward(batch)
    return {name: count for name, count in watch.operations.items() if name.startswith("_c10d_functional.")}


@pytest.mark.parametrize(
    ("shape", "degrees"), [("dense", {"tp": 2}), ("dense", {"cp": 2}), ("mla", {"ep": 2})], ids=["tp", "cp", "ep"]
)
def test_selective_checkpointing_repeats_no_communication(shape, degrees):
    none, selective, full = run_ranks(2, exchanged, shape, degrees)[0]
    waits = "_c10d_functional.wait_tensor"
    for counted in (none, selective, full):
        assert counted.pop(waits)  # of what is there already it costs nothing
    assert selective == none
    assert sum(full.values()) > sum(none.values())


def compiled(how):
    """Bytes that compiled blocks keep for backward, and the gradient norm."""
    model = Transformer(**tiny.DENSE)
    initialize(model, tiny.DENSE["layers"], tiny.SEED, CPU)
    checkpoint_blocks(model, how)
    # what decides on memory comes before code is generated, which would take a minute
    backend = "aot_eager_decomp_partition"
    torch.nn.Module.compile = functools.partialmethod(torch.nn.Module.compile, backend=backend)
    compile_blocks(model, how)
    ((tokens, targets),) = tiny.data(0, 1, 1, CPU).batch(1)
    model(tokens)  # compiled without the hooks
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = cross_entropy(model(tokens), targets)
    loss.backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    return sum(kept.values()), math.sqrt(sum(p.grad.double().square().sum().item() for p in model.parameters()))


@pytest.mark.slow
def test_compiled_blocks_keep_what_their_checkpointing_says():
    (none, norm), (selective, selective_norm), (full, full_norm) = (run_ranks(1, compiled, how)[0] for how in HOWS)
    assert none > selective > full
    assert norm == pytest.approx(reference()[0][1], rel=1e-5)
    assert selective_norm == pytest.approx(norm, rel=1e-5)
    assert full_norm == pytest.approx(norm, rel=1e-5)


def after_a_step(kind, state):
    """This rank's parameters and moments after one step."""
    trained = tiny.build(kind, CPU, state=state)
    trained.forward_backward(tiny.data(*trained.coordinates, 1, CPU).batch(1))
    trained.update(tiny.LR)
    parameters = list(trained.model.parameters())
    states = [trained.optimizer.state[parameter] for parameter in parameters]
    moments = [local_part(state[name]) for state in states for name in ("exp_avg", "exp_avg_sq")]
    return [local_part(parameter.detach()) for parameter in parameters], moments


def halved_and_the_same(kind):
    (parameters, moments), (same, halves) = (after_a_step(kind, state) for state in (torch.float32, torch.bfloat16))
    assert all(torch.equal(one, other) for one, other in zip(parameters, same, strict=True))
    assert all(torch.equal(half, moment.bfloat16()) for half, moment in zip(halves, moments, strict=True))
    return sum(moment.nbytes for moment in moments), sum(half.nbytes for half in halves)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_bf16_state_halves_the_moments_and_leaves_the_first_step_alone(kind):
    for size, half in run_ranks(2, halved_and_the_same, kind):
        assert size == 2 * half > 0


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("fsdp", {}),
        pytest.param("fsdp", {"degrees": {"tp": 2}}, marks=pytest.mark.slow),
        ("fsdp", {"shape": "moe", "degrees": {"ep": 2}}),
        pytest.param("zero2", {}, marks=pytest.mark.slow),
        ("zero3", {}),
    ],
    ids=str,
)
def test_training_with_bf16_state_stays_near_that_with_fp32_state(kind, how):
    wanted = reference(how.get("shape", "dense"))
    told = train(kind, state=torch.bfloat16, **how)
    assert told != wanted
    for (loss, norm), (wanted_loss, wanted_norm) in zip(told, wanted, strict=True):
        assert loss == pytest.approx(wanted_loss, abs=1e-3)
        assert norm == pytest.approx(wanted_norm, rel=1e-2)


def test_bf16_moments_decay_where_no_gradient_comes():
    parameter = torch.nn.Parameter(torch.ones(100))
    optimizer = optimizers.NarrowAdamW([parameter], betas=(0.9, 0.95), moments=torch.bfloat16)
    parameter.grad = torch.linspace(0.1, 10, 100)
    optimizer.step()
    before = optimizer.state[parameter]["exp_avg_sq"].float()
    parameter.grad = torch.zeros(100)
    for _ in range(100):
        optimizer.step()
    decay = optimizer.state[parameter]["exp_avg_sq"].float() / before
    assert ((decay > 0.5 * 0.95**100) & (decay < 2 * 0.95**100)).all()


def test_few_elements_at_a_time_are_stepped_as_all_at_once(monkeypatch):
    def stepped(together):
        monkeypatch.setattr(optimizers, "TOGETHER", together)
        chance = torch.Generator().manual_seed(0)
        shapes = [(4, 8), (16,), (0, 3), (300,), (7, 9), (2, 2)]
        parameters = [torch.nn.Parameter(torch.randn(shape, generator=chance)) for shape in shapes]
        optimizer = optimizers.NarrowAdamW(parameters, betas=(0.9, 0.95), moments=torch.bfloat16)
        for _ in range(3):
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=chance)
            bunches = list(
                optimizers.bunches(piece for parameter in parameters for piece in optimizer.pieces(parameter))
            )
            assert all(sum(piece[0].numel() for piece in bunch) <= together for bunch in bunches)
            optimizer.step()
        return parameters

    for one, other in zip(stepped(1 << 26), stepped(40), strict=True):
        assert torch.equal(one, other)


@pytest.fixture
def torchao():
    pytest.importorskip("torchao", reason="needs torchao")


def float8_modules(shape):
    from harness.parallel.float8 import to_float8

    with torch.device("meta"):
        plain, converted = Transformer(**shape), Transformer(**shape)
    to_float8(converted)
    assert [name for name, _ in converted.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert {parameter.dtype for parameter in converted.parameters()} == {torch.float32}
    assert sum(isinstance(module, Experts) for module in converted.modules()) == sum(
        isinstance(module, Experts) for module in plain.modules()
    )
    kinds = {name: type(module).__name__ for name, module in converted.named_modules()}
    was = {name: type(module) for name, module in plain.named_modules()}
    assert all(kinds[name] == kind.__name__ for name, kind in was.items() if kind is Gate)
    return {name for name, kind in kinds.items() if kind == "Float8Linear"}


@pytest.mark.usefixtures("torchao")
def test_float8_takes_the_projections_of_blocks():
    shapes = (tiny.DENSE, tiny.MLA | {"rope_head_dim": 16})
    dense, mla = (run_ranks(1, float8_modules, shape)[0] for shape in shapes)
    attention = {"wq", "wk", "wv", "wo"}
    names = {f"attention.{name}" for name in attention} | {f"feed_forward.{name}" for name in ("w1", "w2", "w3")}
    assert dense == {f"blocks.{block}.{name}" for block in range(4) for name in names}
    latent = {f"attention.{name}" for name in ("wq", "wkv_a", "wkv_b", "wo")}
    assert {name.removeprefix("blocks.2.") for name in mla if name.startswith("blocks.2.")} == latent | {
        f"feed_forward.shared.{name}" for name in ("w1", "w2", "w3")
    }


def float8_training(kind, how):
    return tiny.through_strategy(kind, compute=torch.bfloat16, float8=True, **how), masters(kind, how)


def masters(kind, how):
    """The types of parameters and gradients beside float8 products."""
    trained = tiny.build(kind, CPU, compute=torch.bfloat16, float8=True, **how)
    trained.forward_backward(tiny.data(*trained.coordinates, 1, CPU).batch(1))
    return {tensor.dtype for parameter in trained.model.parameters() for tensor in (parameter, parameter.grad)}


@pytest.mark.usefixtures("torchao")
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("ddp", {}),
        ("fsdp", {}),
        ("fsdp", {"checkpointing": "selective"}),
        ("fsdp", {"checkpointing": "full"}),
        ("fsdp", {"degrees": {"tp": 2}}),
        ("fsdp", {"degrees": {"cp": 2}}),
    ],
    ids=str,
)
def test_float8_trains_near_bf16_from_fp32_masters(kind, how):
    told, types = run_ranks(2, float8_training, kind, how)[0]
    wanted = run_ranks(2, functools.partial(tiny.through_strategy, kind, compute=torch.bfloat16))[0]
    assert types == {torch.float32}
    assert told[0][0] - told[-1][0] >= 0.05
    for (loss, norm), (wanted_loss, wanted_norm) in zip(told, wanted, strict=True):
        assert 0 < abs(loss - wanted_loss) < 0.02
        assert norm == pytest.approx(wanted_norm, rel=0.1)
