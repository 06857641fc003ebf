"""What this machine has: GPUs that a process started here would see, cores and memory; asked without torch."""

import importlib.metadata
import os
from dataclasses import dataclass

import psutil
import pynvml


@dataclass(frozen=True)
class Gpu:
    """One visible GPU, as its driver reports it."""

    name: str
    memory_bytes: int


@dataclass(frozen=True)
class Machine:
    """This machine, as a point's processes will find it."""

    gpus: tuple[Gpu, ...]
    driver: str | None
    cores: int
    memory_bytes: int


def machine() -> Machine:
    """Look at this machine."""
    gpus, driver = nvidia()
    return Machine(gpus, driver, len(os.sched_getaffinity(0)), psutil.virtual_memory().total)


def nvidia() -> tuple[tuple[Gpu, ...], str | None]:
    """The visible NVIDIA GPUs and their driver; none where there is no driver, or no torch that could use them."""
    if not torch_has_cuda():
        return (), None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return (), None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        uuids = [str(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
        gpus = tuple(
            Gpu(str(pynvml.nvmlDeviceGetName(handles[i])), int(pynvml.nvmlDeviceGetMemoryInfo(handles[i]).total))
            for i in visible(uuids, os.environ.get("CUDA_VISIBLE_DEVICES"))
        )
        return gpus, str(pynvml.nvmlSystemGetDriverVersion())
    finally:
        pynvml.nvmlShutdown()


def torch_has_cuda() -> bool:
    """Whether the installed torch is more than a build for CPUs, by its version alone."""
    try:
        return not importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return False


def visible(uuids: list[str], chosen: str | None) -> list[int]:
    """The devices that CUDA_VISIBLE_DEVICES leaves: numbers or beginnings of UUIDs, up to the first that is neither."""
    if chosen is None:
        return list(range(len(uuids)))
    found: list[int] = []
    for word in (part.strip() for part in chosen.split(",")):
        if word.isdecimal() and int(word) < len(uuids):
            found.append(int(word))
        elif word and (matches := [i for i, uuid in enumerate(uuids) if uuid.startswith(word)]):
            found.append(matches[0])
        else:
            break
    return found
