"""Which devices CUDA_VISIBLE_DEVICES leaves."""

import pytest

from launch.devices import machine, visible

UUIDS = ["GPU-aaaa", "GPU-abbb", "GPU-cccc", "MIG-dddd"]


@pytest.mark.parametrize(
    ("chosen", "left"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("-1", []),
        ("2", [2]),
        ("3,1", [3, 1]),
        ("0, 1", [0, 1]),
        ("0,9,1", [0]),
        ("GPU-cccc,GPU-ab", [2, 1]),
        ("MIG-dddd", [3]),
        ("NoDevFiles", []),
    ],
)
def test_visible_devices(chosen: str | None, left: list[int]) -> None:
    assert visible(UUIDS, chosen) == left


def test_this_machine_has_cores_and_memory() -> None:
    here = machine()
    assert here.cores >= 1
    assert here.memory_bytes > 2**28
    assert (here.driver is None) == (not here.gpus) or here.gpus == ()
