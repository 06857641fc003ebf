"""What Linux tells of a node's network: InfiniBand and RoCE ports, and interfaces."""

import os
from pathlib import Path
from typing import Any

SYS = Path("/sys/class")

WORD = 4
"""Bytes in which a port counts its data."""

PORT_ERRORS = (
    "symbol_error",
    "link_error_recovery",
    "link_downed",
    "port_rcv_errors",
    "port_rcv_remote_physical_errors",
    "port_rcv_constraint_errors",
    "port_xmit_constraint_errors",
    "port_xmit_discards",
    "local_link_integrity_errors",
    "excessive_buffer_overrun_errors",
)
HARDWARE_ERRORS = (
    "local_ack_timeout_err",
    "packet_seq_err",
    "rnr_nak_retry_err",
    "out_of_buffer",
    "rx_icrc_encapsulated",
    "retrans_timeout_events",
    "unresponsive_remote_events",
)
"""Of mlx5 and, the last two, of EFA: what was lost or came too late."""

CONGESTION = ("port_xmit_wait", "out_of_sequence", "np_ecn_marked_roce_packets", "np_cnp_sent", "rp_cnp_handled")
"""What also rises on a network that is well and busy."""

INTERFACE_ERRORS = ("rx_errors", "tx_errors", "rx_missed_errors")
DROPS = ("rx_dropped", "tx_dropped")
"""Kept apart: Linux also counts here what nobody on the host had asked for."""


def ports(root: Path = SYS) -> list[dict[str, Any]]:
    """The ports of the node's InfiniBand and RoCE adapters; counters are null where an adapter lacks them."""
    return [_port(port) for port in sorted((root / "infiniband").glob("*/ports/*"))]


def interfaces(root: Path = SYS) -> list[dict[str, Any]]:
    """The network interfaces that are devices; where none is, as in a container, all but the loopback."""
    found = [path for path in sorted((root / "net").glob("*")) if (path / "statistics").is_dir()]
    devices = [path for path in found if (path / "device").exists()]
    return [_interface(path) for path in devices or found if path.name != "lo"]


def _port(port: Path) -> dict[str, Any]:
    counters, hardware = port / "counters", port / "hw_counters"
    sent, received = _count(counters / "port_xmit_data"), _count(counters / "port_rcv_data")
    state, rate = _text(port / "state"), _text(port / "rate")
    return {
        "device": port.parent.parent.name,
        "port": int(port.name),
        # as in "4: ACTIVE" and "400 Gb/sec (4X NDR)"
        "state": state and state.split(":")[-1].strip(),
        "rate_bytes_per_s": float(rate.split()[0]) * 1e9 / 8 if rate else None,
        "tx_bytes": None if sent is None else sent * WORD,
        "rx_bytes": None if received is None else received * WORD,
        "errors": {
            **{name: _count(counters / name) for name in PORT_ERRORS},
            **{name: _count(hardware / name) for name in HARDWARE_ERRORS},
        },
        "congestion": {
            name: _count((counters if name == "port_xmit_wait" else hardware) / name) for name in CONGESTION
        },
    }


def _interface(path: Path) -> dict[str, Any]:
    def count(name: str) -> int | None:
        return _count(path / "statistics" / name)

    megabits = _count(path / "speed")
    return {
        "name": path.name,
        "state": _text(path / "operstate"),
        # a link that is down or has no speed of its own says -1
        "rate_bytes_per_s": megabits * 1e6 / 8 if megabits is not None and megabits > 0 else None,
        "tx_bytes": count("tx_bytes"),
        "rx_bytes": count("rx_bytes"),
        "errors": {name: count(name) for name in INTERFACE_ERRORS},
        "drops": {name: count(name) for name in DROPS},
    }


def _count(path: Path) -> int | None:
    text = _text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def _text(path: Path) -> str | None:
    """A small file's line, or None where it is not there or cannot be read, as the speed of a link that is down."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return os.read(descriptor, 256).decode(errors="replace").strip() or None
    except OSError:
        return None
    finally:
        os.close(descriptor)
