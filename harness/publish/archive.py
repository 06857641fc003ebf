"""A bundle's container: a tar of plain files under one folder, with a checksum of each, written and read with care.

What is read comes from strangers. Only plain files are taken, with relative names and up to the bounds below, nothing
is used before every checksum is right, and modes, owners and links of the archive are never looked at.
"""

import gzip
import hashlib
import os
import re
import shutil
import tarfile
import uuid
import zlib
from pathlib import Path

SUMS = "SHA256SUMS"
MOST_FILES = 1_000_000
MOST_BYTES = 2**34
"""Of all files together; one file may be as large."""
HEADERS = 2**20
"""What may stand between two files, so that an archive's headers do not fill the memory either."""
CHUNK = 2**20
GZIP = b"\x1f\x8b"
"""How every file begins that gzip has made."""
SAFE = re.compile(r"[^\x00-\x1f\x7f\\]+")


def checksums(folder: Path) -> str:
    """The text of SHA256SUMS, as `sha256sum -c` reads it in this folder; ValueError for a name that has no place."""
    lines = []
    for path in files(folder):
        name = path.relative_to(folder).as_posix()
        check_name(name)
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return "".join(lines)


def files(folder: Path) -> list[Path]:
    """Every file below a folder but its checksums, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / SUMS)


def check_name(name: str) -> None:
    """Raise ValueError for a name that leaves its folder, or that a line of SHA256SUMS cannot hold."""
    if not SAFE.fullmatch(name) or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"{name!r} is no name for a bundle's file")


def pack(folder: Path, output: Path) -> None:
    """Write the folder as a .tar.gz that appears whole or not at all; the same files give the same bytes.

    ValueError where the folder is beyond what `unpack` takes, or no such file can be written.
    """
    members = [folder / SUMS, *files(folder)]
    if len(members) > MOST_FILES or sum(path.stat().st_size for path in members) > MOST_BYTES:
        raise ValueError(f"{folder.name}: a bundle holds at most {MOST_FILES:,} files and {MOST_BYTES / 2**30:.0f} GiB")
    draft = output.with_name(f".{output.name}.{uuid.uuid4().hex}")
    try:
        # neither the archive's name nor the time is in gzip's header
        with (
            draft.open("wb") as raw,
            gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w|") as tar,
        ):
            for path in members:
                entry = tarfile.TarInfo(f"{folder.name}/{path.relative_to(folder).as_posix()}")
                entry.size = path.stat().st_size
                with path.open("rb") as file:
                    tar.addfile(entry, file)
        os.replace(draft, output)
    except OSError as error:
        raise ValueError(f"{output}: cannot be written ({error.strerror})") from error
    finally:
        draft.unlink(missing_ok=True)


def unpack(archive: Path, target: Path) -> Path:
    """Write a bundle's files below `target` and compare their checksums; their one folder.

    ValueError, with the archive and what is wrong with it, for one that is damaged or no bundle.
    """
    try:
        with archive.open("rb") as raw, gzip.GzipFile(fileobj=raw) as packed:
            if raw.peek(len(GZIP))[: len(GZIP)] != GZIP:
                raise gzip.BadGzipFile("it is no .tar.gz")
            metered = Metered(packed)
            with tarfile.open(fileobj=metered, mode="r|") as tar:  # type: ignore[call-overload]
                folder, found = _write_members(tar, metered, target)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{archive}: is no whole bundle ({' '.join(str(error).split())})") from error
    except ValueError as error:
        raise ValueError(f"{archive}: is refused, {error}") from error
    if wrong := _differences(folder, found):
        raise ValueError(f"{archive}: is damaged, {wrong}")
    return folder


class Metered:
    """A stream that gives at most `left` bytes before somebody allows more."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self.stream = stream
        self.left = HEADERS

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise ValueError("one of its headers is larger than any that the harness writes")
        return self.stream.read(size)


def _write_members(tar: tarfile.TarFile, metered: Metered, target: Path) -> tuple[Path, dict[str, str]]:
    """Write every file; the folder that all are in, and the checksum of each by its name in there."""
    found: dict[str, str] = {}
    top, written = "", 0
    while True:
        metered.left = HEADERS
        entry = tar.next()
        if entry is None:
            break
        check_name(entry.name)
        first, _, name = entry.name.partition("/")
        top = top or first
        if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or entry.issparse():
            raise ValueError(f"{entry.name} is no plain file")
        if first != top or not name or name in found:
            raise ValueError(f"{entry.name} is there twice, or outside of its folder")
        written += entry.size
        if written > MOST_BYTES or len(found) >= MOST_FILES:
            raise ValueError(f"{entry.name} makes it larger than {MOST_BYTES / 2**30:.0f} GiB or {MOST_FILES:,} files")
        metered.left = HEADERS + entry.size
        found[name] = _write(tar, entry, target / top / name)
    if not top:
        raise ValueError("nothing is in it")
    return target / top, found


def _write(tar: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> str:
    content = tar.extractfile(entry)
    assert content is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        shutil.copyfileobj(content, file, CHUNK)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _differences(folder: Path, found: dict[str, str]) -> str | None:
    """What of the files is not as SHA256SUMS says, or None."""
    if SUMS not in found:
        return f"{SUMS} is missing"
    lines = (folder / SUMS).read_text(errors="replace").splitlines()
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if "" in listed:
        return f"{SUMS} has a line that is no checksum and name"
    for name in sorted((listed.keys() | found.keys()) - {SUMS}):
        if name not in found:
            return f"{name} is missing"
        if name not in listed:
            return f"{name} is not in {SUMS}"
        if found[name] != listed[name]:
            return f"{name} is not what {SUMS} says it was"
    return None
