"""Counters of ports and interfaces, from a constructed tree that stands for /sys/class: this machine has no adapter."""

from pathlib import Path

import pytest

from harness.recorder.counters import interfaces, ports
from harness.recorder.processor import Processor


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An mlx5 adapter, one like EFA that has hardware counters only, a device, a bridge and the loopback."""
    mlx5 = tmp_path / "infiniband/mlx5_0/ports/1"
    write(mlx5 / "state", "4: ACTIVE")
    write(mlx5 / "rate", "400 Gb/sec (4X NDR)")
    for name, value in {"port_xmit_data": 1000, "port_rcv_data": 2000, "symbol_error": 3, "port_xmit_wait": 77}.items():
        write(mlx5 / "counters" / name, value)
    write(mlx5 / "hw_counters/packet_seq_err", 5)
    write(mlx5 / "hw_counters/np_cnp_sent", 9)
    efa = tmp_path / "infiniband/rdmap16s27/ports/1"
    write(efa / "state", "4: ACTIVE")
    write(efa / "hw_counters/retrans_timeout_events", 2)
    for name, device in (("eth0", True), ("br0", False), ("lo", False)):
        for counter in ("tx_bytes", "rx_bytes", "rx_errors", "tx_errors", "rx_dropped", "tx_dropped"):
            write(tmp_path / f"net/{name}/statistics/{counter}", 11)
        write(tmp_path / f"net/{name}/operstate", "up")
        if device:
            (tmp_path / f"net/{name}/device").mkdir()
            write(tmp_path / f"net/{name}/speed", 25000)
    write(tmp_path / "net/bonding_masters", "bond0")
    return tmp_path


def test_a_port_tells_bytes_rate_and_errors(root):
    first, _ = ports(root)
    assert (first["device"], first["port"], first["state"]) == ("mlx5_0", 1, "ACTIVE")
    assert first["rate_bytes_per_s"] == 50e9
    assert (first["tx_bytes"], first["rx_bytes"]) == (4000, 8000), "the kernel counts words of four bytes"
    assert (first["errors"]["symbol_error"], first["errors"]["packet_seq_err"]) == (3, 5)
    assert first["errors"]["link_downed"] is None
    assert (first["congestion"]["port_xmit_wait"], first["congestion"]["np_cnp_sent"]) == (77, 9)


def test_a_port_without_counters_has_nulls(root):
    _, efa = ports(root)
    assert efa["device"] == "rdmap16s27"
    assert (efa["tx_bytes"], efa["rx_bytes"], efa["rate_bytes_per_s"]) == (None, None, None)
    assert efa["errors"]["retrans_timeout_events"] == 2
    assert {name for name, count in efa["errors"].items() if count is not None} == {"retrans_timeout_events"}


def test_interfaces_are_those_that_are_devices(root):
    (eth,) = interfaces(root)
    assert (eth["name"], eth["state"], eth["rate_bytes_per_s"]) == ("eth0", "up", 3.125e9)
    assert (eth["tx_bytes"], eth["errors"]["rx_errors"], eth["drops"]["rx_dropped"]) == (11, 11, 11)
    assert eth["errors"]["rx_missed_errors"] is None


def test_where_no_interface_is_a_device_all_but_the_loopback_are_told(root):
    (root / "net/eth0/device").rmdir()
    assert [interface["name"] for interface in interfaces(root)] == ["br0", "eth0"]


def test_a_link_that_is_down_has_no_rate(root):
    write(root / "net/eth0/speed", -1)
    assert interfaces(root)[0]["rate_bytes_per_s"] is None


def test_a_node_without_adapters_has_none(tmp_path):
    assert (ports(tmp_path), interfaces(tmp_path)) == ([], [])


def test_the_clock_is_the_mean_of_cores_that_have_one(tmp_path):
    assert Processor(tmp_path).read()["clock_mhz"] is None
    write(tmp_path / "cpu0/cpufreq/scaling_cur_freq", 2_400_000)
    assert Processor(tmp_path).read()["clock_mhz"] == 2400.0
