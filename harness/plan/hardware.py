"""Published peaks and memory of accelerators.

Peaks are dense FLOP/s: vendors often print the figure with structured sparsity, twice as high. `fp32` is the
rate of plain fp32 units, the others are those of matrix units. Memory is the total that the driver reports (nvidia-smi,
rocm-smi), since a vendor's "GB" is sometimes 10^9 and sometimes 2^30 bytes. What is not in the table is unknown, never
guessed.
"""

import re
from dataclasses import dataclass

from harness.config import Precision
from harness.fields import nearest

MIB = 2**20


@dataclass(frozen=True)
class Device:
    """One accelerator, as PyTorch counts devices."""

    name: str
    title: str
    memory_bytes: int
    peaks: dict[str, float]
    source: str

    def peak(self, precision: Precision) -> float | None:
        """Dense FLOP/s of the matrix products of that precision, or None where it is not known."""
        return self.peaks.get("fp8" if precision.float8 else precision.compute)


def _peaks(**tera: float) -> dict[str, float]:
    return {kind: float(round(value * 1e12)) for kind, value in tera.items()}


_HOPPER_SXM = _peaks(fp32=67, bf16=989, fp8=1979)
_AMPERE = _peaks(fp32=19.5, bf16=312)
_BLACKWELL_HGX = _peaks(fp32=75, bf16=2250, fp8=4500)
_BLACKWELL_NVL72 = _peaks(fp32=80, bf16=2500, fp8=5000)
_HGX = "NVIDIA HGX specifications, divided by 8 GPUs, sparse figures halved"

DEVICES = {
    device.name: device
    for device in (
        Device("a100_40g", "NVIDIA A100 40GB", 40960 * MIB, _AMPERE, "NVIDIA A100 datasheet, SXM and PCIe"),
        Device("a100_80g", "NVIDIA A100 80GB", 81920 * MIB, _AMPERE, "NVIDIA A100 80GB datasheet, SXM and PCIe"),
        Device("h100_sxm", "NVIDIA H100 SXM", 81559 * MIB, _HOPPER_SXM, "NVIDIA H100 datasheet, sparse figures halved"),
        Device(
            "h100_pcie",
            "NVIDIA H100 PCIe",
            81559 * MIB,
            _peaks(fp32=51, bf16=756, fp8=1513),
            "NVIDIA H100 PCIe product brief, sparse figures halved",
        ),
        Device(
            "h100_nvl",
            "NVIDIA H100 NVL",
            95830 * MIB,
            _peaks(fp32=60, bf16=835.5, fp8=1670.5),
            "NVIDIA H100 datasheet, one card of the NVL column, sparse figures halved",
        ),
        Device("h200", "NVIDIA H200 SXM", 143771 * MIB, _HOPPER_SXM, "NVIDIA H200 datasheet, sparse figures halved"),
        Device(
            "h200_nvl",
            "NVIDIA H200 NVL",
            143771 * MIB,
            _peaks(fp32=60, bf16=835.5, fp8=1670.5),
            "NVIDIA H200 datasheet, NVL column, sparse figures halved",
        ),
        Device(
            "gh200",
            "NVIDIA GH200, 96 GB",
            97871 * MIB,
            _HOPPER_SXM,
            "NVIDIA GH200 datasheet, its one GPU, sparse figures halved",
        ),
        Device("b200", "NVIDIA B200", 183359 * MIB, _BLACKWELL_HGX, f"{_HGX}, B200"),
        Device("b300", "NVIDIA B300", 275040 * MIB, _BLACKWELL_HGX, f"{_HGX}, B300"),
        Device(
            "gb200",
            "NVIDIA GB200, one GPU",
            189471 * MIB,
            _BLACKWELL_NVL72,
            "NVIDIA GB200 NVL72 datasheet, divided by 72 GPUs, sparse figures halved",
        ),
        Device(
            "gb300",
            "NVIDIA GB300, one GPU of an NVL72",
            284208 * MIB,
            _BLACKWELL_NVL72,
            "NVIDIA GB300 NVL72 datasheet, divided by 72 GPUs, sparse figures halved",
        ),
        Device(
            "l4",
            "NVIDIA L4",
            23034 * MIB,
            _peaks(fp32=30.3, bf16=121, fp8=242.5),
            "NVIDIA L4 datasheet, sparse figures halved",
        ),
        Device(
            "l40s",
            "NVIDIA L40S",
            46068 * MIB,
            _peaks(fp32=91.6, bf16=362.05, fp8=733),
            "NVIDIA L40S datasheet",
        ),
        # PyTorch sees each of the module's two dies as a device of its own.
        Device(
            "mi250x",
            "AMD Instinct MI250X, one die",
            65520 * MIB,
            _peaks(fp32=23.95, bf16=191.5),
            "AMD Instinct MI250X datasheet, halved for one of two dies",
        ),
        Device(
            "mi300x",
            "AMD Instinct MI300X",
            196592 * MIB,
            _peaks(fp32=163.4, bf16=1307.4, fp8=2614.9),
            "AMD Instinct MI300X datasheet",
        ),
        Device(
            "mi355x",
            "AMD Instinct MI355X",
            294896 * MIB,
            _peaks(fp32=157.3, bf16=2500, fp8=5000),
            "AMD Instinct MI355X datasheet",
        ),
    )
}

# The whole name must match: "NVIDIA L40" or a MIG slice is another device than the one whose name it begins with.
REPORTED_NAMES = {
    r"A100-(SXM4|PCIE)-40GB": "a100_40g",
    r"A100-SXM4-80GB|A100 80GB PCIe": "a100_80g",
    r"H100 80GB HBM3": "h100_sxm",
    r"H100 PCIe": "h100_pcie",
    r"H100 NVL": "h100_nvl",
    r"H200": "h200",
    r"H200 NVL": "h200_nvl",
    r"GH200 480GB": "gh200",
    r"B200": "b200",
    r"B300 SXM6 AC": "b300",
    r"GB200": "gb200",
    r"GB300": "gb300",
    r"L4": "l4",
    r"L40S": "l40s",
    r"AMD Instinct MI250X": "mi250x",
    r"AMD Instinct MI300X( OAM)?": "mi300x",
    r"AMD Instinct MI355X": "mi355x",
}


def find(device_name: str) -> Device | None:
    """The device that PyTorch or NVML calls `device_name`, or None where the table does not know it."""
    bare = device_name.strip().removeprefix("NVIDIA ")
    for pattern, name in REPORTED_NAMES.items():
        if re.fullmatch(pattern, bare):
            return DEVICES[name]
    return None


def named(name: str) -> Device:
    """The device of a file in conf/hardware; ValueError names the known ones and the nearest."""
    if name not in DEVICES:
        raise ValueError(
            f"hardware.name={name}: choose one of auto, {', '.join(DEVICES)}{nearest(name, list(DEVICES))}"
        )
    return DEVICES[name]
