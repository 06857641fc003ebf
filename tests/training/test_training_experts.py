"""Experts that are spread over ranks train as those of one process, and a test would notice if they did not."""

import functools

import pytest
import tiny_training as tiny
import torch
from ranks import run_ranks
from tiny_training import reference
from torch.distributed.fsdp import FSDPModule

from harness.models.experts import Experts, Router
from harness.parallel import collectives
from harness.parallel.collectives import Group
from harness.parallel.expert import TokenExchange, by_expert
from harness.parallel.mesh import Degrees, Mesh

PARITY = [
    (2, "fsdp", {"ep": 2}, "moe"),
    (4, "fsdp", {"ep": 2}, "moe"),
    (4, "fsdp", {"ep": 4}, "mla"),
    (4, "hsdp", {"ep": 2, "replicas": 2}, "few"),
    (4, "fsdp", {"ep": 2, "tp": 2}, "moe"),
    (4, "fsdp", {"ep": 4, "cp": 2}, "mla"),
]
MORE = [
    (4, "fsdp", {"ep": 4}, "moe"),
    (4, "fsdp", {"ep": 2}, "mla"),
    (4, "fsdp", {"ep": 2}, "few"),
    (4, "fsdp", {"ep": 2, "cp": 2}, "moe"),
]


@pytest.mark.parametrize(
    ("world", "kind", "degrees", "shape"),
    [*PARITY, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)],
    ids=["-".join([kind, *(f"{k}{v}" for k, v in d.items()), f"of{w}", s]) for w, kind, d, s in PARITY + MORE],
)
def test_spread_experts_equal_the_bare_module(world, kind, degrees, shape):
    train = functools.partial(tiny.through_strategy, degrees=degrees, shape=shape)
    for told in run_ranks(world, train, kind):
        assert tiny.agree(told, reference(shape)), (told, reference(shape))


def test_stages_of_spread_experts_equal_the_bare_module():
    train = functools.partial(tiny.through_strategy, degrees={"ep": 2, "pp": 2}, shape="mla")
    assert tiny.agree(run_ranks(4, train, "fsdp", 2)[0], reference("mla"))


def test_recomputed_exchanges_equal_the_bare_module():
    train = functools.partial(tiny.through_strategy, degrees={"ep": 2}, shape="mla", checkpointing="full")
    assert tiny.agree(run_ranks(2, train, "fsdp", 2)[0], reference("mla"))


def compiled() -> list[tuple[float, float]]:
    """Training whose blocks the compiler follows, without making code of them, which takes it minutes."""
    torch.compile = functools.partial(torch.compile, backend="aot_eager")
    torch.nn.Module.compile = functools.partialmethod(torch.nn.Module.compile, backend="aot_eager")
    return tiny.through_strategy("fsdp", degrees={"ep": 2}, shape="moe", compile=True, checkpointing="full")


@pytest.mark.slow
def test_compiled_exchanges_equal_the_bare_module():
    assert tiny.agree(run_ranks(2, compiled)[0], reference("moe"))


SENT = [
    [[2, 0, 1, 3], [1, 1, 4, 0]],
    # the second rank has no experts that anyone wants
    [[2, 1, 0, 0], [0, 3, 0, 0]],
    # the second rank has no tokens, and gets none
    [[2, 1, 0, 0], [0, 0, 0, 0]],
]


def journey(counts: list[list[int]]) -> tuple[list, list, list, list]:
    """Rows that say who sent them to which expert: as they arrive, their counts, as they return, their gradients."""
    rank = torch.distributed.get_rank()
    experts = torch.arange(4).repeat_interleave(torch.tensor(counts[rank]))
    rows = torch.stack((experts, torch.full_like(experts, rank), torch.arange(len(experts))), dim=1).double()
    rows.requires_grad_()
    exchange = TokenExchange(Group.along(Mesh("cpu", Degrees(shard=2, ep=2)).ep))
    there, arrived, back = exchange.dispatch(rows, torch.tensor(counts[rank]))
    returned = back(there * there)
    returned.sum().backward()
    return there.tolist(), arrived.tolist(), (returned - rows**2).tolist(), (rows.grad - 2 * rows).tolist()


@pytest.mark.parametrize("counts", SENT, ids=["uneven", "unwanted-rank", "idle-rank"])
def test_rows_arrive_by_expert_and_return_in_their_order(counts):
    for rank, (there, arrived, returned, gradients) in enumerate(run_ranks(2, journey, counts)):
        own = (2 * rank, 2 * rank + 1)
        assert there == [
            [number, sender, sum(counts[sender][:number]) + index]
            for number in own
            for sender in range(2)
            for index in range(counts[sender][number])
        ]
        assert arrived == [counts[0][number] + counts[1][number] for number in own]
        assert not any(map(any, returned)) and len(returned) == sum(counts[rank])
        assert not any(map(any, gradients))


def test_order_by_expert_is_the_stable_one():
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        counts = torch.randint(0, 4, (3, 5), generator=generator)
        numbers = torch.arange(5).repeat(3).repeat_interleave(counts.flatten())
        assert by_expert(counts, int(counts.sum())).tolist() == numbers.argsort(stable=True).tolist()


def idle_gradients(device: str, counts: list[int]) -> list[float]:
    """The largest gradient of each expert's weights, of `counts` rows to each."""
    generator = torch.Generator().manual_seed(4)
    experts = Experts(dim=64, experts=len(counts), hidden=96)
    for parameter in experts.parameters():
        parameter.data.normal_(generator=generator)
    experts.to(device)
    rows = torch.randn(sum(counts), 64, generator=generator).to(device, torch.bfloat16).requires_grad_()
    done = experts.products(rows, torch.tensor(counts, device=device))
    done.backward(torch.ones_like(done))
    assert rows.grad.isfinite().all()
    return torch.stack([parameter.grad.abs().amax((1, 2)) for parameter in experts.parameters()]).amax(0).tolist()


GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
@pytest.mark.parametrize("counts", [[5, 0, 3, 0], [0, 0, 0, 7], [0, 0, 0, 0]], ids=str)
def test_experts_without_tokens_get_gradients_of_zero(device, counts):
    (told,) = run_ranks(1, idle_gradients, device, counts, backend="nccl" if device == "cuda" else "gloo")
    assert [gradient > 0 for gradient in told] == [count > 0 for count in counts]


def held(degrees: dict[str, int], shape: str) -> dict[str, list[int]]:
    trained = tiny.build("fsdp", torch.device("cpu"), degrees, shape)
    module = next(module for module in trained.model.modules() if isinstance(module, Experts))
    assert isinstance(module, FSDPModule)
    return {name: list(parameter.to_local().shape) for name, parameter in module.named_parameters()}


def test_a_rank_holds_its_share_of_its_experts():
    assert run_ranks(4, held, {"ep": 2}, "moe") == [{"w1": [1, 96, 64], "w2": [1, 64, 96], "w3": [1, 96, 64]}] * 4


def test_ranks_with_fewer_experts_than_ranks_hold_equal_parts():
    assert run_ranks(4, held, {"ep": 2}, "few") == [{"w1": [1, 48, 64], "w2": [1, 32, 96], "w3": [1, 48, 64]}] * 4


def biases() -> list[list[float]]:
    trained = tiny.build("fsdp", torch.device("cpu"), {"ep": 2}, "mla")
    batches = tiny.data(*trained.coordinates, 1, torch.device("cpu"))
    for step in (1, 2, 3):
        trained.forward_backward(batches.batch(step))
        trained.update(tiny.LR)
    return [module.bias.tolist() for module in trained.model.modules() if isinstance(module, Router)]


def test_routers_of_all_ranks_are_balanced_by_the_load_of_all():
    first, second = run_ranks(2, biases)
    assert first == second
    assert len(first) == 3 and all(any(bias) for bias in first)


def spoiled(what: str) -> list[tuple[float, float]]:
    """Training where one thing is left out."""
    if what == "exchange of gradients":
        collectives.AllToAll.backward = staticmethod(gradients_stay)
    if what == "way back":
        TokenExchange.dispatch = rows_stay(TokenExchange.dispatch)
    if what == "mean over ranks":
        FSDPModule.set_gradient_divide_factor = lambda self, factor: None
    train = functools.partial(tiny.through_strategy, "fsdp", degrees={"ep": 2}, shape="moe")
    return train(spoil=scale if what == "scale of gradients" else None)


def gradients_stay(ctx, gradient):
    _, sent, _ = ctx.way_back
    return as_many(gradient, sum(sent)), None, None, None


def rows_stay(dispatch):
    def wrong(self, rows, counts):
        there, arrived, _ = dispatch(self, rows, counts)
        return there, arrived, functools.partial(as_many, count=len(rows))

    return wrong


def as_many(rows: torch.Tensor, count: int) -> torch.Tensor:
    return torch.nn.functional.pad(rows, (0, 0, 0, count))[:count]


def scale(trained) -> None:
    for parameter in trained.model.parameters():
        parameter.grad.mul_(2)


@pytest.mark.parametrize(
    ("world", "what"),
    [(2, "exchange of gradients"), (2, "way back"), (4, "mean over ranks"), (2, "scale of gradients")],
)
def test_what_is_left_out_is_noticed(world, what):
    assert not tiny.agree(run_ranks(world, spoiled, what)[0], reference("moe"))
