"""Whether a point's kernels exist where its ranks will run."""

from harness.config import Config
from harness.plan.hardware import Device
from harness.plan.parts import projections

TILE = 16
"""Numbers that a float8 product takes at a time: each of its sides must be a multiple (torch._scaled_mm)."""

GROUPED = 8
"""The same of a grouped product in bf16: 16 bytes (torch._grouped_mm)."""

WIDEST_FLASH = 256
"""Width of a head that PyTorch's flash attention takes at most (check_head_dim_size_flash)."""

CUDNN_WIDTH = 8
"""What a head's width must be a multiple of for cuDNN: 16 bytes of bf16 (check_cudnn_tensor_shapes)."""


def check_kernels(config: Config, device: Device | None, torchao: bool) -> None:
    """Raise ValueError, one sentence, for a precision or an attention that ranks on `device` cannot have.

    device: the GPU that each rank gets, None for CPU processes. torchao: whether the package is there, where known.
    """
    _check_attention(config, device)
    if config.model.experts and config.precision.compute == "bf16":
        _check_groups(config)
    if config.precision.float8:
        _check_float8(config, device, torchao)


def _check_attention(config: Config, device: Device | None) -> None:
    kernel, compute, parallel = config.attention, config.precision.compute, config.parallel
    if kernel in ("cudnn", "flex") and device is None:
        raise ValueError(f"attention={kernel}: must run on a GPU, and the ranks will be CPU processes; say auto")
    if kernel in ("cudnn", "flash") and device is not None and compute != "bf16":
        raise ValueError(f"attention={kernel}: must go with precision=bf16 on a GPU, not {compute}; or say auto")
    widths = {config.model.head_dim + config.model.rope_head_dim, config.model.v_head_dim or config.model.head_dim}
    if device is not None and kernel == "flash" and max(widths) > WIDEST_FLASH:
        raise ValueError(f"attention=flash: takes heads of at most {WIDEST_FLASH}, not of {max(widths)}; say auto")
    if kernel == "cudnn" and (odd := [width for width in widths if width % CUDNN_WIDTH]):
        raise ValueError(f"attention=cudnn: takes heads of a multiple of {CUDNN_WIDTH}, not of {odd[0]}; say auto")
    if kernel in ("flex", "math") and parallel.cp > 1 and parallel.context == "all_gather":
        raise ValueError(
            f"attention={kernel}: must be another kernel with parallel.context=all_gather, which needs the log-sums "
            "of a fused one; say auto, or parallel.context=ulysses"
        )


def _check_groups(config: Config) -> None:
    """The sides of the experts' grouped product."""
    model, tp = config.model, config.parallel.tp
    for field, width in (("dim", model.dim), ("expert_ffn_dim", model.expert_ffn_dim // tp)):
        if width % GROUPED:
            raise ValueError(
                f"model.{field}={getattr(model, field)}: a rank's {width} must be a multiple of {GROUPED} for experts "
                "in bf16"
            )


def _check_float8(config: Config, device: Device | None, torchao: bool) -> None:
    if device is None:
        raise ValueError("precision.float8=True: must run on a GPU, and the ranks will be CPU processes")
    if "fp8" not in device.peaks:
        raise ValueError(
            f"precision.float8=True: must run on a GPU that is known to have float8 products, such as h100_sxm; "
            f"{device.title} is not"
        )
    if not torchao:
        raise ValueError("precision.float8=True: needs the package torchao; install the extra float8")
    if config.precision.compute != "bf16":
        raise ValueError(f"precision.compute={config.precision.compute}: must be bf16 with precision.float8=True")
    model, parallel = config.model, config.parallel
    tokens = config.local_batch * config.seq_len // parallel.cp
    if tokens % TILE:
        raise ValueError(
            f"seq_len={config.seq_len}: local_batch x seq_len / parallel.cp = {tokens} must be a multiple of {TILE} "
            "with precision.float8=True"
        )
    for index in range(model.layers):
        for sizes in (projection.held(parallel) for projection in projections(model, index)):
            if len(sizes) == 2 and any(size % TILE for size in sizes):
                raise ValueError(
                    f"model.name={model.name}: a projection of {sizes[0]} x {sizes[1]} on a rank must have multiples "
                    f"of {TILE} with precision.float8=True"
                )
