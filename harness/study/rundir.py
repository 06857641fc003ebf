"""A study's folder and its points' run directories, as docs/records.md describes them."""

import dataclasses
import os
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from harness.fields import check_name
from harness.files import read_json, write_json, write_text
from harness.records import SCHEMA
from harness.schema import lacking
from harness.study import lease
from harness.study.point import Point
from launch.environment import hidden, job_id


def check_study(study_dir: Path, name: str) -> None:
    """Raise ValueError for a name that is no safe folder name, and for a study of another schema."""
    check_name("study", name)
    check_schema(study_dir)


def check_schema(study_dir: Path) -> None:
    """Raise ValueError for a study that another version of the harness wrote."""
    try:
        study = read_json(study_dir / "study.json")
    except OSError as error:
        raise ValueError(f"root={study_dir.parent}: cannot be read ({error.strerror})") from error
    if study is not None and study.get("schema") != SCHEMA:
        raise ValueError(
            f"study={study_dir.name}: {study_dir} has schema {study.get('schema')}, this harness works with {SCHEMA}"
        )


def open_study(study_dir: Path, name: str) -> None:
    """Make the study's folder, or raise ValueError where that cannot be."""
    try:
        (study_dir / "points").mkdir(parents=True, exist_ok=True)
        write_json(study_dir / "study.json", study_document(name))
    except OSError as error:
        raise ValueError(f"root={study_dir.parent}: cannot be written ({error.strerror})") from error


def study_document(name: str) -> dict[str, Any]:
    """What study.json says."""
    return {"schema": SCHEMA, "kind": "study", "time": time.time(), "name": name}


def plant(point: Point) -> None:
    """Make the point's run directory as a pending one, unless it is there already; it appears whole."""
    if point.run_dir.exists():
        return
    draft = point.study_dir / f".{point.slug}.{uuid.uuid4().hex}"
    try:
        draft.mkdir()
        if not (point.study_dir / "study.json").exists():  # removed with its study while that ran
            write_json(point.study_dir / "study.json", study_document(point.config.study))
        write_text(draft / "config.yaml", yaml_of(point))
        write_status(draft, "pending")
        os.rename(draft, point.run_dir)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        if not point.run_dir.exists():  # else another controller was faster
            raise type(error)(error.errno, error.strerror, str(point.run_dir)) from error


def write_config(point: Point) -> None:
    """The configuration that every rank reads."""
    write_text(point.run_dir / "config.yaml", yaml_of(point))


def yaml_of(point: Point) -> str:
    """A point's configuration; what names a secret is refused by the plan, and must not stand here either."""
    config = point.config
    public = dataclasses.replace(config, nccl=dataclasses.replace(config.nccl, env=hidden(config.nccl.env)))
    return OmegaConf.to_yaml(OmegaConf.structured(public))


def write_status(
    run_dir: Path,
    status: str,
    reason: str | None = None,
    rank: int | None = None,
    host: str | None = None,
    attempt: int | None = None,
    job: str | None = None,
) -> None:
    """Say how the point stands; in a job of Slurm, or for one that is named, with its number."""
    write_json(
        run_dir / "status.json",
        {
            "schema": SCHEMA,
            "kind": "status",
            "time": time.time(),
            "attempt": attempt,
            "status": status,
            "reason": reason,
            "rank": rank,
            "host": host,
            "job": job or job_id(),
        },
    )


def read_status(run_dir: Path) -> dict[str, Any] | None:
    """How the point stands, or None where it has never been planned; ValueError for a damaged record."""
    status = read_json(run_dir / "status.json")
    if status is not None and (missing := lacking({**status, "kind": "status"})):
        raise ValueError(f"{run_dir / 'status.json'}: lacks {', '.join(missing)}")
    return status


def archive(held: lease.Lease, run_dir: Path) -> Path:
    """Rename a held run directory to the next free `<slug>~k`, and let it go there."""
    number = 1
    while (old := run_dir.with_name(f"{run_dir.name}~{number}")).exists():
        number += 1
    held.stop()
    os.rename(run_dir, old)
    held.path = old / held.path.name
    held.release()
    return old


def point_dirs(study_dir: Path) -> list[Path]:
    """The run directories of a study, without those that were run again."""
    folder = study_dir / "points"
    entries = folder.iterdir() if folder.exists() else ()
    return sorted(path for path in entries if path.is_dir() and "~" not in path.name)
