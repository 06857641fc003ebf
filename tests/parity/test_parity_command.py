"""`harness check-parity` as a person runs it: what it says, writes and returns."""

import json
import signal
from pathlib import Path

import pytest
from run_dirs import validator
from study_command import Command, wait_for
from toy_strategy import TOY, add_strategy, copy_source

from harness.parity.check import refusal
from harness.study.collect import collect
from harness.study.point import spread
from launch.local import markers

RECORD = Path(".bench/check-parity.json")


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path, {"TMPDIR": str(tmp_path)})


def rows(out: str) -> dict[str, str]:
    """The last column of the table by the strategy's name."""
    lines = [line for line in out.splitlines() if line.startswith("tiny-")]
    return {line.split("-")[1]: line.split(maxsplit=4)[4] for line in lines}


def test_strategies_that_train_as_one_process_does_are_equal_and_recorded(command: Command) -> None:
    ended = command("check-parity", "model=tiny", "parallel=ddp,fsdp,ep", "gpus_per_node=2")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    verdicts = rows(ended.stdout)
    assert (verdicts["ddp"], verdicts["fsdp"]) == ("equal", "equal")
    assert verdicts["ep"].startswith("invalid: ")
    record = json.loads((command.folder / RECORD).read_text())
    validator().validate(record)
    assert record["tolerance"] == {"loss": 2e-6, "norm": 1e-5}
    assert record["versions"]["torch"].startswith("2.")
    points = {point["parallel"]: point for point in record["points"]}
    assert points["ddp"]["reference"] == points["fsdp"]["reference"]
    assert points["ep"]["told"] is None and points["ep"]["reason"] in verdicts["ep"]
    for kind in ("ddp", "fsdp"):
        told, reference, apart = (points[kind][key] for key in ("told", "reference", "differences"))
        assert len(told["losses"]) == len(told["norms"]) == 5
        assert reference["losses"][0] - reference["losses"][-1] > 0.1
        pairs = zip(told["losses"], reference["losses"], strict=True)
        assert apart["loss"] == max(abs(loss - wanted) for loss, wanted in pairs) <= 2e-6
        assert 0 < apart["norm"] <= 1e-5
    assert not kept(command.folder)


def test_points_of_one_name_are_told_apart_and_a_launch_that_takes_too_long_is_ended(command: Command) -> None:
    words = "parallel=fsdp", "activation_checkpointing=none,full", "launcher.timeout_s=0.3", "gpus_per_node=2"
    ended = command("check-parity", "model=tiny", *words)
    assert ended.returncode == 1
    said = [line.split()[1] for line in ended.stdout.splitlines() if line.startswith("tiny-")]
    assert said == ["activation_checkpointing=none", "activation_checkpointing=full"]
    points = json.loads((command.folder / RECORD).read_text())["points"]
    assert [point["choices"] for point in points] == [
        {"activation_checkpointing": "none"},
        {"activation_checkpointing": "full"},
    ]
    assert ended.stdout.count("failed: in one process: still running after launcher.timeout_s=0.3") == 2
    assert not running(command)


def test_what_cannot_be_written_is_said_before_anything_trains(command: Command) -> None:
    (command.folder / ".bench").touch()
    ended = command("check-parity", "parallel=ddp", "gpus_per_node=2")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ".bench: File exists" in ended.stderr and not kept(command.folder)


OWN = {
    "toy": TOY,
    "scaled": TOY.replace("        return share", "            parameter.grad.mul_(1.001)\n        return share"),
    "broken": TOY.replace("        return share", '        raise RuntimeError("out of luck")'),
}


def test_of_strategies_of_ones_own_those_with_a_fault_are_found_out(tmp_path: Path) -> None:
    tree = copy_source(tmp_path)
    assert len({*OWN.values()}) == len(OWN)
    for name, code in OWN.items():
        add_strategy(tree, name, code)
    ended = Command(tree, {"TMPDIR": str(tmp_path)})("check-parity", f"parallel={','.join(OWN)}", "gpus_per_node=2")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    verdicts = rows(ended.stdout)
    assert (verdicts["toy"], verdicts["scaled"]) == ("equal", "differs")
    assert verdicts["broken"].startswith("failed: rank ") and "out of luck" in verdicts["broken"]
    record = json.loads((tree / RECORD).read_text())
    validator().validate(record)
    points = {point["parallel"]: point for point in record["points"]}
    assert points["scaled"]["differences"]["norm"] == pytest.approx(1e-3, rel=0.05)
    assert points["broken"]["told"] is None
    [logs] = kept(tmp_path)
    assert f"logs of all processes: {logs}\n" in ended.stdout
    assert any("out of luck" in path.read_text() for path in logs.rglob("stderr.log"))


def test_ctrl_c_ends_everything_that_was_started(command: Command) -> None:
    process = command.start("check-parity", "parallel=ddp", "gpus_per_node=2", "steps=100000")
    wait_for(lambda: running(command))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not running(command)
    assert not kept(command.folder) and not (command.folder / RECORD).exists()


def kept(folder: Path) -> list[Path]:
    """The folders of checks that are left."""
    return list(folder.glob("harness-check-parity-*"))


def running(command: Command) -> list[str]:
    """Markers of processes that the command has started and that live."""
    return [marker for marker in markers() if marker.startswith(str(command.folder))]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("precision=bf16", "precision.compute=bf16: rounds far above the tolerance"),
        ("optimizer.state=bf16", "optimizer.state=bf16: rounds far above the tolerance"),
        ("data=synthetic", "data.kind=synthetic: ranks draw their own ids"),
        ("launcher=dry", "launcher=dry: parity is seen by training"),
        ("workload=collectives", "workload.kind=collectives: has no effect in a check of parity"),
        ("nodes=2", "nodes=2: launcher=local starts processes on this machine only"),
        ("paralel=tp", "did you mean 'parallel'?"),
        ("seq_len=0,-1", "seq_len=0: must be at least 1; seq_len=-1: must be at least 1"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_starts(command: Command, words: str, sentence: str) -> None:
    ended = command("check-parity", *words.split())
    assert (ended.returncode, ended.stdout) == (2, "")
    [line] = ended.stderr.splitlines()
    assert line.startswith("harness: ") and sentence in line
    assert command.files() == []


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ("workload.op=all_reduce", "workload.op=all_reduce"),
        ("faults=kill", "faults.kind=kill"),
        ("profile=torch", "profile.kind=torch"),
        ("checkpoint=steps checkpoint.every=2", "checkpoint.kind=steps"),
        ("record.wandb=online", "record.wandb=online"),
        ("watchdog.step_s=10", "watchdog.step_s=10.0"),
        ("launcher.numa=node", "launcher.numa=node"),
        ("launcher.timeout_s=10", None),
    ],
)
def test_what_a_check_would_not_heed_is_refused(words: str, refused: str | None) -> None:
    [point] = spread(collect(["precision=fp32", *words.split()], False, lambda: 0))
    assert refusal(point.config) == (refused and f"{refused}: has no effect in a check of parity; leave it out")


def test_help_tells_defaults_and_every_key(command: Command) -> None:
    shown = command("check-parity", "--help").stdout
    assert "seq_len=128 local_batch=2" in shown
    assert "  parallel.schedule " in shown
