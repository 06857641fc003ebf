"""What NVIDIA's driver tells of a node's GPUs, by NVML."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from typing import Any

import pynvml

THROTTLING = {
    "sw_power_cap": pynvml.nvmlClocksThrottleReasonSwPowerCap,
    "hw_slowdown": pynvml.nvmlClocksThrottleReasonHwSlowdown,
    "sync_boost": pynvml.nvmlClocksThrottleReasonSyncBoost,
    "sw_thermal_slowdown": pynvml.nvmlClocksThrottleReasonSwThermalSlowdown,
    "hw_thermal_slowdown": pynvml.nvmlClocksThrottleReasonHwThermalSlowdown,
    "hw_power_brake_slowdown": pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
}
"""Reasons that hold a clock below what was asked for; idleness and a person's own clock settings are none of them."""

ALL_LINKS = 0xFFFFFFFF
NVLINK = {
    "tx": pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX,
    "rx": pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX,
    "nvlink_replay": pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY,
    "nvlink_recovery": pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY,
    "nvlink_crc": pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_CRC,
}
KIB = 1024

ABSENT = (
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_INVALID_ARGUMENT,
)
"""Answers that mean that a device, such as a slice of one, or its driver has no such figure."""


class Gpus:
    """The GPUs of a node's ranks, in the order of their local ranks."""

    def __init__(self, uuids: Sequence[str], first_rank: int) -> None:
        self.uuids, self.first_rank = uuids, first_rank
        self.handles: list[Any] | None = None
        self.turn = cycle(range(len(uuids)))
        self.problems: set[str] = set()

    def read(self) -> list[dict[str, Any]]:
        """What each GPU says now; null for what it can't say. Raises NVMLError where there is no driver to ask."""
        if not self.uuids:
            return []
        if self.handles is None:
            pynvml.nvmlInit()
            self.handles = [self._handle(uuid) for uuid in self.uuids]
        told = [
            {"rank": self.first_rank + i, "uuid": uuid, **self._gpu(handle)}
            for i, (uuid, handle) in enumerate(zip(self.uuids, self.handles, strict=True))
        ]
        # the driver counts PCIe's bytes for 20 ms in each direction when asked: one GPU a poll, in turn, and last
        turn = next(self.turn)
        told[turn] |= self._pcie(self.handles[turn])
        return told

    def _handle(self, uuid: str) -> Any:
        """NVML's handle of a GPU or of a slice of one, which has another prefix; None where it knows neither."""
        for prefix in ("GPU-", "MIG-"):
            try:
                return pynvml.nvmlDeviceGetHandleByUUID(prefix + uuid)
            except pynvml.NVMLError as error:
                unknown = str(error)
        self.problems.add(f"{uuid}: {unknown}")
        return None

    def _gpu(self, handle: Any) -> dict[str, Any]:
        ask, links = self._ask, self._links(handle)
        return {
            # first, since the record's time is taken just before
            "energy_j": ask(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3),
            "power_w": ask(lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3),
            "power_limit_w": ask(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3),
            "index": ask(lambda: pynvml.nvmlDeviceGetIndex(handle)),
            "clock_sm_mhz": ask(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),
            "clock_memory_mhz": ask(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM)),
            "throttling": ask(lambda: throttling(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle))),
            "temperature_c": ask(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
            "memory_bytes": ask(lambda: int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)),
            "busy": ask(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
            "pcie_tx_bytes_per_s": None,
            "pcie_rx_bytes_per_s": None,
            "nvlink_tx_bytes": None if links["tx"] is None else links["tx"] * KIB,
            "nvlink_rx_bytes": None if links["rx"] is None else links["rx"] * KIB,
            "errors": {
                **{name: value for name, value in links.items() if name not in ("tx", "rx")},
                "ecc_corrected": ask(lambda: ecc(handle, pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED)),
                "ecc_uncorrected": ask(lambda: ecc(handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED)),
                "remapped_rows": ask(lambda: sum(pynvml.nvmlDeviceGetRemappedRows(handle)[:2])),
            },
        }

    def _pcie(self, handle: Any) -> dict[str, Any]:
        counters = {"tx": pynvml.NVML_PCIE_UTIL_TX_BYTES, "rx": pynvml.NVML_PCIE_UTIL_RX_BYTES}
        told = {}
        for way, counter in counters.items():
            kib = self._ask(partial(pynvml.nvmlDeviceGetPcieThroughput, handle, counter))
            told[f"pcie_{way}_bytes_per_s"] = None if kib is None else kib * KIB
        return told

    def _links(self, handle: Any) -> dict[str, int | None]:
        """NVLink's counters over all links of a GPU: data in KiB, errors in number."""
        values = self._ask(
            lambda: pynvml.nvmlDeviceGetFieldValues(handle, [(field, ALL_LINKS) for field in NVLINK.values()])
        )
        if values is None:
            return dict.fromkeys(NVLINK)
        return {name: number(value) for name, value in zip(NVLINK, values, strict=True)}

    def _ask(self, question: Callable[[], Any]) -> Any:
        """The driver's answer, or None. A failure that is no mere lack is kept as a problem."""
        try:
            return question()
        except pynvml.NVMLError as error:
            if error.value not in ABSENT:
                self.problems.add(str(error))
            return None


def throttling(reasons: int) -> list[str]:
    """The names of those of NVML's clock reasons that are throttling."""
    return [name for name, bit in THROTTLING.items() if reasons & bit]


def ecc(handle: Any, kind: int) -> int:
    """Memory errors of a kind since the driver was loaded."""
    return int(pynvml.nvmlDeviceGetTotalEccErrors(handle, kind, pynvml.NVML_VOLATILE_ECC))


def number(value: Any) -> int | None:
    """A field's count, or None where the driver does not have it."""
    if value.nvmlReturn != pynvml.NVML_SUCCESS:
        return None
    member = {pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal", pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal"}
    return int(getattr(value.value, member.get(value.valueType, "ullVal")))
