"""What the end of training tells of torch.compile."""

from collections.abc import Callable

import torch
from ranks import run_ranks

from harness.recorder.graphs import graphs


def straight(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1


def broken(x: torch.Tensor) -> torch.Tensor:
    x = x.sin()
    torch._dynamo.graph_break()
    return x + 1


def compiled(function: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, int]:
    torch.compile(function, backend="eager")(torch.ones(3))
    return graphs()


def test_graph_breaks_and_graphs_are_counted():
    assert run_ranks(1, compiled, straight) == [{"graph_breaks": 0, "compiled_graphs": 1}]
    assert run_ranks(1, compiled, broken) == [{"graph_breaks": 1, "compiled_graphs": 2}]
