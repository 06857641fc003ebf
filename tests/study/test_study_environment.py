"""Real ranks on two CPU processes, with an environment that does or does not arrive as it was asked for."""

import json
import os
from pathlib import Path

import pytest
from run_dirs import make_config, validator

from harness.files import write_json
from harness.study.outcome import LAUNCHER_LOG, Outcome, outcome
from harness.study.point import Point
from harness.study.rundir import yaml_of
from harness.worker import check_environment
from launch import torchrun
from launch.environment import build
from launch.local import Tree

ASKED = "=mlx5_0:1,mlx5_1:1"
# in the place where an image's environment or a site's prolog acts, on the second rank alone
BETWEEN = """
import os, time
if os.environ["RANK"] == "1":
    os.environ |= {changes!r}
else:
    time.sleep({ahead_s})
from harness.worker import main
main()
"""


def run(run_dir: Path, changes: dict[str, str], ahead_s: float = 0.0) -> Outcome:
    """How a point ends whose second rank's variables are changed on their way; it is ahead by that time."""
    attempt = run_dir / "attempts" / "0"
    logs = attempt / "logs"
    logs.mkdir(parents=True)
    config = make_config(gpus=2, seq_len=32, steps=4, warmup=2)
    (run_dir / "config.yaml").write_text(yaml_of(Point(config)))
    environment = build({"NCCL_IB_HCA": ASKED}, False, run_dir, logs, 0, 0)
    write_json(run_dir / "env.json", environment.document())
    (run_dir / "between.py").write_text(BETWEEN.format(changes=changes, ahead_s=ahead_s))
    environment.variables["PYTHONPATH"] += os.pathsep + str(run_dir)
    program = ["between", *torchrun.worker(run_dir, 0, "cpu")[1:]]
    command = torchrun.command(torchrun.Ranks(program, "point", 1, 2), logs)
    with Tree(command, environment, logs / LAUNCHER_LOG) as tree:
        exit_code = tree.process.wait(timeout=120)
    return outcome(attempt, exit_code, ["here"], 2)


def test_a_variable_that_was_changed_on_its_way_ends_the_point_with_its_name_and_rank(tmp_path: Path) -> None:
    # a rank that meets nobody is deaf in its group's C++, and torchrun waits half a minute for it
    ended = run(tmp_path, {"NCCL_IB_HCA": "a", "NCCL_ZZZ": "1"}, ahead_s=60)
    assert ended.rank == 1
    assert ended.reason == (
        f'rank 1: RuntimeError: NCCL_IB_HCA is "a" on this rank, where "{ASKED}" was asked for (and 1 more); '
        "something between the launcher and the rank, such as an image's environment, has changed it"
    )


def test_an_unchanged_environment_trains_and_the_record_tells_each_ranks_cores(tmp_path: Path) -> None:
    # torchrun's own changes and an image's label are no reason to end
    assert run(tmp_path, {"NCCL_VERSION": "2.28"}) == Outcome("ok")
    lines = (tmp_path / "attempts" / "0" / "events.jsonl").read_text().splitlines()
    [start] = [record for record in map(json.loads, lines) if record["kind"] == "start"]
    validator().validate(start)
    [[both]] = start["affinity"]
    assert (both["ranks"], both["cores"], both["omp_num_threads"]) == ("0-1", len(os.sched_getaffinity(0)), "1")


def test_a_rank_that_was_started_by_hand_compares_nothing(tmp_path: Path) -> None:
    check_environment(tmp_path, 0, {"NCCL_IB_HCA": "a"})
    write_json(tmp_path / "env.json", {"effective": {}})
    with pytest.raises(RuntimeError, match="NCCL_IB_HCA"):
        check_environment(tmp_path, 0, {"NCCL_IB_HCA": "a"})
