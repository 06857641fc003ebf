"""A point's environment variables: what was there, what was asked for, what the harness adds.

Nothing else of the harness reads or writes environment variables, except a rank and the W&B mirror at their very start.
Whole environments hold secrets, so what is recorded comes from an allow-list.
"""

import hashlib
import json
import math
import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.plan.nccl_variable import LABELS

MARKER = "HARNESS_POINT"
HIDDEN = "***"
SOURCE = Path(__file__).resolve().parent.parent
FEWEST_ENTRIES = 2000  # PyTorch's own default for the flight recorder's ring
FEWEST_ENTRIES_ON_CPUS = 256  # there a window of gloo's reads the whole ring between two steps
SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2"  # torchrun dies of any other without a word to its ranks
SHUTDOWN_S = 30  # PyTorch's own default
STEPS_IN_RING = 8  # the recorder reads a step that lies five steps back
# What a step frees stays with its process. Else glibc gives it back and the kernel clears the same pages in each step,
# two thousand or three of them by how the heap happens to lie: 2 % of a step of model=tiny, and its largest noise.
KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
RECORDED = re.compile(
    r"CUDA_(VISIBLE_DEVICES|DEVICE_ORDER|DEVICE_MAX_CONNECTIONS|LAUNCH_BLOCKING|MODULE_LOADING)"
    r"|OMP_\w+|(MKL|OPENBLAS)_NUM_THREADS|TORCH_\w+|PYTORCH_\w*ALLOC_CONF|GLOO_SOCKET_IFNAME|FI_\w+|UCX_\w+|LD_PRELOAD"
    r"|PYTHON(DONTWRITEBYTECODE|PYCACHEPREFIX)"
    r"|SLURM_(JOB_ID|JOB_NAME|JOB_PARTITION|JOB_NUM_NODES|NNODES|NODELIST|JOB_NODELIST|PROCID|NODEID|RESTART_COUNT)"
)
# an InfiniBand partition key (NCCL_IB_PKEY, UCX_IB_PKEY) is a number that all hosts of a fabric know
SECRET = re.compile(r"(?<!ib_p)key|token|secret|(?<!by)pass|credential|auth|psk", re.IGNORECASE)
# what services' keys look like, tokens, private keys, and addresses with a password in them or in their query,
# whatever the name they stand under
KEY = re.compile(
    r"\b(?:hf_|gh[oprsu]_|github_pat_|glpat-|xox[abeprs]-|sk-|AKIA|ASIA|wandb_v1_)[\w-]{16,}|\w+://[^/\s]*:[^/\s]*@"
    r"|\beyJ[\w-]{6,}\.[\w-]+\.[\w-]*|-----BEGIN [A-Z ]*PRIVATE KEY-----|\b[Bb]earer\s+[\w.~+/-]{16,}"
    r"|[?&;](?i:[\w.-]*(?:key|token|secret|pass\w*|sig|signature|credential))=[^&\s]+"
)


@dataclass(frozen=True)
class Environment:
    """A point's variables by where they come from; `variables` is the whole that its processes get, never written."""

    requested: dict[str, str]
    ambient: dict[str, str]
    cleared: list[str]
    added: dict[str, str]
    variables: dict[str, str]

    @property
    def effective(self) -> dict[str, str]:
        """The NCCL variables that the processes see."""
        return {name: value for name, value in self.variables.items() if name.startswith("NCCL_")}

    def document(self) -> dict[str, Any]:
        """What env.json says."""
        return {
            "schema": 1,
            "kind": "environment",
            "time": time.time(),
            "requested": hidden(self.requested),
            "ambient": hidden(self.ambient),
            "cleared": self.cleared,
            "added": self.added,
            "effective": hidden(self.effective),
            "files": [described(path) for path in hidden_files(self.variables)],
            "other": {
                name: value
                for name, value in sorted(self.variables.items())
                if RECORDED.fullmatch(name) and not secret(name, value) and name not in self.added
            },
        }


def build(
    requested: Mapping[str, Any],
    clear: bool,
    run_dir: Path,
    logs: Path,
    gpus: int,
    calls_per_step: int,
    grace_s: float = 0.0,
) -> Environment:
    """The environment of a point's processes: the caller's own, what the point asks for, and what measuring needs.

    What measuring needs wins over what was there, and yields to what is asked for. `gpus` is the number of GPUs of a
    host, 0 where ranks are CPU processes; `calls_per_step` is 0 where no steps of training are measured. `grace_s` is
    how long ranks may take to end when they are told to.
    """
    inherited = dict(os.environ)
    found = ambient()
    cleared = list(found) if clear else []
    for name in cleared:
        del inherited[name]
    wanted = {name: text(value) for name, value in requested.items()}
    secrets = any(secret(name, value) for name, value in inherited.items() if name.startswith("NCCL_"))
    entries = max(FEWEST_ENTRIES if gpus else FEWEST_ENTRIES_ON_CPUS, STEPS_IN_RING * calls_per_step)
    added = {
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(threads(gpus)),
        # torchrun's --signals-to-handle and --shutdown-timeout, in a form that a version without them passes over
        "PET_SIGNALS_TO_HANDLE": SIGNALS,
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(max(SHUTDOWN_S, math.ceil(grace_s))),
        "TORCH_FR_BUFFER_SIZE": str(entries),
    }
    if gpus:
        added |= {
            # two events around every collective, which where nothing else runs would be a part of what is timed
            **({"TORCH_NCCL_ENABLE_TIMING": "1"} if calls_per_step else {}),
            "NCCL_DEBUG": "INFO",
            # NCCL's log would tell every variable that it reads
            "NCCL_DEBUG_SUBSYS": "INIT" if secrets else "INIT,ENV",
            "NCCL_DEBUG_FILE": str(logs / "nccl.%h.%p.log"),
        }
    else:
        added |= KEPT_MEMORY
    added |= {"PYTHONPATH": import_path(), MARKER: str(run_dir)}
    added = {name: value for name, value in added.items() if name not in wanted}
    return Environment(wanted, found, cleared, added, {**inherited, **added, **wanted})


def threads(gpus: int) -> int:
    """A rank's compute threads on this host, the same at every scale: a GPU's share of the cores, or one on CPU."""
    return max(1, len(os.sched_getaffinity(0)) // gpus) if gpus else 1


def changed(document: Mapping[str, Any], variables: Mapping[str, str]) -> list[str]:
    """What is otherwise in `variables` than env.json says of NCCL's variables, a clause for each.

    Of those that hold a secret only the presence is compared, and no value is shown.
    """
    asked = document["effective"]
    found = hidden({name: value for name, value in variables.items() if name.startswith("NCCL_")})
    return [
        difference(name, asked.get(name), found.get(name))
        for name in sorted((asked.keys() | found.keys()) - LABELS)
        if asked.get(name) != found.get(name)
    ]


def difference(name: str, asked: str | None, found: str | None) -> str:
    """How a variable is and how it should be, on one line whatever the values hold."""
    there = "not set" if found is None else "set" if found == HIDDEN else json.dumps(found)
    wanted = "none" if asked is None else "one" if asked == HIDDEN else json.dumps(asked)
    return f"{name} is {there} on this rank, where {wanted} was asked for"


def ambient() -> dict[str, str]:
    """The NCCL variables that are set where the harness starts."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith("NCCL_")}


def recompiles() -> bool:
    """Whether every process that is started here compiles PyTorch's Python again, for want of files to keep it in."""
    torch = find_spec("torch")
    return sys.dont_write_bytecode and not (torch and torch.cached and Path(torch.cached).exists())


def secret(name: str, value: Any) -> bool:
    """Whether a variable's name says that it holds a secret, or its value looks like one."""
    return bool(SECRET.search(name) or KEY.search(str(value)))


def hidden(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables with the values of those that hold a secret left out."""
    return {name: HIDDEN if secret(name, value) else value for name, value in variables.items()}


def text(value: Any) -> str:
    """A configured value as a variable's text; true and false are 1 and 0."""
    return str(int(value)) if isinstance(value, bool) else str(value)


def hidden_files(variables: Mapping[str, str]) -> list[Path]:
    """The files from which NCCL reads variables that no environment shows."""
    chosen = variables.get("NCCL_CONF_FILE")
    return [Path("/etc/nccl.conf"), Path(chosen) if chosen else Path.home() / ".nccl.conf"]


def described(path: Path) -> dict[str, Any]:
    """A hidden file's existence, hash and lines, without what is secret in them."""
    try:
        content = path.read_bytes()
    except OSError:
        return {"path": str(path), "exists": path.exists(), "sha256": None, "lines": None}
    lines = masked(content.decode(errors="replace").splitlines())
    return {"path": str(path), "exists": True, "sha256": hashlib.sha256(content).hexdigest(), "lines": lines}


def job_id() -> str | None:
    """The batch job that this process belongs to."""
    return os.environ.get("SLURM_JOB_ID")


def requeued() -> bool:
    """Whether this process's batch job has been started before."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def masked(words: list[str]) -> list[str]:
    """A command line without what looks like a secret."""
    return [mask(word) for word in words]


def mask(word: str) -> str:
    """`key=***` for a key that names a secret; addresses lose their user and password, long hexadecimal words go."""
    key, sign, _ = word.partition("=")
    if sign and SECRET.search(key):
        return f"{key}={HIDDEN}"
    return re.sub(r"\b[0-9a-fA-F]{32,}\b", HIDDEN, KEY.sub(HIDDEN, without_credentials(word)))


def without_credentials(address: str) -> str:
    """An address without user, password and query; a password may have an @ of its own."""
    return re.sub(r"(\w+://[^?\s]*)\?\S*", r"\1", re.sub(r"(\w+://)[^/\s]*@", r"\1", address))


def own() -> dict[str, str]:
    """The environment of a helper that runs this same code beside a point."""
    return {**os.environ, "PYTHONPATH": import_path()}


def import_path() -> str:
    """PYTHONPATH with this source tree first, so that helpers and ranks run the controller's own code."""
    return os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH"))))
