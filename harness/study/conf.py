"""The folder of choices, beside the package."""

from pathlib import Path

import harness

CONF = Path(harness.__file__).resolve().parent.parent / "conf"


def options(group: str) -> list[str]:
    """The options of a group: its files in conf/."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))
