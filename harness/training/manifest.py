"""A point's checkpoints as folders: there whole or not at all, and what shows that one is damaged.

`checkpoints/step-00000040` holds the state after step 40. It is made under a name that begins with a dot and renamed
when it is whole; `manifest.json` in it lists its files with size and digest, and says what shapes the state.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

SCHEMA = 2
MANIFEST = "manifest.json"


class Listed(TypedDict):
    """What the manifest says of a file: blake2b over its bytes, of 32 bytes, in hexadecimal."""

    bytes: int
    blake2b: str


def draft(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is made."""
    return folder / f".step-{step:08d}"


def whole(folder: Path) -> list[Path]:
    """The checkpoints that were finished, the newest first."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted((path for path in found if re.fullmatch(r"step-\d{8,}", path.name)), key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The last step that a checkpoint contains."""
    return int(path.name.rpartition("-")[2])


def remove_drafts(folder: Path) -> None:
    """Remove what writers have left that were killed."""
    for path in folder.glob(".step-*") if folder.is_dir() else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def drop(made: Path) -> None:
    """Remove a checkpoint that could not be written, as far as that is possible."""
    shutil.rmtree(made, ignore_errors=True)


def listed(path: Path) -> Listed:
    """A file as the manifest lists it; its bytes are on the disk then."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32))
    return {"bytes": path.stat().st_size, "blake2b": digest.hexdigest()}


def commit(made: Path, world_size: int, files: Mapping[str, Listed], keep: int, of: Mapping[str, Any]) -> None:
    """Give a checkpoint that is written its name, and remove all but the last `keep`.

    of: values by name that the shape of the state follows from; only a point with the same can take it up.
    """
    folder, final = made.parent, made.with_name(made.name.removeprefix("."))
    document = {
        "schema": SCHEMA,
        "step": step_of(final),
        "world_size": world_size,
        "of": dict(of),
        "files": dict(files),
    }
    with open(made / MANIFEST, "w") as file:
        json.dump(document, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    if final.exists():  # an attempt that went on from an earlier one has come here again
        discard(final)
    os.rename(made, final)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    for path in whole(folder)[keep:]:
        discard(path)


def discard(path: Path) -> None:
    """Remove a checkpoint: first its name, for nobody must go on from a part of it."""
    gone = path.with_name(f".{path.name}.old")
    os.rename(path, gone)
    shutil.rmtree(gone)


def set_aside(path: Path) -> None:
    """Take a damaged checkpoint out of those to go on from, for a person to look at."""
    damaged = path.with_name(f"damaged-{path.name}")
    shutil.rmtree(damaged, ignore_errors=True)
    os.rename(path, damaged)


def read(path: Path) -> tuple[dict[str, Listed], str | None]:
    """The files that a checkpoint should have, or what is wrong with its manifest."""
    try:
        document: dict[str, Any] = json.loads((path / MANIFEST).read_text())
        if document["schema"] != SCHEMA:
            return {}, f"{MANIFEST} has schema {document['schema']}, which this version of the harness does not know"
        if document["step"] != step_of(path):
            return {}, f"{MANIFEST} is that of step {document['step']}"
        files: dict[str, Listed] = {
            name: {"bytes": said["bytes"], "blake2b": said["blake2b"]} for name, said in document["files"].items()
        }
        found = {str(file.relative_to(path)) for file in path.rglob("*") if loaded(file)}
        unlisted = min(found - files.keys(), default=None)
        if unlisted is not None or not files:
            return {}, f"{MANIFEST} does not list {unlisted or 'any files'}"
        return files, None
    except FileNotFoundError:
        return {}, f"{MANIFEST} is missing"
    except NotADirectoryError:
        return {}, "it is no folder"
    except OSError as error:
        return {}, f"{MANIFEST} is not readable ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}, f"{MANIFEST} is not readable"


def loaded(file: Path) -> bool:
    """Whether a file is of a kind that is loaded; what a person or a file system leaves beside them is none."""
    return file.suffix in (".pt", ".distcp") or file.name == ".metadata"


def misfit(path: Path, of: Mapping[str, Any], steps: int) -> str | None:
    """Why a checkpoint with a readable manifest is none of a point with this shape and so many steps, or None."""
    if step_of(path) > steps:
        return f"it stands after step {step_of(path)} of {steps}"
    said = json.loads((path / MANIFEST).read_text()).get("of")
    if not isinstance(said, dict):
        return f"{MANIFEST} does not say what it is of"
    other = next((name for name in {**of, **said} if said.get(name) != of.get(name)), None)
    return other and f"it is of another point ({other}={said.get(other)}, here {of.get(other)})"


def damage(path: Path, files: Mapping[str, Listed], names: Iterable[str]) -> str | None:
    """What is wrong with the first of some files that is not what the manifest lists, or None."""
    for name in names:
        try:
            found = listed(path / name)
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} is not readable ({error.strerror})"
        if found != files[name]:
            said = files[name]["bytes"]
            return f"{name} has {found['bytes']} bytes of {said}" if found["bytes"] != said else f"{name} has changed"
    return None
