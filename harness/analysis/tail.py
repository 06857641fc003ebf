"""The records of a point's attempts, each once, as they are written."""

from pathlib import Path

from harness.analysis.read import Record
from harness.records import Appended, attempts


class Tail:
    """Of all attempts in their order, with the number of each."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._appended: dict[Path, Appended] = {}

    def read(self) -> list[tuple[int, Record]]:
        """The records written since the last call."""
        return [
            (int(folder.name), record)
            for folder in attempts(self._run_dir)
            for record in self._appended.setdefault(folder, Appended(folder)).new()
        ]
