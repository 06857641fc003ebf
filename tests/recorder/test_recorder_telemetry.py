"""Telemetry of a node: what is there is told, what is not is null, and nothing that fails ends it.

No GPU is here: pynvml's functions are replaced by some that answer, refuse or fail as the driver does.
"""

import ctypes
import json
import time
from pathlib import Path

import pynvml
import pytest
from run_dirs import validator

from harness.recorder import telemetry
from harness.recorder.events import EventWriter
from harness.recorder.nodes import node_file
from harness.recorder.nvml import NVLINK, Gpus, throttling
from harness.recorder.telemetry import Telemetry

ONE, TWO, SLICE = "aaaa", "bbbb", "cccc"
"""UUIDs of two GPUs and of a slice of a third."""


def polls(folder: Path, seconds: float, every_s: float, uuids=()) -> list[dict]:
    """What a node's file holds after `seconds` of telemetry; every record follows the schema."""
    path = node_file(folder, 300, "node300")
    writer = EventWriter(path, 1)
    running = Telemetry(writer, "node300", 300, uuids, 1200, every_s)
    time.sleep(seconds)
    running.stop()
    writer.close()
    told = [json.loads(line) for line in path.read_text().splitlines()]
    for record in told:
        validator().validate(record)
    return told


def test_a_node_without_gpus_tells_of_itself(tmp_path):
    told = polls(tmp_path, 0.5, 0.1)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jsonl")] == ["nodes/001/node300.jsonl"]
    assert 3 <= len(told) <= 7
    assert [record["time"] for record in told] == sorted(record["time"] for record in told)
    assert {(record["attempt"], record["host"], record["node"], record["warning"]) for record in told} == {
        (1, "node300", 300, None)
    }
    assert all(record["gpus"] == [] for record in told)
    assert told[0]["cpu"]["busy"] is None, "nobody knows since when"
    assert all(0 <= record["cpu"]["busy"] <= 1 for record in told[1:])
    assert all(record["cpu"]["memory_bytes"] > 0 for record in told)


def test_the_first_and_the_last_poll_do_not_wait_for_their_turn(tmp_path):
    begin = time.monotonic()
    first, last = polls(tmp_path, 0.3, 1000.0)
    assert time.monotonic() - begin < 5
    assert last["time"] - first["time"] >= 0.25


def test_what_cannot_be_read_is_null_and_said_once(tmp_path, monkeypatch):
    def fails():
        raise RuntimeError("no such thing")

    monkeypatch.setattr(telemetry, "ports", fails)
    told = polls(tmp_path, 0.3, 0.1)
    assert [record["warning"] for record in told] == ["ports: RuntimeError: no such thing"] + [None] * (len(told) - 1)
    assert all(record["ports"] is None and record["cpu"] is not None for record in told)


class Driver:
    """A driver of three GPUs, the third one cut into slices; `lost` are those that have fallen off their bus."""

    def __init__(self):
        self.energy_mj, self.lost, self.asked = 1_000_000, set(), []

    def handle(self, uuid):
        if uuid not in ("GPU-" + ONE, "GPU-" + TWO, "MIG-" + SLICE):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return uuid

    def whole(self, value, absent=pynvml.NVML_ERROR_NOT_SUPPORTED):
        """A function that answers for a whole GPU, and refuses for a slice."""

        def answer(handle, *_):
            if handle in self.lost:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
            if handle.startswith("MIG-"):
                raise pynvml.NVMLError(absent)
            return value(handle) if callable(value) else value

        return answer

    def energy(self, handle):
        self.energy_mj += 500_000
        return self.energy_mj

    def pcie(self, handle):
        self.asked.append(handle)
        return 3

    def fields(self, handle, fields):
        values = (pynvml.c_nvmlFieldValue_t * len(fields))()
        for value, (field, scope) in zip(values, fields, strict=True):
            assert scope == 0xFFFFFFFF, "of all links"
            value.fieldId, value.valueType = field, pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
            value.value.ullVal = 2**33 + field
            if field == NVLINK["nvlink_crc"]:
                value.nvmlReturn = pynvml.NVML_ERROR_NOT_SUPPORTED
        return values


@pytest.fixture
def driver(monkeypatch):
    made = Driver()
    memory = pynvml.c_nvmlMemory_t(total=80, free=38, used=42)
    busy = pynvml.c_nvmlUtilization_t(gpu=97, memory=50)
    hot = pynvml.nvmlClocksThrottleReasonHwThermalSlowdown | pynvml.nvmlClocksThrottleReasonApplicationsClocksSetting
    for name, value in {
        "TotalEnergyConsumption": made.energy,
        "PowerUsage": 650_500,
        "EnforcedPowerLimit": 700_000,
        "Index": lambda handle: {"GPU-" + ONE: 4, "GPU-" + TWO: 6}[handle],
        "ClockInfo": 1755,
        "CurrentClocksEventReasons": hot,
        "Temperature": 61,
        "MemoryInfo": memory,
        "UtilizationRates": busy,
        "TotalEccErrors": 0,
        "RemappedRows": (1, 2, 0, 0),
        "PcieThroughput": made.pcie,
    }.items():
        monkeypatch.setattr(pynvml, f"nvmlDeviceGet{name}", made.whole(value))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetFieldValues", lambda handle, fields: made.fields(handle, fields))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", made.handle)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    return made


def test_gpus_are_told_in_the_units_of_records(driver):
    gpus = Gpus([ONE, TWO], first_rank=8)
    first, second = gpus.read()
    assert (first["rank"], first["uuid"], first["index"]) == (8, ONE, 4)
    assert (second["rank"], second["uuid"], second["index"]) == (9, TWO, 6)
    assert (first["energy_j"], first["power_w"], first["busy"]) == (1500.0, 650.5, 0.97)
    assert first["power_limit_w"] == 700.0
    assert (first["clock_sm_mhz"], first["temperature_c"], first["memory_bytes"]) == (1755, 61, 42)
    assert first["nvlink_tx_bytes"] == (2**33 + 138) * 1024
    assert first["nvlink_rx_bytes"] == (2**33 + 139) * 1024
    assert first["errors"]["nvlink_replay"] == 2**33 + 161
    assert first["errors"]["nvlink_crc"] is None, "this driver does not have it"
    assert first["errors"]["remapped_rows"] == 3
    assert first["throttling"] == ["hw_thermal_slowdown"], "a person's own clock setting is no throttling"
    assert gpus.problems == set()


def test_idle_clocks_and_a_persons_settings_are_no_throttling():
    settings = (
        pynvml.nvmlClocksThrottleReasonGpuIdle
        | pynvml.nvmlClocksThrottleReasonApplicationsClocksSetting
        | pynvml.nvmlClocksThrottleReasonDisplayClockSetting
    )
    assert throttling(settings) == []
    assert throttling(settings | pynvml.nvmlClocksThrottleReasonSwPowerCap) == ["sw_power_cap"]


def test_pcie_is_asked_of_one_gpu_a_poll_in_turn(driver):
    gpus = Gpus([ONE, TWO], first_rank=0)
    told = [[gpu["pcie_tx_bytes_per_s"] for gpu in gpus.read()] for _ in range(3)]
    assert told == [[3072, None], [None, 3072], [3072, None]]
    assert len(driver.asked) == 6


def test_a_slice_of_a_gpu_has_nulls_and_no_warning(driver, tmp_path):
    told = polls(tmp_path, 0.0, 1000.0, [SLICE])
    assert told[0]["warning"] is None
    (gpu,) = told[0]["gpus"]
    assert (gpu["uuid"], gpu["power_w"], gpu["energy_j"], gpu["throttling"], gpu["index"]) == (SLICE, *[None] * 4)
    assert gpu["power_limit_w"] is None


def test_a_gpu_that_is_lost_in_the_middle_ends_nothing(driver, tmp_path):
    path = node_file(tmp_path, 0, "here")
    writer = EventWriter(path, 0)
    running = Telemetry(writer, "here", 0, [ONE, TWO], 0, 0.1)
    time.sleep(0.25)
    driver.lost.add("GPU-" + TWO)
    time.sleep(0.4)
    running.stop()
    writer.close()
    told = [json.loads(line) for line in path.read_text().splitlines()]
    assert told[0]["gpus"][1]["power_w"] == 650.5
    assert told[-1]["gpus"][1]["power_w"] is None
    assert all(record["gpus"][0]["power_w"] == 650.5 for record in told)
    assert [record["warning"] for record in told if record["warning"]] == ["GPU is lost"], "once"


def test_gpus_without_their_driver_are_null_with_the_reason(tmp_path, monkeypatch):
    def absent():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", absent)
    first, last = polls(tmp_path, 0.0, 1000.0, [ONE])
    assert first["gpus"] is None and "NVML Shared Library Not Found" in first["warning"]
    assert last["gpus"] is None and last["warning"] is None


def test_a_driver_that_hangs_does_not_hold_up_the_end(tmp_path, driver, monkeypatch):
    monkeypatch.setattr(telemetry, "PATIENCE_S", 0.2)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: time.sleep(3))
    begin = time.monotonic()
    Telemetry(EventWriter(node_file(tmp_path, 0, "here"), 0), "here", 0, [ONE], 0, 0.1).stop()
    assert time.monotonic() - begin < 2


def test_field_values_are_read_by_their_type():
    from harness.recorder.nvml import number

    value = pynvml.c_nvmlFieldValue_t()
    ctypes.memset(ctypes.byref(value.value), 0xFF, 8)
    value.value.uiVal, value.valueType = 7, pynvml.NVML_VALUE_TYPE_UNSIGNED_INT
    assert number(value) == 7, "not what lies beside it"
