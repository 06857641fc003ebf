"""The command itself: its help, and what programs read from it."""

import json
import os
import tempfile
import time
from pathlib import Path

import pytest
from run_dirs import demo_study, validator
from study_command import Command

from harness.cli import joined, parse
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


@pytest.mark.parametrize(("kept", "warned"), [("1", True), ("", False)])
def test_python_that_is_compiled_at_every_start_is_warned_of(
    command: Command, tmp_path: Path, kept: str, warned: bool
) -> None:
    command.environment |= {"PYTHONDONTWRITEBYTECODE": kept, "PYTHONPYCACHEPREFIX": str(tmp_path / "nothing")}
    shown = command("run", "launcher=dry").stdout
    assert ("warning: PYTHONDONTWRITEBYTECODE is set" in shown) == warned


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


def told(*words: str) -> str:
    """The sentence with which a verb refuses."""
    arguments = parse(list(words))
    with pytest.raises(ValueError) as raised:
        arguments.verb(arguments)
    return str(raised.value)


@pytest.mark.parametrize("verb", ["status", "report", "watch", "publish wandb", "publish bundle", "compare made"])
def test_what_is_there_and_no_study_is_said_to_be_that(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    demo_study(tmp_path)
    (tmp_path / "studies" / "empty").mkdir(parents=True)
    for name, path in (("empty", "studies/empty"), (".", "."), (str(tmp_path), str(tmp_path))):
        said = f"{path}: has no study.json, so it is no study; give the folder of one, or its name"
        assert told(*verb.split(), name) == said
    assert told(*verb.split(), "nothing").startswith("nothing: no study of that name")


@pytest.mark.parametrize(
    "words", ["watch b.tar.gz", "status b.tar.gz", "report b.tar.gz --serve", "publish wandb b.tar.gz"]
)
def test_a_bundle_where_none_is_taken_is_said_to_be_a_file(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.tar.gz").write_bytes(b"x")
    assert told(*words.split()) == "b.tar.gz: is a file, and a study's folder is needed here; tar -xzf unpacks a bundle"


def test_where_a_bundle_cannot_be_written_the_file_is_named(tmp_path: Path) -> None:
    study = demo_study(tmp_path)
    words = ("publish", "bundle", str(study), "--output")
    assert told(*words, str(tmp_path)) == f"{tmp_path}: is a folder; give the archive's file with --output=FILE"
    gone = tmp_path / "gone" / "b.tar.gz"
    assert told(*words, str(gone)) == f"{gone}: cannot be written, for there is no folder {gone.parent}"
    assert told(*words, "/proc/b.tar.gz").startswith("/proc/b.tar.gz: cannot be written")
    assert told("report", "/etc/passwd") == "/etc/passwd: is no whole bundle (it is no .tar.gz)"


def test_what_join_names_is_taken_together(tmp_path: Path) -> None:
    words = ["report", "made", "--join=nccl_version, nccl_ambient", "--join=torch"]
    assert joined(parse(words)) == ["nccl_version", "nccl_ambient", "torch"]
    assert joined(parse(words[:2])) == []
    study = str(demo_study(tmp_path))
    assert told("report", study, "--join=").startswith("--join=: names no field")
    assert told("report", study, "--join=torch").startswith("--join=torch: keeps no ok points of made apart")


def test_a_study_that_nobody_may_write_to_is_printed_and_left_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        study = demo_study(Path(folder))
        for path in (study, study.parent):
            path.chmod(0o555)
        mine = os.geteuid()
        try:
            os.seteuid(mine or 65534)  # root may write anywhere
            before = sorted(study.rglob("*"))
            arguments = parse(["report", str(study), "--json"])
            assert arguments.verb(arguments) == 0
            assert sorted(study.rglob("*")) == before
            assert "Permission denied); --json prints the report" in told("report", str(study))
        finally:
            os.seteuid(mine)
            for path in (study, study.parent):
                path.chmod(0o755)
    document = json.loads(capsys.readouterr().out)
    validator().validate(document)
    assert (len(document["points"]), document["paths"]) == (4, {})
