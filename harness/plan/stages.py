"""Which blocks each stage of a pipeline gets, and which stages each rank."""


def layers_of(layers: int, stages: int) -> list[range]:
    """The blocks of each stage, as many of the whole model's as evenly as they go.

    What is left over goes to the stages in the middle, then to the first one, which also has the embedding; the last
    one has the output projection and gets none of it.
    """
    assert layers >= stages, (layers, stages)
    least, left_over = divmod(layers, stages)
    first_to_get = [*range(1, stages - 1), 0][:left_over]
    shares, begin = [], 0
    for stage in range(stages):
        end = begin + least + (stage in first_to_get)
        shares.append(range(begin, end))
        begin = end
    return shares


def stages_of(rank: int, ranks: int, virtual_stages: int) -> range:
    """The stages of one of `ranks` pipeline ranks: they take turns, so that neighbours always differ in rank."""
    return range(rank, ranks * virtual_stages, ranks)
