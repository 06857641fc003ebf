"""A key of which a launcher would make nothing is refused where a person writes it, and there alone."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from plan_configs import config, group

from harness.config import Launcher
from harness.plan.launcher import check_launcher
from harness.stored import stored_config
from harness.study.planning import planned
from harness.study.point import Point, spread
from launch.devices import Machine

OTHER = {
    "time": "30",
    "partition": "batch",
    "account": "physics",
    "qos": "high",
    "constraint": "rack1",
    "exclusive": False,
    "gres": "gpu:8",
    "segment": 4,
    "switches": 1,
    "signal_lead_s": 120,
    "max_nodes": 9,
    "chain": True,
    "container_image": "/x.sqsh",
    "min_nodes": 1,
}
BESIDE = {"min_nodes": {"max_restarts": 3}}
"""What some of them need besides."""


def test_every_key_with_launchers_of_its_own_is_looked_at() -> None:
    limited = {item.name for item in fields(Launcher) if "of" in item.metadata}
    assert limited == OTHER.keys() | {"container_mounts"}


@pytest.mark.parametrize(("key", "value"), OTHER.items())
def test_a_key_is_refused_by_a_launcher_that_has_no_use_for_it(key: str, value: Any) -> None:
    [of] = [item.metadata["of"] for item in fields(Launcher) if item.name == key]
    for kind in ("local", "srun", "sbatch"):
        chosen = Launcher(kind, kind, **{key: value}, **BESIDE.get(key, {}))
        for dry, word in ((False, "launcher"), (True, "launcher.kind")):
            chosen = replace(chosen, dry=dry)
            if kind in of:
                check_launcher(chosen)
                continue
            with pytest.raises(ValueError) as refused:
                check_launcher(chosen)
            said = f"launcher.{key}={value}: is of {word}={' or '.join(of)}; leave it out with {word}={kind}"
            assert str(refused.value) == said


@pytest.mark.parametrize("preset", group("launcher").values(), ids=lambda preset: preset["name"])
def test_every_preset_is_taken(preset: dict[str, Any]) -> None:
    check_launcher(Launcher(**preset))


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({"container_mounts": "/a:/a"}, "launcher.container_mounts=/a:/a: is of launcher.container_image; "),
        ({"min_nodes": 1}, "launcher.min_nodes=1: is of points that are started again; "),
    ],
)
def test_a_key_that_needs_another_is_refused_without_it(chosen: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as refused:
        spread([config(launcher=Launcher("srun", "srun", **chosen))])
    assert str(refused.value).startswith(told)


def test_a_job_runs_what_was_submitted_for_it_and_its_name_stays(tmp_path: Path) -> None:
    """In its job a point's launcher is srun, beside all that was of sbatch."""
    asked = config(root=str(tmp_path), launcher=Launcher("sbatch", "sbatch", time="30", max_nodes=2))
    [point] = spread([asked])
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(asked)))
    stored = stored_config(tmp_path)
    inside = Point(replace(stored, launcher=replace(stored.launcher, kind="srun")))
    assert inside.slug == point.slug
    assert planned(inside, Machine((), None, 8, 2**34), 1).impossible is None
