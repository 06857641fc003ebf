"""The command itself: its help, and what programs read from it."""

import time
from pathlib import Path

import pytest
from study_command import Command

from harness.cli import parse
from harness.config import GROUPS
from harness.fields import walk
from harness.study.conf import CONF


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path, {})


def test_help_comes_at_once(command: Command) -> None:
    times = []
    for _ in range(3):
        start = time.monotonic()
        assert command("--help").returncode == 0
        times.append(time.monotonic() - start)
    assert min(times) < 0.5


def test_the_help_of_run_lists_every_group_option_and_key(command: Command) -> None:
    shown = command("run", "--help").stdout
    for group in (*GROUPS, "experiment"):
        [line] = [line for line in shown.splitlines() if line.startswith(f"  {group} ")]
        assert {file.stem for file in (CONF / group).glob("*.yaml")} == set(
            line.replace(" (default)", "").split(maxsplit=1)[1].split(", ")
        )
    for key, item in walk():
        assert (key == "repeat") != (f"  {key} " in shown)
        assert key == "repeat" or item.metadata["help"] in shown
    assert "steps                        int = 50" in shown
    assert "harness run -m study=" in shown


def test_a_dry_run_shows_environment_and_command_and_writes_nothing(command: Command) -> None:
    command.environment["NCCL_IB_HCA"] = "mlx5_9"
    words = ("model=8b", "parallel=fsdp", "nodes=2", "gpus_per_node=8", "hardware=h200", "nccl=ring", "launcher=dry")
    ended = command("run", *words, "nccl.ambient=clear", 'nccl.env.NCCL_SOCKET_IFNAME="^lo,docker0"')
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert "unset NCCL_IB_HCA" in lines
    assert "export NCCL_SOCKET_IFNAME='^lo,docker0'" in lines
    assert "export TORCH_NCCL_ENABLE_TIMING=1" in lines
    assert lines[-1].startswith("/") and "--nnodes=2 --nproc-per-node=8" in lines[-1]
    assert lines[-1].endswith(" --device=cuda")
    assert "16 GPUs, " in ended.stdout and "GPU-hours in all" in ended.stdout
    assert command.files() == []


@pytest.mark.parametrize("words", ["-m steps=7 nccl=default,ring", "steps=7 -m nccl=default,ring"])
def test_keys_may_stand_on_both_sides_of_an_option(words: str) -> None:
    arguments = parse(["run", *words.split()])
    assert (arguments.multirun, arguments.choices) == (True, ["steps=7", "nccl=default,ring"])


@pytest.mark.parametrize("words", ["run steps=7 -m nccl=ring --bogus", "status a b"])
def test_what_no_verb_knows_is_a_mistake(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(words.split())
    assert f"unrecognized arguments: {words.split()[-1]}\n" in capsys.readouterr().err


def test_more_ranks_than_cores_are_labelled(command: Command) -> None:
    command.environment["CUDA_VISIBLE_DEVICES"] = ""
    shown = command("run", "gpus_per_node=64", "launcher=dry").stdout
    assert "over-subscribed: 64 ranks on " in shown
    assert shown.rstrip().endswith(" --device=cpu")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("report made --port=0", "--port=0: is of --serve"),
        ("report {bundle} --root=here", "--root=here: is of a study's name, and .*/sent.tar.gz is a bundle"),
    ],
)
def test_an_option_that_would_change_nothing_is_a_mistake(tmp_path: Path, words: str, told: str) -> None:
    bundle = tmp_path / "sent.tar.gz"
    bundle.touch()
    arguments = parse(words.format(bundle=bundle).split())
    with pytest.raises(ValueError, match=f"^{told}"):
        arguments.verb(arguments)
