"""What the speed of a point depends on beside its scale: a flat mapping from field to value, null where not known.

Fields are the keys of the configuration that say what was asked for, and what the running point recorded of itself.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from harness.analysis.environment import in_force
from harness.analysis.read import Point, Record
from harness.analysis.steps import latest
from harness.analysis.summary import Row
from harness.config import Config
from harness.fields import walk
from harness.plan.workload import concerns

Value = str | int | float | bool | None
Fingerprint = dict[str, Value]

# Scale and repeat, and what names neither the work nor how it is done.
NOT_ASKED = (
    "study",
    "root",
    "nodes",
    "gpus_per_node",
    "repeat",
    "repeats",
    "rerun",
    "launcher",
    "record",
    "hardware",
)
# What a step computes; all else that can be asked for is how it does so.
WORK = ("model", "precision", "scaling", "seq_len", "data.kind", "optimizer.state", "optimizer.grad_clip")


@dataclass(frozen=True)
class Field:
    """Something that a point recorded of itself: what it is called, and what a difference in it means.

    apart: points of one curve must not differ in it. work: points that differ in it did different work. one_scale: it
    follows from the scale, and can be compared between points of the same one only. keys: the configuration's keys
    that ask for it.
    """

    title: str
    apart: bool = True
    work: bool = False
    one_scale: bool = False
    keys: tuple[str, ...] = ()


TYPES = ("parameters", "compute", "reduce", "accumulate", "master", "moments")
RECORDED = {
    "tokens_per_step": Field("tokens per step", work=True, keys=("seq_len", "local_batch", "global_batch")),
    "parameters": Field("number of parameters", work=True),
    **{f"type_{name}": Field(f"type of {name}", work=True) for name in TYPES},
    "data_sha256": Field("data's sha256"),
    "backend": Field("backend"),
    "device_name": Field("device"),
    "power_cap": Field("power cap"),
    "gpu_links": Field("GPU links"),
    "nccl_network": Field("NCCL network"),
    "nccl_transports": Field("NCCL transports", apart=False, one_scale=True),
    "nccl_ambient": Field("ambient NCCL variables"),
    "nccl_files": Field("hidden NCCL files"),
    "nccl_version": Field("NCCL"),
    "driver": Field("driver"),
    "cuda": Field("CUDA"),
    "torch": Field("torch"),
    "processor": Field("processor"),
    "cores": Field("cores of a host"),
    "threads": Field("threads of a rank"),
    "host_processor": Field("processor of a GPU's host", apart=False),
    "host_cores": Field("cores of a GPU's host", apart=False),
    "git_sha": Field("commit", apart=False),
    "git_dirty": Field("uncommitted changes", apart=False),
}
APART = tuple(name for name, field in RECORDED.items() if field.apart)


def asked(config: Config) -> Fingerprint:
    """The configuration's keys that say what is done and how, dotted; null where the workload has no use for one."""
    found: Fingerprint = {}
    for key, _ in walk():
        if key.split(".")[0] in NOT_ASKED:
            continue
        value: object = config
        for part in key.split("."):
            value = getattr(value, part)
        found[key] = _plain(value) if concerns(config, key) else None
    return found


def recorded(point: Point, row: Row) -> Fingerprint:
    """What a point says of itself, by the names of RECORDED; row: its own, of harness.analysis.summary."""
    start = latest(point.events, "start") or {}
    types, nccl = start.get("types") or {}, start.get("nccl") or {}
    same = ("backend", "device_name", "power_cap", "nccl_version", "driver", "cuda", "torch", "git_sha", "git_dirty")
    # a GPU's host decides only steps that it can't issue fast enough
    on_cpu = ("processor", "cores", "threads") if start.get("device") == "cpu" else ()
    host = {f"host_{name}": row.get(name) for name in ("processor", "cores")} if start.get("device") == "cuda" else {}
    found = {
        "tokens_per_step": _tokens(row),
        "parameters": row.get("parameters"),
        **{f"type_{name}": types.get(name) for name in TYPES},
        "data_sha256": (start.get("data") or {}).get("sha256"),
        "gpu_links": gpu_links(start.get("topology")),
        "nccl_network": nccl.get("network"),
        "nccl_transports": transports(nccl.get("transports")),
        **_environment(point.environment),
        **{name: row.get(name) for name in (*same, *on_cpu)},
        **host,
    }
    return {name: _plain(found.get(name)) for name in RECORDED}


def is_work(name: str) -> bool:
    """Whether points that differ in a field, asked or recorded, did different work."""
    if name in RECORDED:
        return RECORDED[name].work
    return not is_name(name) and (name in WORK or name.split(".")[0] in WORK)


def is_name(name: str) -> bool:
    """Whether a field says no more than what a group's option is called."""
    return name.endswith(".name")


def title(name: str) -> str:
    """What a field is called; the configuration's keys by themselves."""
    return RECORDED[name].title if name in RECORDED else name


def text(value: Value) -> str:
    """A value as a person reads it."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value) or "none"


def gpu_links(topology: str | None) -> str | None:
    """How the GPUs of the first host are linked: `NV18`, or `PCIe`; None where fewer than two are seen.

    topology: what `nvidia-smi topo -m` printed. Which kind of PCIe path two GPUs have follows from which two they are.
    """
    lines = [line.split() for line in (topology or "").splitlines() if re.match(r"GPU\d+\s", line)]
    count = len(lines)
    between = {cell for cells in lines for cell in cells[1 : count + 1]} - {"X"}
    if not between:
        return None
    return " ".join(sorted(cell for cell in between if cell.startswith("NV"))) or "PCIe"


def transports(told: list[str] | None) -> str | None:
    """NCCL's ways from rank to rank without the numbers of devices: `NET/IB/GDRDMA P2P/CUMEM`."""
    return " ".join(sorted({re.sub(r"/\d+(\(\d+\))?", "", way) for way in told})) if told else None


def _tokens(row: Row) -> str | None:
    """What is held fixed: tokens of a step for each rank (weak scaling), or over all of them (strong)."""
    weak = row["scaling"] == "weak"
    tokens = row.get("tokens_per_gpu_step" if weak else "tokens_per_step")
    return None if tokens is None else f"{tokens:,.0f}" + " per rank" * weak


def _environment(environment: Record) -> Fingerprint:
    """NCCL's settings that came with the machine and were in force: variables, and files by their content's hash."""
    if not environment:
        return {}
    there = [file for file in environment["files"] if file["exists"]]
    files = {(Path(file["path"]).name, file["sha256"] or "unreadable") for file in there}
    return {
        "nccl_ambient": " ".join(f"{name}={value}" for name, value in in_force(environment).items()),
        "nccl_files": " ".join(f"{name}:{sha256[:12]}" for name, sha256 in sorted(files)),
    }


def _plain(value: object) -> Value:
    """A key's value, whatever is no single one as text."""
    if isinstance(value, dict):
        return " ".join(f"{name}={part}" for name, part in sorted(value.items()))
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
