"""The folder of choices, beside the package."""

from pathlib import Path

import yaml

import harness

CONF = Path(harness.__file__).resolve().parent.parent / "conf"


def options(group: str) -> list[str]:
    """The options of a group: its files in conf/."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def defaults() -> dict[str, str]:
    """The option that each group has when none is chosen."""
    listed = yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]
    return {group: str(name) for entry in listed if isinstance(entry, dict) for group, name in entry.items()}
