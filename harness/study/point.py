"""A point's name and place: the slug, the hash of what makes it the work it is, and its repeats."""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import Config
from harness.fields import default, walk
from harness.plan.launcher import check_launcher
from harness.plan.workload import COLLECTIVES, concerns, times_collectives, titles

NOT_THE_WORK = (
    "study",
    "root",
    "repeats",
    "repeat",
    "rerun",
    "preflight",
    "launcher",
    "record",
    "profile",
    "watchdog",
    "hardware",
)


@dataclass(frozen=True)
class Point:
    """One resolved configuration at one scale, one repeat of it."""

    config: Config

    @property
    def ranks(self) -> int:
        return self.config.nodes * self.config.gpus_per_node

    @property
    def slug(self) -> str:
        """The point's name: fields in a fixed order and a short hash, so that growing a study renames nothing."""
        config = self.config
        return "-".join(
            (
                *map(safe, titles(config)),
                f"n{config.nodes}x{config.gpus_per_node}",
                safe(config.nccl.name),
                f"r{config.repeat}",
                identity(config)[:6],
            )
        )

    @property
    def study_dir(self) -> Path:
        root = self.config.root
        try:
            folder = Path(root).expanduser()
        except RuntimeError as error:
            raise ValueError(f"root={root}: no such person on this machine") from error
        if not root:
            raise ValueError("root=: name a folder, '.' for this one")
        return folder.resolve() / self.config.study

    @property
    def run_dir(self) -> Path:
        return self.study_dir / "points" / self.slug


def safe(name: str) -> str:
    """A name as one field of a slug: short, and nothing in it that a path or a shell could mistake."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", name)[:40]


def identity(config: Config) -> str:
    """A hash over what changes the work; what the point's workload has no use for does not.

    Fields at their schema's default are left out, so that a field added later renames no earlier point.
    """
    chosen = {}
    for key, item in walk():
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        is_work = key.split(".")[0] not in NOT_THE_WORK and concerns(config, key)
        if is_work and value != default(item) and value != {}:
            chosen[key] = value
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()


def spread(configs: list[Config]) -> list[Point]:
    """Every repeat of every configuration that a person asks for.

    ValueError where two of them are the same work or not of one study, or where one asks of its launcher in vain.
    A sweep over how to train has the same benchmark of collectives many times: beside training points it is one. So is
    what trains, where only operations and sizes of the benchmark are swept.
    """
    first = configs[0]
    for config in configs:
        if config.repeats < 1:
            raise ValueError(f"repeats={config.repeats}: must be at least 1")
        check_launcher(config.launcher)
        for key, one, other in (
            ("study", first.study, config.study),
            ("root", first.root, config.root),
            ("launcher", first.launcher.kind, config.launcher.kind),
        ):
            if one != other:
                raise ValueError(f"{key}={one},{other}: one run writes one study with one launcher")
    points = [
        Point(dataclasses.replace(config, repeat=repeat)) for config in configs for repeat in range(config.repeats)
    ]
    mixed = len({times_collectives(config) for config in configs}) > 1
    kept: dict[str, Point] = {}
    for point in points:
        first_of = kept.setdefault(point.slug, point)
        if first_of is not point and not (mixed and swept_for_the_other(first_of.config, point.config)):
            raise ValueError(f"{point.slug}: twice in this sweep; {same_work(point.config)}")
    return list(kept.values())


def swept_for_the_other(one: Config, other: Config) -> bool:
    """Whether two configurations of the same work differ only in what is swept for the other workload."""
    return times_collectives(other) or dataclasses.replace(one, workload=other.workload) == other


def same_work(config: Config) -> str:
    """What does not make a point another one, as a person is told."""
    if times_collectives(config):
        return f"with workload=collectives only {', '.join(COLLECTIVES)} make a point different work"
    return f"{', '.join(NOT_THE_WORK)} do not make a point different work, nor workload's sizes and op when it trains"
