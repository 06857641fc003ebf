"""The `harness` command in a folder of its own, as a person would run it."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

import harness.study.controller  # noqa: F401  what each forked command would have to import
from harness import cli
from launch.local import carriers

TESTS = Path(__file__).parent
STAND_IN = (
    "import sys, launch.torchrun as t; t.WORKER = 'study_standin'; from harness.cli import main; sys.exit(main())"
)
# Small enough for seconds: one layer's worth of work, no mirror.
QUICK = ("steps=12", "warmup=2", "seq_len=32", "record.wandb=disabled", "record.sample_every=6")


@dataclass
class Command:
    """A working folder and the environment in which `harness` runs there."""

    folder: Path
    environment: dict[str, str]

    def start(self, *words: str, stand_in: str | None = None) -> subprocess.Popen[str]:
        """Start it; `stand_in` is how study_standin behaves in the worker's place."""
        program = ["-m", "harness.cli"] if stand_in is None else ["-c", STAND_IN]
        return subprocess.Popen(
            [sys.executable, *program, *words],
            cwd=self.folder,
            env=self.variables() | {"STANDIN": stand_in or ""},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def variables(self) -> dict[str, str]:
        """The environment that it starts in: this one, with the source tree and the modules that these tests are in."""
        folders = filter(None, (str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH")))
        return {**os.environ, "PYTHONPATH": os.pathsep.join(folders), **self.environment}

    def __call__(
        self, *words: str, stand_in: str | None = None, seconds: float = 200
    ) -> subprocess.CompletedProcess[str]:
        process = self.start(*words, stand_in=stand_in)
        out, err = process.communicate(timeout=seconds)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def forked(self, *words: str) -> subprocess.CompletedProcess[str]:
        """As it is called, in a fork of this process, which has imported what such a command takes its time for."""
        said = [self.folder.with_name(f"{self.folder.name}.{name}") for name in ("out", "err")]
        process = multiprocessing.get_context("fork").Process(target=self._become, args=(words, said))
        process.start()
        process.join(60)
        assert process.exitcode is not None
        return subprocess.CompletedProcess(words, process.exitcode, *(path.read_text() for path in said))

    def _become(self, words: tuple[str, ...], said: list[Path]) -> None:
        for number, path in enumerate(said, 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        os.chdir(self.folder)
        os.environ.update(self.environment)
        sys.argv = ["harness", *words]
        sys.exit(cli.main())

    def points(self, study: str = "default") -> dict[str, Path]:
        return {path.name: path for path in sorted((self.folder / "studies" / study / "points").iterdir())}

    def status(self, study: str = "default") -> dict[str, dict[str, Any]]:
        return {slug: json.loads((path / "status.json").read_text()) for slug, path in self.points(study).items()}

    def processes(self) -> list[psutil.Process]:
        """Every process of every point of the folder."""
        return [process for process, marker in carriers() if marker.startswith(str(self.folder))]

    def files(self) -> list[Path]:
        return sorted(self.folder.rglob("*"))


def wait_for(happened: Any, seconds: float = 60.0) -> Any:
    """What `happened` returns once it is something."""
    until = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.05)
    return found
