"""The script of a job as bash runs it, and the options that depend on what a job is for."""

import shlex
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import plan_configs
import pytest
from study_command import Command

from harness.config import Hardware, Launcher
from harness.study import batch
from harness.study.batch import job_of
from harness.study.point import Point
from launch import sbatch
from launch.environment import SOURCE

STUB = """\
#!/bin/bash
env -0 > "$FOUND/environment"
printf '%s\\0' "$@" > "$FOUND/words"
echo $$ > "$FOUND/process"
pwd > "$FOUND/folder"
"""
HOSTILE = [
    "=mlx5_0:1,mlx5_1:1",
    "^lo,docker0",
    "/a path/of two words",
    "it's",
    'say "no"',
    "$(touch pwned)",
    "x; touch pwned",
    "`touch pwned`",
    "' ; touch pwned #",
    "back\\slash",
    "~/x:~/y",
    "*?[a-z]{1,2}!!",
    "%n ${HOME}",
    "-n",
    "",
]


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a stub of python leaves what it was given; the working directory is another."""
    (tmp_path / "python").write_text(STUB)
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("FOUND", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(sbatch, "SITE", tmp_path / "site.sh")
    return tmp_path


def run(script: str, found: Path) -> int:
    """Run a script with bash; the process that it was."""
    (found / "job.sh").write_text(script)
    process = subprocess.Popen(["bash", str(found / "job.sh")], cwd="/")
    assert process.wait(20) == 0
    return process.pid


def environment(found: Path) -> dict[str, str]:
    entries = (found / "environment").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)


def words(found: Path) -> list[str]:
    return (found / "words").read_text().split("\0")[:-1]


@pytest.mark.parametrize("value", [value for value in HOSTILE if value and "/" not in value])
def test_a_hostile_folder_is_only_a_folder(found: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    here = found / "work" / f"in {value}"
    here.mkdir()
    monkeypatch.chdir(here)
    run(sbatch.script(here / "points" / "slug"), found)
    assert words(found) == ["-m", sbatch.JOB, str(here / "points" / "slug")]
    assert (found / "folder").read_text() == f"{here}\n"
    assert not list(found.rglob("pwned"))


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_option_is_one_word_of_sbatch(found: Path, value: str) -> None:
    chosen = Launcher("sbatch", "sbatch", account=value, partition=value, signal_lead_s=60)
    shown = sbatch.command(found / "job.sh", sbatch.options(asdict(chosen), "slug", 1, 1, True, found), None)
    run(f"exec {shlex.quote(sys.executable)} {shlex.join(shown)}", found)
    assert words(found) == shown
    assert not value or {f"--account={value}", f"--partition={value}"} <= set(shown)
    assert not list(found.rglob("pwned"))


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "\n#SBATCH --nodes=99"])
def test_a_line_break_is_refused_in_one_sentence(found: Path, value: str) -> None:
    with pytest.raises(ValueError, match=r"^launcher\.account=.*: must be without line breaks and NUL") as refused:
        sbatch.options(asdict(Launcher("sbatch", "sbatch", account=value)), "slug", 1, 1, True, found)
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match=r"^root="):
        sbatch.script(found / value)


def test_no_secret_is_in_a_script(found: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "verysecret1")
    assert "verysecret" not in sbatch.script(found)


def test_the_batch_shell_becomes_the_controller_so_that_a_signal_reaches_it(found: Path) -> None:
    process = run(sbatch.script(found), found)
    assert (found / "process").read_text() == f"{process}\n"


def test_a_sites_own_script_comes_first(found: Path) -> None:
    (found / "site.sh").write_text("export SITE=loaded\n")
    run(sbatch.script(found), found)
    assert environment(found)["SITE"] == "loaded"


def test_a_sites_script_that_fails_ends_the_job(found: Path) -> None:
    (found / "site.sh").write_text("module-that-is-not load cuda\n")
    (found / "job.sh").write_text(sbatch.script(found))
    assert subprocess.run(["bash", str(found / "job.sh")], capture_output=True, timeout=20).returncode != 0
    assert not (found / "words").exists()


def test_a_percent_sign_of_a_folder_is_no_pattern_of_slurms() -> None:
    options = sbatch.options(asdict(Launcher("sbatch", "sbatch")), "slug", 1, 1, True, Path("/50%n/slug"))
    assert "--output=/50%%n/slug/job-%j.log" in options


@pytest.mark.parametrize(
    ("hardware", "cuda", "gres", "asked"),
    [
        ("auto", True, None, ["--gpus-per-node=4"]),
        ("auto", True, "gpu:a100:4", ["--gres=gpu:a100:4"]),
        ("auto", False, None, []),
        ("auto", False, "gpu:a100:4", ["--gres=gpu:a100:4"]),
        ("h100_sxm", False, None, ["--gpus-per-node=4"]),
        ("h100_sxm", False, "gpu:h100:4", ["--gres=gpu:h100:4"]),
    ],
)
def test_a_job_asks_for_gpus_where_its_ranks_use_some(
    monkeypatch: pytest.MonkeyPatch, hardware: str, cuda: bool, gres: str | None, asked: list[str]
) -> None:
    monkeypatch.setattr(batch, "torch_has_cuda", lambda: cuda)
    config = plan_configs.config(gpus_per_node=4, launcher=Launcher("sbatch", "sbatch", gres=gres))
    options = job_of(Point(replace(config, hardware=Hardware(hardware)))).options
    assert [word for word in options if word.startswith(("--gpus", "--gres"))] == asked


def test_a_dry_run_shows_each_points_job_and_ranks(tmp_path: Path) -> None:
    given = {"PYTHONPATH": str(SOURCE), "NCCL_IB_HCA": "mlx5_9", "WANDB_API_KEY": "verysecret"}
    command = Command(tmp_path, given)
    job = ("launcher=dry", "launcher.kind=sbatch", "nodes=64", "gpus_per_node=8", "hardware=h100_sxm")
    ended = command("run", *job, "model=8b", "parallel=fsdp", 'nccl.env.NCCL_SOCKET_IFNAME="^lo,docker0"')
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    submission = shlex.split(next(line for line in lines if line.startswith("sbatch ")))
    assert {"--nodes=64", "--gpus-per-node=8", "--exclusive"} <= set(submission)
    run_dir = Path(submission[-1]).parent
    assert lines.count("#!/bin/bash") == 1
    assert f"exec {sys.executable} -m harness.study.job {run_dir}" in lines
    assert lines.count("export NCCL_SOCKET_IFNAME='^lo,docker0'") == 1
    assert "export NCCL_IB_HCA=mlx5_9" in lines
    ranks = shlex.split(lines[-1])
    hosts = ",".join(f"HOST_{number}" for number in range(64))
    assert ranks[:3] == ["srun", "--nodes=64", f"--nodelist={hosts}"]
    assert {"ADDRESS_0", "--nnodes=64", "--nproc-per-node=8", "--device=cuda"} <= set(ranks)
    assert "verysecret" not in ended.stdout
    assert command.files() == []


def test_a_dry_run_of_a_sweep_shows_every_job_and_one_of_srun_none(tmp_path: Path) -> None:
    sweep = ("-m", "launcher=dry", "nodes=1,2,4", "hardware=h100_sxm", "gpus_per_node=8", "model=8b", "parallel=fsdp")
    command = Command(tmp_path, {"PYTHONPATH": str(SOURCE)})
    jobs = command("run", *sweep, "launcher.kind=sbatch").stdout.splitlines()
    steps = command("run", *sweep, "launcher.kind=srun").stdout.splitlines()
    assert sum(line.startswith("sbatch ") for line in jobs) == 3
    assert not any(line.startswith(("sbatch ", "#")) for line in steps)
    ranks = [line for line in steps if line.startswith("srun ")]
    assert [line for line in jobs if line.startswith("srun ")] == ranks
    assert len(ranks) == 3
