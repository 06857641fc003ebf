"""What torch.compile made of the model on this rank."""


def graphs() -> dict[str, int]:
    """Graph breaks and compiled graphs of this process so far."""
    # loaded late: it takes a second, which a point without compilation need not wait
    from torch._dynamo.utils import counters

    return {
        "graph_breaks": sum(counters["graph_break"].values()),
        "compiled_graphs": counters["stats"]["unique_graphs"],
    }
