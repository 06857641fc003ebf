"""Pipeline parallelism: stages of blocks, and the schedule of microbatches through them."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
)
from torch.distributed.pipelining.schedules import PipelineScheduleMulti, PipelineScheduleSingle
from torch.nn.parallel import DistributedDataParallel

from harness.models.transformer import Transformer
from harness.parallel.local import local_part
from harness.parallel.options import Options
from harness.plan.stages import layers_of, stages_of

OF_ONE_STAGE: dict[str, Callable[..., PipelineScheduleSingle]] = {"1f1b": Schedule1F1B, "gpipe": ScheduleGPipe}
OF_MANY: dict[str, Callable[..., PipelineScheduleMulti]] = {
    "interleaved": ScheduleInterleaved1F1B,
    "zero_bubble": ScheduleInterleavedZeroBubble,
}


def split(model: Transformer, mesh: DeviceMesh | None, virtual_stages: int) -> Iterator[Transformer]:
    """This rank's stages of the model; the model itself without a pipeline.

    Blocks keep their numbers, so that parameters keep their names and with them their initial values.
    """
    if mesh is None:
        yield model
        return
    assert not model.tied, "the embedding and the output of a tied model are one parameter"
    assert all(parameter.is_meta for parameter in model.parameters()), "stages are copies, which must cost no memory"
    stages = mesh.size() * virtual_stages
    shares = layers_of(len(model.blocks), stages)
    for index in stages_of(mesh.get_local_rank(), mesh.size(), virtual_stages):
        stage = copy.deepcopy(model)
        stage.blocks = nn.ModuleDict({str(number): stage.blocks[str(number)] for number in shares[index]})
        if index > 0:
            stage.embedding = None
        if index < stages - 1:
            stage.norm = stage.output = None
        yield stage


class Stage(PipelineStage):
    """torch's stage, which takes weight gradients apart from the backward pass without telling FSDP.

    Then too they are summed over microbatches in fp32, as FSDP does at the end of a backward pass.
    """

    def backward_weight_one_chunk(self, bwd_chunk_id: int, last_backward: bool = False) -> None:
        super().backward_weight_one_chunk(bwd_chunk_id, last_backward)
        for module in self.submod.modules():
            if isinstance(module, FSDPModule) and (group := module._get_fsdp_state()._fsdp_param_group) is not None:
                for parameter in group.fsdp_params:
                    parameter.accumulate_unsharded_grad_if_needed()
                    parameter.to_accumulated_grad_if_needed()


class Pipeline:
    """The schedule that drives this rank's stages; microbatches are the accumulation."""

    def __init__(
        self,
        parts: Sequence[nn.Module],
        mesh: DeviceMesh,
        device: torch.device,
        options: Options,
        loss: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        self.parts, self.mesh, self.device, self.options, self.loss = parts, mesh, device, options, loss
        self.indices = stages_of(mesh.get_local_rank(), mesh.size(), options.virtual_stages)
        self.stages = mesh.size() * options.virtual_stages
        self.schedule: PipelineScheduleSingle | PipelineScheduleMulti | None = None
        if options.schedule == "zero_bubble":
            # taken apart from the backward pass, weight gradients reach no hook of DistributedDataParallel, compiled
            # blocks have none apart, and each of them would recompute its whole block
            assert not any(isinstance(part, DistributedDataParallel) for part in parts)
            assert not options.compile and options.checkpointing == "none"

    def forward_backward(self, microbatches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Gradients of all microbatches; this rank's share of the loss.

        The last stage's rank returns the loss times the number of ranks in its pipeline, the others 0: the mean over
        all ranks is the loss of the step.
        """
        assert len(microbatches) == self.options.microbatches, (len(microbatches), self.options.microbatches)
        if self.schedule is None:
            self.schedule = self.build(microbatches[0][0])
        tokens, targets = (torch.cat(parts) for parts in zip(*microbatches, strict=True))
        inputs = (tokens,) if 0 in self.indices else ()
        losses: list[Tensor] = []
        self.schedule.step(*inputs, target=targets, losses=losses, return_outputs=False)
        total = torch.zeros((), device=self.device)
        for loss in losses:
            total += local_part(loss.detach())
        return total * self.mesh.size()

    def build(self, tokens: Tensor) -> PipelineScheduleSingle | PipelineScheduleMulti:
        """The schedule for microbatches like `tokens`: the first step shows how long sequences are."""
        options = self.options
        stages = [self.stage(part, index, tokens) for part, index in zip(self.parts, self.indices, strict=True)]
        # the mean over microbatches is taken in their losses, so gradients are not scaled
        how: dict[str, Any] = {"n_microbatches": options.microbatches, "loss_fn": self.share, "scale_grads": False}
        if options.schedule in OF_ONE_STAGE:
            (stage,) = stages
            return OF_ONE_STAGE[options.schedule](stage, **how)
        return OF_MANY[options.schedule](stages, **how)

    def stage(self, part: nn.Module, index: int, tokens: Tensor) -> Stage:
        """One stage and what it takes and gives for a microbatch, so that torch need not find out by running it."""
        plain = part.module if isinstance(part, DistributedDataParallel) else part
        assert isinstance(plain, Transformer)
        batch, seq = tokens.shape

        def passed(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=self.options.compute, device="meta", requires_grad=True)

        ids = torch.empty(batch, seq, dtype=tokens.dtype, device="meta")
        stream = passed(batch, seq // plain.sequence_shards, plain.dim)
        return Stage(
            part,
            index,
            self.stages,
            self.device,
            input_args=stream if plain.embedding is None else ids,
            output_args=stream if plain.output is None else passed(batch, seq, plain.output.out_features),
            group=self.mesh.get_group(),
        )

    def share(self, logits: Tensor, targets: Tensor) -> Tensor:
        """A microbatch's share of the mean."""
        return self.loss(logits, targets) / self.options.microbatches
