"""Context parallelism: cp ranks share every sequence."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from harness.models.attention import Attend, Attention, FlexAttend
from harness.models.experts import Router
from harness.models.latent import LatentAttention
from harness.models.transformer import Transformer
from harness.parallel.collectives import AllToAll, Group, all_reduce
from harness.parallel.prefix import OverPrefix


class ContextParallel:
    """How a sequence is shared out over `mesh`, and how attention sees all of it.

    `all_gather`: a rank has one chunk from the front and one from the back of 2 x cp, so that causal attention is the
    same work for all, and gathers the keys and values of the others. `ulysses` (arXiv:2309.14509): ranks have
    consecutive chunks, and exchange them for whole sequences of some heads.
    """

    def __init__(self, mesh: DeviceMesh, how: str) -> None:
        self.group, self.how = Group.along(mesh), how
        self.parts: list[Transformer] = []

    def apply(self, part: Transformer) -> None:
        """Let the part's attention see whole sequences, and its routers count over them."""
        self.parts.append(part)
        for module in part.modules():
            if isinstance(module, Attention | LatentAttention):
                module.attend = self.attend(module.attend)
            elif isinstance(module, Router):
                module.sequence_ranks *= self.group.size
                module.over_sequence = OverSequence(module.over_sequence, self.group)

    def attend(self, whole: Attend) -> Attend:
        """Attention over sequences that are shared out, from that over whole ones."""
        if self.how == "ulysses":
            return HeadsForSequence(whole, self.group)
        if isinstance(whole, FlexAttend):
            raise ValueError("attention=flex: cannot be shared out with parallel.context=all_gather; take ulysses")
        return GatherKeys(self.group)

    def share(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """This rank's part of a microbatch [batch, seq]: [batch, seq / cp].

        Before forward the parts learn from it what they need of whole sequences.
        """
        for part in self.parts:
            if part.positions is None:
                part.positions = self.mine(torch.arange(tokens.shape[1], device=tokens.device)[None])[0]
            if isinstance(part.attend, FlexAttend):
                part.attend.mask(tokens.shape[1], tokens.device)
        return self.mine(tokens), self.mine(targets)

    def mine(self, whole: Tensor) -> Tensor:
        """This rank's part of [batch, seq]."""
        _, ranks, rank = self.group
        if self.how == "ulysses":
            return whole.chunk(ranks, dim=1)[rank].contiguous()
        chunks = whole.chunk(2 * ranks, dim=1)
        return torch.cat((chunks[rank], chunks[-1 - rank]), dim=1)


class HeadsForSequence:
    """Attention over the whole sequence by each rank for some of the heads."""

    def __init__(self, whole: Attend, group: Group) -> None:
        self.whole, self.group = whole, group

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        _, ranks, _ = self.group
        batch, seq = query.shape[:2]
        even = [batch] * ranks
        # one exchange for all three: [rank, batch, seq, what its heads need of all three]
        own = torch.cat([x.reshape(batch, seq, ranks, -1) for x in (query, key, value)], dim=-1)
        sent = own.movedim(2, 0).flatten(0, 1)
        received = AllToAll.apply(sent, even, even, self.group)
        sequence = received.unflatten(0, (ranks, batch)).transpose(0, 1).flatten(1, 2)
        heads = [x.shape[2] // ranks for x in (query, key, value)]
        widths = [x.shape[3] for x in (query, key, value)]
        split = sequence.split([count * width for count, width in zip(heads, widths, strict=True)], dim=-1)
        whole = [x.unflatten(-1, (count, -1)) for x, count in zip(split, heads, strict=True)]

        mixed = self.whole(*whole).flatten(2)
        sent = mixed.unflatten(1, (ranks, seq)).transpose(0, 1).flatten(0, 1)
        received = AllToAll.apply(sent, even, even, self.group)
        return received.unflatten(0, (ranks, batch)).movedim(0, 2).reshape(batch, seq, query.shape[2], -1)


class GatherKeys:
    """Attention of a rank's two chunks to all that comes before them."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return OverPrefix.apply(query, key, value, self.group)


class OverSequence:
    """Sums counts over the ranks of one more group."""

    def __init__(self, within: Callable[[Tensor], Tensor], group: Group) -> None:
        self.within, self.group = within, group

    def __call__(self, counts: Tensor) -> Tensor:
        return all_reduce(self.within(counts), self.group)
