"""Causal attention of the two chunks that a rank has of a sequence, over all that comes before them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.parallel.collectives import Group, start_all_gather, start_reduce_scatter, wait
from harness.parallel.kernels import Part, choose


class OverPrefix(torch.autograd.Function):
    """Heads [batch, seq, heads, width], a chunk from the front and one from the back, to what these see: the same.

    A chunk is attended to in two parts, itself under the causal mask and earlier keys under none, weighed by their
    log-sums: every part is a shape that the fastest kernels take, and no mask is stored. The first part needs nothing
    of other ranks and runs while keys and values are gathered; in backward, while their gradients are scattered.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, group: Group) -> Tensor:
        gathering = start_all_gather(torch.cat((key.flatten(), value.flatten()))[None], group)
        kernel = choose(value, query.shape[-1])
        own, logs, rest = kernel.see(itself(query, key, value))
        gathered = wait(gathering)
        keys, values = in_order(gathered[:, : key.numel()], key), in_order(gathered[:, key.numel() :], value)

        outputs, sums, saved = list(pair(own)), list(pair(logs)), list(rest)
        for chunk, part in earlier(query, keys, values, group):
            seen, logs, rest = kernel.see(part)
            outputs[chunk], sums[chunk] = merge(outputs[chunk], sums[chunk], seen, logs)
            saved.extend(rest)
        output = torch.cat([x.transpose(1, 2) for x in outputs], dim=1)
        ctx.kernel, ctx.group, ctx.rest = kernel, group, len(rest)
        ctx.save_for_backward(query, key, value, keys, values, output, torch.stack(sums, 1), *saved)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, keys, values, output, sums, *saved = ctx.saved_tensors
        kernel, group, rest = ctx.kernel, ctx.group, ctx.rest
        upstream, seen = stack(gradient), stack(output)
        queries, others = [], []
        for index, (chunk, part) in enumerate(earlier(query, keys, values, group), start=1):
            known = (pair(upstream)[chunk], pair(seen)[chunk], sums[:, chunk], saved[index * rest : (index + 1) * rest])
            more, *rows = kernel.gradients(part, *known)
            queries.append((chunk, more))
            others.append([F.pad(x, (0, 0, 0, keys.shape[1] - x.shape[2])) for x in rows])
        whole = [by_rank(sum(x[1:], start=x[0]).transpose(1, 2), group.size) for x in zip(*others, strict=True)]
        scattering = start_reduce_scatter(torch.cat(whole, dim=1), group)

        own = kernel.gradients(itself(query, key, value), upstream, seen, sums.flatten(0, 1), saved[:rest])
        for chunk, more in queries:
            pair(own[0])[chunk].add_(more)
        scattered = wait(scattering)[0].split([key.numel(), value.numel()])
        of_query, of_key, of_value = (unstack(x) for x in own)
        return of_query, of_key + scattered[0].view_as(of_key), of_value + scattered[1].view_as(of_value), None


def itself(query: Tensor, key: Tensor, value: Tensor) -> Part:
    """Both chunks' attention to themselves, as if they were two sequences."""
    return Part(stack(query), stack(key), stack(value), True, query.shape[-1] ** -0.5)


def earlier(query: Tensor, keys: Tensor, values: Tensor, group: Group) -> Iterator[tuple[int, Part]]:
    """Which chunk, and its attention to all keys before it, where there are any."""
    length = query.shape[1] // 2
    for chunk, before in enumerate((group.rank, 2 * group.size - 1 - group.rank)):
        if before:
            heads = query.chunk(2, dim=1)[chunk], keys[:, : before * length], values[:, : before * length]
            own, key, value = (x.transpose(1, 2) for x in heads)
            yield chunk, Part(own, key, value, False, query.shape[-1] ** -0.5)


def merge(output: Tensor, sums: Tensor, other: Tensor, other_sums: Tensor) -> tuple[Tensor, Tensor]:
    """What queries see of two sets of keys, from what they see of each."""
    both = torch.logaddexp(sums, other_sums)
    merged = output * (sums - both).exp()[..., None] + other * (other_sums - both).exp()[..., None]
    return merged.to(output.dtype), both


def stack(x: Tensor) -> Tensor:
    """Two chunks [batch, seq, heads, width] as sequences [batch x 2, heads, seq / 2, width]."""
    return x.unflatten(1, (2, -1)).flatten(0, 1).transpose(1, 2)


def unstack(x: Tensor) -> Tensor:
    """The reverse."""
    return x.transpose(1, 2).unflatten(0, (-1, 2)).flatten(1, 2)


def pair(x: Tensor) -> tuple[Tensor, ...]:
    """The front and the back chunks [batch, …] of [batch x 2, …]."""
    return x.unflatten(0, (-1, 2)).unbind(1)


def in_order(gathered: Tensor, like: Tensor) -> Tensor:
    """Sequences [batch, seq, heads, width] of all ranks' pairs of chunks [ranks, numbers], each shaped as `like`."""
    batch, _, heads, width = like.shape
    front, back = gathered.unflatten(1, (batch, 2, -1, heads, width)).unbind(2)
    return torch.cat((front, back.flip(0))).transpose(0, 1).flatten(1, 2)


def by_rank(sequence: Tensor, ranks: int) -> Tensor:
    """The reverse."""
    front, back = sequence.unflatten(1, (2, ranks, -1)).unbind(1)
    return torch.stack((front, back.flip(1)), dim=2).transpose(0, 1).flatten(1)
