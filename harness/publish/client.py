"""The W&B client, opened for one run: online where that works, else offline."""

import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import wandb

from harness.analysis.read import Point
from harness.files import read_bytes
from harness.plan.workload import times_collectives, titles
from harness.publish.history import ALONE_AXIS, ALONE_KEYS, AXIS, KEYS
from harness.publish.state import State

INIT_S = 20
FINISH_S = 20
LONGEST_ID = 64


def run_id(point: Point) -> str:
    """The W&B run id of a point: its slug, and a hash that tells its study and its run directory from others.

    Provenance is in the hash, or the same study on two machines, or a point run again, would add to one run.
    """
    provenance = point.path / "provenance.json"
    digest = hashlib.sha256(f"{point.config.study}/{point.slug}\n".encode())
    digest.update(read_bytes(provenance) if provenance.exists() else b"")
    return f"{point.slug[: LONGEST_ID - 9]}-{digest.hexdigest()[:8]}"


def open_run(folder: Path, state: State, fallback: bool, finish_s: int = FINISH_S, **about: Any) -> Any:
    """Open a run beside what it is about, in the mode that its state asks for; say in the state what that came to.

    `auto` is tried as `online` is: without a key that fails at once, before anything is sent. `about` is what W&B
    shows of the run: name, group, job_type, tags, config. Finishing it takes at most `finish_s`.
    """
    if state.mode != "offline":
        before = _folders(folder, state)
        try:
            run = _init(folder, state.run_id, "online", finish_s, about)
            state.mode_used = "online"
            return run
        # Whatever the client raises, the records are not lost: they go to an offline run.
        except Exception as error:
            # The client's service still holds the run's id, and has begun a folder in which nothing is.
            wandb.teardown(exit_code=1)
            for begun in _folders(folder, state) - before:
                shutil.rmtree(begun, ignore_errors=True)
            if not fallback:
                raise
            state.reason = f"offline, because no online run could be opened: {sentence(error)}"
    run = _init(folder, state.run_id, "offline", finish_s, about)
    state.mode_used = "offline"
    state.offline_dir = str(Path(run.dir).parent.relative_to(folder.resolve()))
    return run


def _folders(folder: Path, state: State) -> set[Path]:
    """What the client has of a run, opened online, beside what it is about."""
    return set((folder / "wandb").glob(f"run-*-{state.run_id}"))


def open_point(point: Point, state: State, fallback: bool) -> Any:
    """Open a point's run."""
    config = point.config
    tags = (
        *titles(config),
        config.nccl.name,
        *([] if times_collectives(config) else [config.precision.name]),
        f"{config.nodes * config.gpus_per_node}gpu",
    )
    run = open_run(
        point.path,
        state,
        fallback,
        name=point.slug,
        group=config.study,
        job_type="point",
        tags=list(dict.fromkeys(tags)),
        config={**dataclasses.asdict(config), "provenance": point.provenance},
    )
    axis, globs = (ALONE_AXIS, ALONE_KEYS) if times_collectives(config) else (AXIS, KEYS)
    run.define_metric(axis)
    for keys in globs:
        run.define_metric(keys, step_metric=axis)
    return run


def close_run(run: Any, failed: bool) -> None:
    """Finish a run, as failed if the point has; an error where the server did not take all of it."""
    log = Path(run.dir).parent / "logs" / "debug-internal.log"
    run.finish(exit_code=1 if failed else 0)
    # A server may refuse the rows of a run that it let us open, or an artifact. The client stops sending it, and
    # finishes as if all were well; only its own log tells.
    for line in log.read_text(errors="replace").splitlines():
        if '"level":"ERROR+4"' in line or '"msg":"sender: failed to log artifact' in line:
            raise RuntimeError(json.loads(line)["msg"])


def _init(folder: Path, run_id: str, mode: str, finish_s: int, about: dict[str, Any]) -> Any:
    return wandb.init(
        mode=mode,  # type: ignore[arg-type]
        dir=folder.resolve(),
        id=run_id,
        resume="allow",
        settings=_settings(finish_s),
        **about,
    )


def _settings(finish_s: int) -> wandb.Settings:
    """Nothing but the records leaves: no console, code, git state, machine metadata, packages or system metrics."""
    return wandb.Settings(
        console="off",
        program="harness",
        save_code=False,
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        silent=True,
        init_timeout=INIT_S,
        finish_timeout=finish_s,
        finish_timeout_raises=True,
    )


def sentence(error: Exception) -> str:
    """An error on one line, without its class where it says something, without an address's credentials and query."""
    said = re.sub(r"(\w+://)[^/\s]*@", r"\1", " ".join(str(error).split()))
    said = re.sub(r"(\w+://[^?\s]*)\?\S*", r"\1", said)
    return (said or type(error).__name__)[:300]
