import pytest
from plan_configs import group

from harness.plan.hardware import DEVICES, REPORTED_NAMES, find, named

TERA = 1e12


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("NVIDIA A100-SXM4-40GB", "a100_40g"),
        ("A100-SXM4-40GB", "a100_40g"),
        ("NVIDIA A100-PCIE-40GB", "a100_40g"),
        ("NVIDIA A100-SXM4-80GB", "a100_80g"),
        ("NVIDIA A100 80GB PCIe", "a100_80g"),
        ("NVIDIA H100 80GB HBM3", "h100_sxm"),
        ("NVIDIA H100 PCIe", "h100_pcie"),
        ("NVIDIA H100 NVL", "h100_nvl"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H200 NVL", "h200_nvl"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA B300 SXM6 AC", "b300"),
        ("NVIDIA GB200", "gb200"),
        ("NVIDIA GB300", "gb300"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("AMD Instinct MI250X", "mi250x"),
        ("AMD Instinct MI300X", "mi300x"),
        ("AMD Instinct MI355X", "mi355x"),
    ],
)
def test_a_device_is_found_by_the_name_that_the_driver_reports(reported: str, name: str) -> None:
    found = find(reported)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    "reported",
    [
        "NVIDIA H200 MIG 1g.18gb",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GH200 144G HBM3e",
        "NVIDIA L40",
        "NVIDIA H20",
        "NVIDIA GeForce RTX 4090",
        "AMD Instinct MI325X",
        "cpu",
        "",
    ],
)
def test_an_unknown_device_is_not_guessed(reported: str) -> None:
    assert find(reported) is None


@pytest.mark.parametrize(
    ("name", "compute", "tera"),
    [
        ("a100_80g", "bf16", 312),
        ("a100_80g", "fp32", 19.5),
        ("h100_sxm", "bf16", 989),
        ("h100_sxm", "fp32", 67),
        ("h100_pcie", "bf16", 756),
        ("h200", "bf16", 989),
        ("h200_nvl", "bf16", 835.5),
        ("gh200", "bf16", 989),
        ("b200", "bf16", 2250),
        ("b300", "bf16", 2250),
        ("gb200", "bf16", 2500),
        ("gb300", "fp8", 5000),
        ("l4", "bf16", 121),
        ("mi250x", "bf16", 191.5),
        ("mi300x", "bf16", 1307.4),
        ("mi355x", "bf16", 2500),
    ],
)
def test_peaks_are_the_published_dense_ones(name: str, compute: str, tera: float) -> None:
    assert named(name).peaks[compute] == tera * TERA


@pytest.mark.parametrize(
    ("name", "gib"),
    [("h200_nvl", 140.4), ("gh200", 95.6), ("b300", 268.6), ("gb300", 277.5), ("mi250x", 64.0), ("mi355x", 288.0)],
)
def test_memory_is_what_the_driver_reports(name: str, gib: float) -> None:
    assert named(name).memory_bytes / 2**30 == pytest.approx(gib, abs=0.05)


def test_table_conf_and_reported_names_agree() -> None:
    choices = group("hardware")
    assert {name: fields["name"] for name, fields in choices.items()} == {name: name for name in [*DEVICES, "auto"]}
    assert all(set(fields) <= {"name", "gpus_per_node"} for fields in choices.values())
    assert set(REPORTED_NAMES.values()) == set(DEVICES)


@pytest.mark.parametrize("device", DEVICES.values(), ids=str)
def test_every_device_has_a_source_and_the_peaks_of_both_precisions(device) -> None:
    assert device.source
    assert 0 < device.peaks["fp32"] < device.peaks["bf16"]


def test_a_misspelt_machine_is_named_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match=r"hardware.name=h100_smx: .*did you mean 'h100_sxm'"):
        named("h100_smx")
