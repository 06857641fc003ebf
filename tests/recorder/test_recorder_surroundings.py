"""What NCCL says at its start, on lines that an H200 host logged (NCCL 2.28.9), what nvidia-smi is asked, and cores."""

import os

import pytest

from harness.recorder.surroundings import Cores, affinity, cores_here, nccl_start, nvidia_smi, ranges, versions

LOG = """\
vm:423:423 [0] NCCL INFO cudaDriverVersion 13000
vm:423:423 [0] NCCL INFO NCCL version 2.28.9+cuda13.0
vm:423:423 [0] NCCL INFO NET/Socket : Using [0]eth0:192.0.2.2<0>
vm:423:423 [0] NCCL INFO Using network Socket
vm:2811:2811 [1] NCCL INFO Channel 22/0 : 1[1] -> 0[0] via P2P/CUMEM
vm:2811:2811 [1] NCCL INFO Channel 23/0 : 1[1] -> 0[0] via P2P/CUMEM
vm:2811:2811 [1] NCCL INFO Connected all rings, use ring PXN 0 GDR 1
"""


def test_version_transports_and_network_are_read_from_the_logs(tmp_path):
    (tmp_path / "nccl.vm.423.log").write_text(LOG)
    said = nccl_start(tmp_path, {"NCCL_ALGO": "Ring", "HOME": "/root"})
    assert said == {
        "version": "2.28.9+cuda13.0",
        "transports": ["P2P/CUMEM"],
        "network": "Socket",
        "env": {"NCCL_ALGO": "Ring"},
    }


def test_without_a_log_nothing_is_said(tmp_path):
    said = nccl_start(tmp_path, {})
    assert (said["version"], said["transports"], said["network"], said["env"]) == (None, None, None, {})


def test_what_nvidia_smi_prints_is_plain_text_and_null_where_it_is_missing(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nprintf '\\033[4mGPU0\\033[0m NV18\\n'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert nvidia_smi("topo", "-m") == "GPU0 NV18"
    monkeypatch.setenv("PATH", "/nonexistent")
    assert nvidia_smi("topo", "-m") is None


def test_versions_name_torch_and_leave_out_what_is_not_there():
    assert versions()["torch"]
    assert set(versions()) == {"python", "torch", "cuda", "nccl", "driver"}


@pytest.mark.parametrize(
    ("numbers", "written"),
    [
        ({0}, "0"),
        ({0, 1}, "0-1"),
        ({3, 1, 0}, "0-1,3"),
        ({*range(16), *range(32, 48)}, "0-15,32-47"),
        ({0, 2, 4}, "0,2,4"),
    ],
)
def test_cores_are_written_as_ranges(numbers, written):
    assert ranges(numbers) == written


def test_this_process_tells_the_cores_that_it_may_run_on():
    allowed = os.sched_getaffinity(0)
    one = min(allowed)
    try:
        os.sched_setaffinity(0, {one})
        assert cores_here({"OMP_NUM_THREADS": "4"}) == Cores(1, str(one), "4")
    finally:
        os.sched_setaffinity(0, allowed)
    assert cores_here({}) == Cores(len(allowed), ranges(allowed), None)


def test_ranks_of_a_host_that_have_the_same_cores_share_an_entry():
    low, high = Cores(16, "0-15", "8"), Cores(16, "16-31", "8")
    assert affinity(8, [low, low, high, low]) == [
        {"ranks": "8-9,11", "cores": 16, "mask": "0-15", "omp_num_threads": "8"},
        {"ranks": "10", "cores": 16, "mask": "16-31", "omp_num_threads": "8"},
    ]
