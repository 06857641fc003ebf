"""A point whose ranks a person starts, under any scheduler: what the dry run prints does it, and a report has it."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from run_dirs import add_point, make_attempt, make_config, make_study
from study_command import QUICK, Command

from harness.analysis.read import read_point
from harness.study.overview import entry
from launch.environment import SOURCE


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path, {"PYTHONPATH": str(SOURCE), "CUDA_VISIBLE_DEVICES": ""})


def stands(command: Command) -> list[str]:
    return [point["status"] for point in json.loads(command("status", "hand", "--json").stdout)["points"]]


def started(command: Command, starts: list[list[str]]) -> list[int]:
    """The exit codes of commands that are started at once."""
    variables = {**os.environ, **command.environment}
    hosts = [subprocess.Popen(words, cwd=command.folder, env=variables) for words in starts]
    return [host.wait(120) for host in hosts]


def test_what_is_printed_runs_on_two_hosts_and_is_reported(command: Command) -> None:
    shown = command("run", "launcher=dry", "study=hand", "nodes=2", *QUICK)
    assert shown.returncode == 0, shown.stderr
    assert command.files() == []
    _, once = shown.stdout.split("# once, in a folder that all hosts see\n")
    once, each = once.split("# on each of 2 hosts, FIRST_HOST being one of them\n")
    subprocess.run(["bash", "-euc", once], check=True)
    assert stands(command) == ["pending"]
    # two starts on this machine stand for two hosts
    starts = [["bash", "-euc", each.replace("FIRST_HOST", "127.0.0.1")]] * 2
    assert started(command, starts) == [0, 0]
    assert stands(command) == ["ok"]
    told = command("report", "hand", "--json")
    assert told.returncode == 0, told.stderr
    (point,) = json.loads(told.stdout)["points"]
    assert (point["status"], point["gpus"], point["nodes"]) == ("ok", 2, 2)
    assert point["tokens_per_s"] > 0 and point["steps"] > 0
    # nobody has stamped when the first was started and the last had ended
    assert (point["wall_s"], point["goodput_tokens_per_s"]) == (None, None)
    # what a scheduler tries again must not be mixed with what is there
    before = command.points("hand")[point["slug"]].joinpath("attempts", "0", "events.jsonl").read_bytes()
    assert 0 not in started(command, starts)
    assert command.points("hand")[point["slug"]].joinpath("attempts", "0", "events.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("ends", "status"), [((False, True), "ok"), ((True, False), "ok"), ((False, False), "pending")]
)
def test_status_and_report_say_the_same_of_what_was_started_twice(
    tmp_path: Path, ends: tuple[bool, ...], status: str
) -> None:
    config = make_config()
    attempts = [make_attempt(config, [0.1], number=number, ended=ended) for number, ended in enumerate(ends)]
    run_dir = add_point(make_study(tmp_path), config, attempts)
    (run_dir / "status.json").unlink()
    assert entry(run_dir, set())["status"] == read_point(run_dir).status["status"] == status
