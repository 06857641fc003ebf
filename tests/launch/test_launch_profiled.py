"""Ranks in a profiler that is a program of its own.

There is no nsys and no ncu on this machine: `stand_in` puts a script of that name on the PATH, which notes the words
it was given and then runs, as they do, the program in them.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import plan_configs
import pytest

from harness.config import Launcher, Profile
from harness.study import planning, preflight
from harness.study.command import commanded
from harness.study.point import Point
from launch.allocation import Host
from launch.devices import Gpu, Machine
from launch.environment import SOURCE
from launch.launchers import Local
from launch.probe import Seen
from launch.profiled import Tool

H200 = Machine((Gpu("NVIDIA H200", 2**37),) * 2, "570.1", 16, 2**37)
CPUS = Machine((), None, 16, 2**37)

STAND_IN = """\
#!{python}
import json, os, pathlib, sys
words = sys.argv[1:]
start = words.index({python!r})
pathlib.Path({folder!r}, "noted." + os.environ["RANK"]).write_text(json.dumps([sys.argv[0], *words]))
os.execv(words[start], words[start:])
"""

WORKER = """\
import json, os, pathlib, sys
pathlib.Path({folder!r}, "worker." + os.environ["RANK"]).write_text(json.dumps([sys.argv[1:], os.environ["FRUIT"]]))
sys.exit(int(os.environ["RANK"]))
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A folder with scripts in the place of nsys and ncu, and a module `pretend` in the place of the worker."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("nsys", "ncu"):
        (tools / name).write_text(STAND_IN.format(python=sys.executable, folder=str(tmp_path)))
        (tools / name).chmod(0o755)
    (tmp_path / "pretend.py").write_text(WORKER.format(folder=str(tmp_path)))
    return tools


def run(program: list[str], rank: int, folder: Path, tools: Path | None) -> subprocess.CompletedProcess[str]:
    """What torchrun does on a rank with `-m` and the program's words."""
    path = os.pathsep.join(["/usr/bin", "/bin", *([str(tools)] if tools else [])])
    variables = {"PATH": path, "PYTHONPATH": f"{SOURCE}{os.pathsep}{folder}", "RANK": str(rank), "FRUIT": "a 'pear'"}
    return subprocess.run([sys.executable, "-m", *program], env=variables, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["nsys", "ncu"])
def test_only_chosen_ranks_run_in_the_tool_and_all_become_the_worker(tmp_path: Path, stand_in: Path, name: str) -> None:
    folder = tmp_path / "a run of 99%p" / "profile"
    tool = Tool(name, (0, 2), folder, "gemm|it's (odd)", 3)
    program = tool.around(["pretend", "/run dir", "--attempt=0", "--device=cuda"])
    codes = [run(program, rank, tmp_path, stand_in).returncode for rank in range(3)]
    assert codes == [0, 1, 2], "the worker's own"
    for rank in range(3):
        assert json.loads((tmp_path / f"worker.{rank}").read_text()) == [
            ["/run dir", "--attempt=0", "--device=cuda"],
            "a 'pear'",
        ]
    assert not (tmp_path / "noted.1").exists()
    report = str(folder).replace("%", "%%")
    own = [sys.executable, "-m", "pretend", "/run dir", "--attempt=0", "--device=cuda"]
    for rank in (0, 2):
        words = json.loads((tmp_path / f"noted.{rank}").read_text())
        assert words[0].endswith(f"/{name}")
        assert words[1:] == [
            *{
                "nsys": [
                    "profile",
                    "--capture-range=cudaProfilerApi",
                    "--capture-range-end=stop",
                    "--kill=none",
                    "--trace=cuda,nvtx",
                    "--sample=none",
                    "--cpuctxsw=none",
                    f"--output={report}/rank{rank}",
                ],
                "ncu": [
                    "--profile-from-start=off",
                    "--target-processes=all",
                    "--kernel-name-base=demangled",
                    "--kernel-name=regex:gemm|it's (odd)",
                    "--launch-count=3",
                    "--clock-control=none",
                    f"--export={report}/rank{rank}",
                ],
            }[name],
            *own,
        ]
    assert folder.is_dir(), "the tools make no folder"


def test_a_rank_without_the_tool_says_on_which_host_it_is_missing(tmp_path: Path, stand_in: Path) -> None:
    program = Tool("nsys", (0,), tmp_path / "profile", "", 1).around(["pretend"])
    ended = run(program, 0, tmp_path, None)
    assert ended.returncode == 1
    assert ended.stderr == f"{os.uname().nodename}: there is no nsys on the PATH of rank 0\n"


def asked(tmp_path: Path, kind: str, **chosen: object) -> Point:
    profile = Profile(kind, kind, **chosen)  # type: ignore[arg-type]
    return Point(plan_configs.config(gpus_per_node=2, root=str(tmp_path), profile=profile))


def test_torchrun_starts_the_worker_or_what_becomes_it(tmp_path: Path) -> None:
    words = {}
    for kind in ("none", "torch", "nsys", "ncu"):
        planned = planning.Planned(asked(tmp_path, kind), None)
        _, command = commanded(planned, 0, H200, Local())
        words[kind] = command[command.index("-m", 2) + 1 :]
    run_dir = str(asked(tmp_path, "none").run_dir)
    worker = ["harness.worker", run_dir, "--attempt=0", "--device=cuda"]
    assert words["none"] == words["torch"] == worker
    folder = f"{run_dir}/attempts/0/profile"
    assert words["nsys"] == ["launch.profiled", "nsys", "0", folder, *worker]
    kernels = ["--kernels=gemm|nvjet|cutlass|flash|sdpa|triton", "--launches=20"]
    assert words["ncu"] == ["launch.profiled", *kernels, "ncu", "0", folder, *worker]


def test_a_tool_that_is_missing_is_named_before_anything_starts(
    tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = asked(tmp_path, "nsys")
    monkeypatch.setenv("PATH", "/usr/bin")
    missing = planning.planned(point, H200, 1).impossible
    assert missing is not None
    assert missing.startswith("profile=nsys: there is no nsys on the PATH of this machine; add the folder that has it")
    monkeypatch.setenv("PATH", str(stand_in))
    assert planning.planned(point, H200, 1).impossible is None
    refused = planning.planned(point, CPUS, 1).impossible
    assert refused == "profile=nsys: looks at CUDA kernels, and these ranks are CPU processes; say profile=torch"


def test_a_host_of_an_allocation_that_lacks_the_tool_is_named_where_its_ranks_want_it(tmp_path: Path) -> None:
    hosts = [Host("n0", "10.0.0.0"), Host("n1", "10.0.0.1")]
    seen = [Seen(0, 0.0, H200, True, ("ncu",)), Seen(1, 0.0, H200, True, ("ncu", "nsys"))]

    def look(kind: str, ranks: object, image: str | None = None) -> None:
        config = asked(tmp_path, kind, ranks=ranks).config
        away = Launcher("srun", "srun", container_image=image)
        preflight.check_profilers([Point(replace(config, nodes=2, launcher=away))], hosts, seen)

    look("ncu", "all")
    look("nsys", [2, 3])
    look("nsys", "0", image="nvcr.io#nvidia/pytorch:25.06-py3")
    with pytest.raises(ValueError, match="profile=nsys: there is no nsys on the PATH of n0"):
        look("nsys", "1-2")
