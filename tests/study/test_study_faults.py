"""Points with faults, from the command line to the reason that a person reads: real ranks, real failures."""

import json
from pathlib import Path

import pytest
from study_command import QUICK, Command

LIMIT_S = 12.0
HANG = Path(__file__).parents[2] / "harness" / "training" / "faults.py"


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path, {})


def test_a_hang_is_told_with_rank_group_operation_and_line_in_time(command: Command) -> None:
    asked = ("faults=hang", "faults.step=4", "faults.rank=1", f"watchdog.step_s={LIMIT_S}")
    ended = command("run", "gpus_per_node=2", "parallel=fsdp", *asked, *QUICK)
    assert ended.returncode == 1
    [(slug, status)] = command.status().items()
    line = HANG.read_text().splitlines().index("        time.sleep(3600)") + 1
    assert (status["status"], status["rank"]) == ("comm_error", 1)
    operation, said = status["reason"].removeprefix("rank 1 did not join ").split(" of dp ")
    assert operation.split()[0] == "all_gather" and operation.split()[1].isdigit()
    assert said == f"(2 ranks) within 12 s, in step 4; it stood in harness/training/faults.py:{line} hang"
    assert status["reason"] in ended.stdout
    attempt = command.points()[slug] / "attempts" / "0"
    began = json.loads((attempt / "faults.jsonl").read_text())["time"]
    assert json.loads((attempt / "launch.json").read_text())["end"] - began < 1.5 * LIMIT_S


def test_ends_by_a_fault_are_told_for_what_they_are_and_the_study_goes_on(command: Command) -> None:
    words = ("gpus_per_node=2", "faults=nan,oom,disk_full", "faults.step=5", *QUICK)
    ended = command("run", "-m", *words)
    assert ended.returncode == 1
    told = {
        json.loads((path / "attempts/0/faults.jsonl").read_text())["fault"]: path for path in command.points().values()
    }
    found = {fault: json.loads((path / "status.json").read_text()) for fault, path in told.items()}
    assert {fault: status["status"] for fault, status in found.items()} == {
        "nan": "diverged",
        "oom": "oom",
        "disk_full": "failed",
    }
    assert "Diverged: the loss is nan at step 5; try a lower optimizer.lr" in found["nan"]["reason"]
    assert "you tried to allocate 1152921504606846976 bytes" in found["oom"]["reason"]
    assert "; it had held up to 0." in found["oom"]["reason"]
    assert found["oom"]["reason"].endswith(" would help")
    assert "File too large" in found["disk_full"]["reason"]
    steps = [json.loads(line) for line in (told["nan"] / "attempts/0/events.jsonl").read_text().splitlines()]
    assert [record["step"] for record in steps if record["kind"] == "step"] == [1, 2, 3, 4, 5]


def test_a_mistake_about_a_fault_starts_nothing(command: Command) -> None:
    ended = command("run", "gpus_per_node=2", "faults=kill", "faults.rank=2", *QUICK)
    assert (ended.returncode, ended.stderr) == (
        2,
        "harness: faults.rank=2: must be a rank of this point; its 2 ranks are 0 to 1\n",
    )
    assert not (command.folder / "studies").exists()
