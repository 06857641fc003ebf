"""Files that appear whole or not at all."""

import errno
import json
import os
import stat
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Replace the file's content at once, so that no reader ever sees half of it; OSError with its path."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise type(error)(error.errno, error.strerror, str(path)) from error


def write_json(path: Path, document: dict[str, Any]) -> None:
    write_text(path, json.dumps(document, indent=2) + "\n")


def regular(path: str, flags: int) -> int:
    """An opener of regular files: whoever opens a pipe waits for a writer, it may be for good."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # `open` itself says of a folder that it is one
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no regular file", path)
    return descriptor


def read_bytes(path: Path) -> bytes:
    """All of a regular file."""
    with open(path, "rb", opener=regular) as file:
        return file.read()


def read_json(path: Path) -> dict[str, Any] | None:
    """The file's document, or None where there is no such file."""
    try:
        document: Any = json.loads(read_bytes(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ValueError(f"{path}: is no JSON ({error})") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path}: holds no JSON object")
    return document
