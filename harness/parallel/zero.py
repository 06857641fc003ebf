"""DeepSpeed's ZeRO (arXiv:1910.02054): optimizer state, then gradients, then parameters too split over the ranks."""

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn

from harness.models.transformer import Transformer
from harness.parallel.expert import balance
from harness.parallel.optimizer import adamw
from harness.parallel.strategy import Strategy

# its logger writes for ever to what is stdout now
with redirect_stdout(sys.stderr):
    import deepspeed
    from deepspeed.runtime.config import DeepSpeedConfig
    from deepspeed.runtime.zero.config import ZERO_OPTIMIZATION
    from deepspeed.runtime.engine import DeepSpeedEngine


class Engine(DeepSpeedEngine):
    """DeepSpeed's engine, with one optimizer for stages 1 and 2."""

    def _do_optimizer_sanity_check(self, optimizer: torch.optim.Optimizer) -> str:
        # for stage 1 with bf16 parameters and fp32 gradients DeepSpeed takes another, which reduces after backward
        return ZERO_OPTIMIZATION


class ZeRO(Strategy):
    """What the stages share."""

    stage: int

    def spread(self, part: Transformer, initialise: Callable[[nn.Module], None]) -> nn.Module:
        part.to_empty(device=self.device)
        initialise(part)
        return self.start(part, adamw(part.parameters(), self.options), initialise)

    def start(self, part: Transformer, optimizer: torch.optim.Optimizer, initialise: Callable[[nn.Module], None]) -> nn.Module:
        meet(self.device)
        settings = self.settings()
        self.engine = Engine(None, part, optimizer, config=settings, config_class=DeepSpeedConfig(settings))
        if self.options.compute != torch.float32:
            for name, parameter in part.named_parameters():
                self.set_master(parameter, drawn(name, shape(parameter), self.device, initialise))
        return self.engine

    def settings(self) -> dict[str, Any]:
        """DeepSpeed's configuration."""
        return {
            # it only counts with this
            "train_micro_batch_size_per_gpu": 1,
            "gradient_clipping": self.options.grad_clip,
            "zero_allow_untested_optimizer": True,
            "bf16": {"enabled": self.options.compute == torch.bfloat16, "check_grad_overflow": False},
            "communication_data_type": "fp32",
            "data_types": {"grad_accum_dtype": "fp32"},
            "timers": {"throughput": {"enabled": False}},
            "zero_optimization": {
                "stage": self.stage,
                "overlap_comm": True,
                "contiguous_gradients": True,
                "reduce_scatter": self.stage == 3,
                "reduce_bucket_size": 50_000_000,
                **self.parameters(),
            },
        }

    def parameters(self) -> dict[str, Any]:
        return {}

    def set_master(self, parameter: nn.Parameter, value: Tensor) -> None:
        deepspeed.utils.safe_set_full_fp32_param(parameter, value)

    def build_optimizer(self) -> torch.optim.Optimizer:
        return self.engine.optimizer

    def synchronise(self, last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(last)

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss)

    def update(self, lr: float) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.engine.step()
        balance(self.parts, self.mesh)
        return torch.as_tensor(self.engine.get_global_grad_norm(), device=self.device)


class ZeRO1(ZeRO):
    stage = 1


class ZeRO2(ZeRO):
    stage = 2


class Whole(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self._block = block

    def forward(self, *arguments: Any) -> Any:
        gathered = {parameter.untyped_storage().data_ptr(): parameter for parameter in self.parameters()}

        def pack(x: Tensor) -> Any:
            parameter = gathered.get(x.untyped_storage().data_ptr())
            if parameter is None:
                return x
            return parameter, x.size(), x.stride(), x.storage_offset() - parameter.storage_offset()

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            return self._block(*arguments)


def unpack(packed):
    if isinstance(packed, Tensor):
        return packed
    parameter, size, stride, offset = packed
    return parameter.data.as_strided(size, stride, parameter.storage_offset() + offset)


class ZeRO3(ZeRO):
    stage = 3

    def spread(self, part: Transformer, initialise: Callable[[nn.Module], None]) -> nn.Module:
        meet(self.device)
        for index, block in part.blocks.items():
            part.blocks[index] = Whole(block)
        deepspeed.utils.set_z3_leaf_modules(part, [Whole])
        self.block_size = max(sum(p.numel() for p in block.parameters()) for block in part.blocks.values())
        self.largest = max(p.numel() for p in part.parameters())
        optimizer = adamw(part.parameters(), self.options)
        for name, parameter in part.named_parameters():
            value = drawn(name, parameter.shape, self.device, initialise).to(self.options.compute)
            torch.utils.swap_tensors(parameter, nn.Parameter(value))
            deepspeed.zero.Init(module=nn.ParameterList([parameter]), mem_efficient_linear=False, dtype=self.options.compute)
        for module in part.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, torch.zeros_like(buffer, device=self.device))
        return self.start(part, optimizer, initialise)

    def parameters(self):
        return {
            "stage3_param_persistence_threshold": 0,
            "stage3_prefetch_bucket_size": self.block_size,
            "stage3_max_reuse_distance": 1,
            "memory_efficient_linear": False,
        }

    def set_master(self, parameter: nn.Parameter, value: Tensor) -> None:
        held = parameter.ds_tensor.numel()
        ranks, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
        padded = nn.functional.pad(value.flatten(), (0, held * ranks - value.numel()))
        deepspeed.utils.safe_set_local_fp32_param(parameter, padded.narrow(0, rank * held, held))


def shape(parameter):
    return getattr(parameter, "ds_shape", parameter.shape)


def drawn(name, shape, device, initialise):
    holder = inner = nn.Module()
    *path, leaf = name.split(".")
    for part in path:
        inner.add_module(part, nn.Module())
        inner = getattr(inner, part)
    inner.register_parameter(leaf, nn.Parameter(torch.empty(shape, device=device)))
    initialise(holder)
    return inner.get_parameter(leaf).detach()


def meet(device):
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None
    deepspeed.init_distributed("nccl" if device.type == "cuda" else "gloo", verbose=False)
