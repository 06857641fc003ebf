"""DeepSpeed's ZeRO (arXiv:1910.02054): optimizer state, then gradients, then parameters are split over ranks too."""

import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from math import ceil, prod
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from harness.models.transformer import Transformer
from harness.parallel.expert import balance
from harness.parallel.optimizer import adamw, begin
from harness.parallel.state import State
from harness.parallel.strategy import Strategy
from harness.plan.prefetch import limits

# on the CPU it would say that it has found no GPU
logging.getLogger("DeepSpeed").addFilter(lambda record: record.funcName != "get_accelerator")
# its logger keeps to what stdout is when it is imported
with redirect_stdout(sys.stderr):
    import deepspeed
    from deepspeed.accelerator import set_accelerator
    from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
    from deepspeed.runtime.config import DeepSpeedConfig
    from deepspeed.runtime.engine import DeepSpeedEngine
    from deepspeed.runtime.zero.config import ZERO_OPTIMIZATION

    from harness.parallel.zero_files import MASTER, MOMENTS, Whole, load_plain, optimizer_files, rank_of

# DeepSpeed calls collectives by names that torch 2.13 has renamed
warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)

BUCKET = 50_000_000
"""Gradients reduced together: 200 MB in fp32, long enough for the full bandwidth, soon enough full to overlap."""

TAG = "zero"
"""The folder of a checkpoint that DeepSpeed writes into."""


class Engine(DeepSpeedEngine):  # type: ignore[misc]
    """DeepSpeed's engine, with the same optimizer for stage 1 as for stage 2."""

    def _do_optimizer_sanity_check(self, optimizer: torch.optim.Optimizer) -> str:
        # with bf16 parameters DeepSpeed's own choice for stage 1 reduces gradients when backward is over, not meanwhile
        return str(ZERO_OPTIMIZATION)


class PlainFiles(TorchCheckpointEngine):  # type: ignore[misc]
    """DeepSpeed's writer and reader of files, which loads no types that could do harm.

    What could not be written is kept in `error`: raised at once, it would leave the other ranks waiting.
    """

    error: Exception | None = None

    def __init__(self) -> None:
        super().__init__()
        self.zipfile_serialization = True  # files that can be mapped

    def save(self, state_dict: dict[str, Any], path: str) -> None:
        try:
            super().save(state_dict, path)
        except (OSError, RuntimeError) as error:  # torch's own writer raises the latter
            self.error = error

    def load(self, path: str, map_location: Any = None) -> Any:
        return load_plain(path, map_location=map_location)


class ZeRO(Strategy):
    """A stage of DeepSpeed's ZeRO, which reduces, clips and steps by itself.

    With fp32 compute everything is fp32. With bf16 parameters are bf16, and DeepSpeed keeps each rank's part of fp32
    masters, fp32 gradients and the optimizer's moments; gradients are reduced and added up in fp32.
    """

    stage: int
    engine: Engine

    def spread(self, part: Transformer, initialise: Callable[[nn.Module], None]) -> nn.Module:
        self.connect()
        optimizer = self.place(part, initialise)
        settings = self.settings(part)
        self.engine = Engine(None, part, optimizer, config=settings, config_class=DeepSpeedConfig(settings))
        self.files = self.engine.checkpoint_engine = PlainFiles()
        if self.options.compute != torch.float32:
            # DeepSpeed has made the masters of rounded parameters
            for name, parameter in part.named_parameters():
                self.set_master(parameter, self.drawn(name, full_shape(parameter), initialise))
        return self.engine

    def connect(self) -> None:
        """Let DeepSpeed use the device and the process group that there are."""
        if self.device.type == "cpu":
            set_accelerator(CPU_Accelerator())
            # else it builds an operator for shared memory, which takes half a minute and a compiler
            sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
        deepspeed.init_distributed(dist.get_backend())
        # else it makes another of all ranks
        deepspeed.utils.groups._WORLD_GROUP = self.mesh.everyone.get_group()

    def place(self, part: Transformer, initialise: Callable[[nn.Module], None]) -> torch.optim.Optimizer:
        """Put the part's parameters on the device; returns the optimizer over them."""
        part.to_empty(device=self.device)
        initialise(part)
        return adamw(part.parameters(), self.options)

    def settings(self, part: Transformer) -> dict[str, Any]:
        """DeepSpeed's configuration."""
        return {
            # DeepSpeed only counts with it; a microbatch's part of the loss comes already divided
            "train_micro_batch_size_per_gpu": 1,
            "gradient_clipping": self.options.grad_clip,
            "zero_allow_untested_optimizer": True,
            # the check would make the host wait
            "bf16": {"enabled": self.options.compute == torch.bfloat16, "check_grad_overflow": False},
            "communication_data_type": "fp32",
            "data_types": {"grad_accum_dtype": "fp32"},
            # it synchronises the device
            "timers": {"throughput": {"enabled": False}},
            "zero_optimization": {
                "stage": self.stage,
                "overlap_comm": True,
                "contiguous_gradients": True,
                "reduce_bucket_size": BUCKET,
                **self.stage_settings(part),
            },
        }

    def stage_settings(self, part: Transformer) -> dict[str, Any]:
        """What the stage asks for beside that."""
        # true would all-reduce as well, of buckets first cut up by owner, and ZeRO-2 would divide gradients in bf16
        return {"reduce_scatter": False}

    def drawn(self, name: str, shape: Sequence[int], initialise: Callable[[nn.Module], None]) -> Tensor:
        """The initial values of one parameter of the model, in fp32: of a module that has no other."""
        alone = owner = nn.Module()
        *path, last = name.split(".")
        for part in path:
            owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        owner.register_parameter(last, nn.Parameter(torch.empty(tuple(shape), device=self.device)))
        initialise(alone)
        return alone.get_parameter(name).detach()

    def set_master(self, parameter: nn.Parameter, value: Tensor) -> None:
        """Set this rank's part of the parameter's fp32 master, given all of it."""
        deepspeed.utils.safe_set_full_fp32_param(parameter, value)

    def masters(self) -> list[Tensor]:
        """What the optimizer steps: this rank's part of each group of parameters, in a row."""
        return list(self.engine.optimizer.single_partition_of_fp32_groups)

    def set_moment(self, parameter: nn.Parameter, moment: str, value: Tensor) -> None:
        """Set this rank's part of one of the optimizer's moments, given all of it."""
        # else done by the first step
        self.engine.optimizer._lazy_init_hp_params_optimizer_state()
        deepspeed.utils.safe_set_full_optimizer_state(parameter, value, moment)

    def narrow_masters(self) -> None:
        """Make the parameters of their masters."""
        self.engine.optimizer.update_lp_params()

    def build_optimizer(self) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = self.engine.optimizer
        return optimizer

    def synchronise(self, last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(last)

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss)

    def update(self, lr: float) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.engine.step()
        balance(self.routers, self.mesh)
        # a number where DeepSpeed has found infinity and left out the step
        return torch.as_tensor(self.engine.get_global_grad_norm(), device=self.device)

    def share(self) -> State:
        """Nothing apart: DeepSpeed writes what its engine has."""
        return {}

    def save(self, folder: Path, share: State, group: dist.ProcessGroup | None = None) -> list[Path]:
        assert group is None
        self.engine.save_checkpoint(str(folder), tag=TAG, save_latest=False)
        if self.files.error is not None:
            error, self.files.error = self.files.error, None
            raise OSError(str(error)) from error
        rank = dist.get_rank()
        return [path for path in sorted(folder.rglob("*")) if path.is_file() and rank_of(path) == rank]

    def check(self, path: Path) -> None:
        """Raise for a file that holds types which neither torch nor DeepSpeed writes."""
        if path.suffix == ".pt":
            load_plain(path, map_location="cpu", mmap=True)

    def load(self, folder: Path) -> None:
        """Take up the state that a folder holds, whatever number of ranks wrote it with the same stage."""
        if len(optimizer_files(folder / TAG)) == dist.get_world_size():
            self.engine.load_checkpoint(str(folder), tag=TAG)
            return
        whole, base = Whole(folder / TAG), self.engine.optimizer.optimizer
        begin(base, self.masters())
        parameters = dict(self.engine.module.named_parameters())
        for name, values in whole.parameters():
            self.set_master(parameters[name], values[MASTER])
            for moment in MOMENTS:
                self.set_moment(parameters[name], moment, values[moment])
        for state in base.state.values():
            state["step"].copy_(whole.step)
        for name, buffer in self.engine.module.named_buffers():
            if name in whole.module:
                buffer.copy_(whole.module[name])
        self.narrow_masters()


class ZeRO1(ZeRO):
    """Every rank has all parameters and steps a part of them; gradients are all-reduced, parameters gathered."""

    stage = 1

    def spread(self, part: Transformer, initialise: Callable[[nn.Module], None]) -> nn.Module:
        engine = super().spread(part, initialise)
        if self.device.type == "cuda":
            # a gradient longer than a bucket is reduced where it is: freed meanwhile, its memory must not be used again
            self.engine.optimizer._record_gradient_stream = Tensor.record_stream
        return engine


class ZeRO2(ZeRO1):
    """As ZeRO-1, and a rank keeps gradients of its part alone, which are therefore reduced every microbatch."""

    stage = 2


class ZeRO3(ZeRO):
    """Parameters are split too: gathered block by block for forward and again for backward, gradients scattered."""

    stage = 3

    def place(self, part: Transformer, initialise: Callable[[nn.Module], None]) -> torch.optim.Optimizer:
        for index, block in part.blocks.items():
            part.blocks[index] = Gathered(block)
        deepspeed.utils.set_z3_leaf_modules(part, [Gathered])
        # a parameter that is split shows an empty shape
        optimizer = adamw(part.parameters(), self.options)
        compute = self.options.compute
        # a block's are gathered in the order in which they were split: harness.plan counts on the smallest first
        for name, parameter in sorted(part.named_parameters(), key=lambda named: named[1].numel()):
            value = self.drawn(name, parameter.shape, initialise).to(compute)
            torch.utils.swap_tensors(parameter, nn.Parameter(value))
            # the linear that is more efficient in memory is not compiled; see Gathered
            deepspeed.zero.Init(
                nn.ParameterList([parameter]), self.mesh.everyone.get_group(), mem_efficient_linear=False, dtype=compute
            )
        for module in part.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, torch.zeros_like(buffer, device=self.device))
        return optimizer

    def stage_settings(self, part: Transformer) -> dict[str, Any]:
        blocks = [sum(elements(parameter) for parameter in block.parameters()) for block in part.blocks.values()]
        bucket, most = limits(blocks, elements(part.get_parameter("output.weight")))
        return {
            "reduce_scatter": True,
            "stage3_prefetch_bucket_size": bucket,
            "stage3_max_live_parameters": most,
            # all is freed that prefetching has not come by on its way to the next use
            "stage3_max_reuse_distance": 0,
            # small ones travel with their block; kept whole, each would be gathered by itself after every step
            "stage3_param_persistence_threshold": 0,
        }

    def set_master(self, parameter: nn.Parameter, value: Tensor) -> None:
        deepspeed.utils.safe_set_local_fp32_param(parameter, own_part(value))

    def masters(self) -> list[Tensor]:
        return list(self.engine.optimizer.fp32_partitioned_groups_flat)

    def set_moment(self, parameter: nn.Parameter, moment: str, value: Tensor) -> None:
        deepspeed.utils.safe_set_local_optimizer_state(parameter, own_part(value), moment)

    def narrow_masters(self) -> None:
        for parameter in self.engine.module.parameters():
            parameter.ds_tensor.data.copy_(deepspeed.utils.safe_get_local_fp32_param(parameter))


def own_part(value: Tensor) -> Tensor:
    """This rank's part of all of a parameter, the last one's filled up with zeros."""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    held = ceil(value.numel() / ranks)
    return F.pad(value.flatten(), (0, held * ranks - value.numel()))[rank * held : (rank + 1) * held]


class Gathered(nn.Module):
    """A block whose parameters are gathered and freed together.

    DeepSpeed's hooks are around it and none within, so that it compiles in one piece.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self._block = block

    def forward(self, *arguments: Any) -> Any:
        parameters = {parameter.untyped_storage().data_ptr(): parameter for parameter in self.parameters()}

        def pack(x: Tensor) -> Any:
            parameter = parameters.get(x.untyped_storage().data_ptr())
            if parameter is None:
                return x
            return parameter, x.size(), x.stride(), x.storage_offset() - parameter.storage_offset()

        # autograd keeps views of weights, which would keep alive what is to be freed
        with saved_tensors_hooks(pack, unpack):
            return self._block(*arguments)


def unpack(packed: Any) -> Tensor:
    """A tensor that was kept for backward, or the same view of a parameter that is gathered again."""
    if isinstance(packed, Tensor):
        return packed
    parameter, size, stride, offset = packed
    return parameter.detach().as_strided(size, stride, parameter.storage_offset() + offset)


def full_shape(parameter: Tensor) -> Sequence[int]:
    """The shape of a parameter that DeepSpeed may have split."""
    shape: Sequence[int] = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def elements(parameter: Tensor) -> int:
    """The elements of all of a parameter that DeepSpeed may have split."""
    return prod(full_shape(parameter))
