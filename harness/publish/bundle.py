"""A study as one archive for other people: what was run, where, what was recorded and what came of it."""

import json
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from harness.analysis.read import read_study
from harness.files import write_text
from harness.publish import archive, hiding
from harness.report import report

ENDING = ".tar.gz"
POINT = ("config.yaml", "provenance.json", "env.json", "status.json", "preflight.json")
ATTEMPT = ("launch.json", "events.jsonl", "progress.json", "faults.jsonl", "provenance.json", "env.json")
TELLING = ("config.yaml", "launch.json", "provenance.json", "env.json")
"""Where the paths stand that a study knows."""
README = """\
# Scaling study {study}

`harness report ARCHIVE{ending}` checks this bundle and makes its report anew; `sha256sum -c SHA256SUMS` checks it
without the harness. It can be unpacked and read like any study's folder.

| file | what it is |
|---|---|
| `report/index.html` | the page, opened from disk |
| `report/points.csv` | one row a point |
| `summary.json` | the same with curves, intervals and warnings, as `harness report --json` prints it |
| `points/*/` | of each point its configuration, provenance, NCCL's variables, how it ended, and its attempts' records |

Each absolute path is written as `path-` and the start of its SHA-256, so that equal ones can be told from others.
Commands, folders and variables read so. Host names are those of the machines that ran it. Logs, profiles, dumps,
checkpoints, W&B's files, the holders of points and the scripts that start them by hand are not here.
"""


def bundle(study_dir: Path, output: Path) -> Path:
    """Write a study's bundle to `output`. ValueError where there is no study, or no such file can be written.

    The page and all tables are made from the files that are in the bundle, so that whoever opens it gets the same.
    """
    if output.is_dir():
        raise ValueError(f"{output}: is a folder; give the archive's file with --output=FILE")
    if not output.parent.is_dir():
        raise ValueError(f"{output}: cannot be written, for there is no folder {output.parent}")
    with copied(study_dir) as folder:
        write_text(folder / "summary.json", json.dumps(without_places(report(folder)), indent=2) + "\n")
        write_text(folder / "README.md", README.format(study=folder.name, ending=ENDING))
        write_text(folder / archive.SUMS, archive.checksums(folder))
        archive.pack(folder, output)
    return output


@contextmanager
def copied(study_dir: Path) -> Iterator[Path]:
    """A study's folder as it is in a bundle, without absolute paths, as long as this lasts."""
    study = read_study(study_dir)
    with _drafts() as drafts:
        folder = drafts / study.path.resolve().name
        told = (path.read_text(errors="replace") for path in records(study.path) if path.name in TELLING)
        known = {str(study.path.resolve()), *chain.from_iterable(map(hiding.known, told))}
        paths = hiding.pattern(known)
        for path in records(study.path):
            _copy(path, folder / path.relative_to(study.path), paths)
        yield folder


@contextmanager
def opened(bundle: Path) -> Iterator[Path]:
    """The study's folder out of a bundle, checked, as long as this lasts; ValueError for one that is not as it was."""
    with _drafts() as folder:
        yield archive.unpack(bundle, folder)


@contextmanager
def _drafts() -> Iterator[Path]:
    """A folder for as long as this lasts; a signal that would end the process at once ends this first."""
    deadly = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in deadly:
        signal.signal(number, _end)
    try:
        with TemporaryDirectory(prefix="harness-bundle-") as folder:
            yield Path(folder)
    finally:
        for number in deadly:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, _frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # `timeout` sends it twice, and once is enough
    sys.exit(128 + number)


@contextmanager
def comparable(given: Sequence[Path]) -> Iterator[list[Path]]:
    """Folders of studies, each itself or out of its bundle, as long as this lasts.

    Beside a bundle a folder is read as its own bundle would be: that paths are hidden is no difference.
    """
    with ExitStack() as stack:
        if any(path.is_file() for path in given):
            yield [stack.enter_context((opened if path.is_file() else copied)(path)) for path in given]
        else:
            yield list(given)


def report_of(bundle: Path, join: Sequence[str] = (), printed: bool = False) -> dict[str, Any]:
    """Write the report of a bundle into a folder beside it that has its name, and return the document."""
    with opened(bundle) as study_dir:
        folder = bundle.absolute().with_name(bundle.name.removesuffix(ENDING) + "-report")
        return report(study_dir, join=join, folder=folder, printed=printed)


def without_places(document: dict[str, Any]) -> dict[str, Any]:
    """A report's document with the paths of its files as they are in the bundle."""
    return {**document, "paths": {name: f"report/{Path(path).name}" for name, path in document["paths"].items()}}


def records(study_dir: Path) -> Iterator[Path]:
    """The files of a study that another person's report reads. Links are not followed: they may lead out of it."""
    yield study_dir / "study.json"
    for run_dir in _folders(study_dir / "points"):
        if "~" not in run_dir.name:
            yield from _plain(run_dir / name for name in POINT)
            for attempt in _folders(run_dir / "attempts"):
                yield from _plain(attempt / name for name in ATTEMPT)
                for bucket in _folders(attempt / "nodes"):
                    yield from _plain(sorted(bucket.glob("*.jsonl")))


def _folders(path: Path) -> list[Path]:
    found = path.iterdir() if path.is_dir() and not path.is_symlink() else ()
    return sorted(entry for entry in found if entry.is_dir() and not entry.is_symlink())


def _plain(paths: Any) -> Iterator[Path]:
    return (path for path in paths if path.is_file() and not path.is_symlink())


def _copy(path: Path, copy: Path, paths: re.Pattern[str]) -> None:
    """A file without absolute paths."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    # newlines stay as they are, and so do bytes that are no UTF-8
    form: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": "\n"}
    with path.open(**form) as source, copy.open("w", **form) as target:
        if path.suffix == ".jsonl":
            target.writelines(hiding.of_lines(source, paths))
        else:
            hide = hiding.of_yaml if path.suffix == ".yaml" else hiding.of_document
            target.write(hide(source.read(), paths))
